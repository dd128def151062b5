"""The scripts of examples/ run as they stand, and show what their docstrings say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def output_of(script: str, folder: Path) -> str:
    """What a script prints on stdout; it imports the package that the tests import."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run(
        [sys.executable, REPOSITORY / "examples" / script, folder],
        check=True, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True,
    ).stdout  # fmt: skip


@pytest.mark.slow
def test_pretrain_and_embed_tells_islands_from_background(tmp_path):
    output = output_of("pretrain_and_embed.py", tmp_path)
    assert "embeddings (8, 128)" in output
    alike, unlike = (float(value) for value in re.findall(r"cosine similarity.*: (-?[\d.]+)", output))
    assert alike > 0.5 > unlike
    assert (tmp_path / "run" / "discriminator" / "model.safetensors").exists()


@pytest.mark.slow
def test_finetune_csv_learns_the_motif(tmp_path):
    pytest.importorskip("sklearn")
    output = output_of("finetune_csv.py", tmp_path)
    ((correct, rows),) = re.findall(r"test table: (\d+) of (\d+) correct", output)
    assert int(rows) == 100 and int(correct) > 75
    assert len((tmp_path / "new.tsv").read_text().splitlines()) == 6


@pytest.mark.slow
def test_score_variants_scores_a_file_and_a_region(tmp_path):
    output = output_of("score_variants.py", tmp_path)
    assert len(re.findall(r"^\w+: 60 variants, median -?[\d.]+", output, flags=re.MULTILINE)) == 3
    ((motif, rows),) = re.findall(r"all variants of (\w+): \((\d+), 4\)", output)
    assert len(motif) == int(rows)
    assert len((tmp_path / "scored.tsv").read_text().splitlines()) == 61


@pytest.mark.slow
def test_probe_csv_prints_every_control(tmp_path):
    pytest.importorskip("sklearn")
    output = output_of("probe_csv.py", tmp_path)
    found = dict(re.findall(r"^\w+(?: class)? on ([\w -]+): test MCC (-?[\d.]+)", output, flags=re.MULTILINE))
    assert list(found) == ["model", "untrained", "one-hot", "dinucleotides", "1- to 6-mers", "constant guess"]
    assert float(found["constant guess"]) == 0 and "class probabilities of the motif alone: [" in output


@pytest.mark.slow
def test_interpret_model_finds_the_motif(tmp_path):
    for library in ("sklearn", "matplotlib", "logomaker"):
        pytest.importorskip(library)
    output = output_of("interpret_model.py", tmp_path)
    assert int(re.search(r"of the 12 bases with the highest values, (\d+) are in the motif", output)[1]) > 6  # most
    effects = dict(re.findall(r"^([ACGT]+): (-?[\d.]+) ", output, flags=re.MULTILINE))
    motif, *others = (float(effects[name]) for name in ("TTGACATATAAT", "TTGACA", "TAATATACAGTT"))
    assert motif > 2 and max(others) < motif / 2
    assert (tmp_path / "logos.svg").exists() and (tmp_path / "importance.svg").exists()


def test_every_example_is_tested():
    tested = set(re.findall(r'output_of\("(\w+\.py)"', Path(__file__).read_text(encoding="utf-8")))
    assert tested == {path.name for path in REPOSITORY.glob("examples/*.py")}
