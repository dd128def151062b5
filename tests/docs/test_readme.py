"""The README's commands run as they stand, and its section for GPU results can be filled in."""

from __future__ import annotations

import gzip
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from support.commands import run_line
from support.tiny import planted_rows, write_task

from benchmarks.gpu.readme_results import BEGIN, END, with_results
from nucel.genome import demo

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_continuous_integration_runs_the_readme_s_test_command():
    (command,) = re.findall(r"## Test\n\n```sh\n(.*)\n```", README)
    assert command in (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")


def test_results_of_a_gpu_round_replace_those_before(tmp_path):
    for rows in ("first", "second"):
        (tmp_path / "attention.md").write_text(f"| {rows} |\n")
        text = with_results(README, tmp_path)
        assert with_results(text, tmp_path) == text
        assert f"| {rows} |" in text.split(BEGIN)[1].split(END)[0]
        assert text.split(BEGIN)[0] == README.split(BEGIN)[0] and text.split(END)[1] == README.split(END)[1]
    assert "| first |" not in text


def test_an_empty_results_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="run benchmarks/gpu/round"):
        with_results(README, tmp_path)


# ---- the way from a FASTA to a classifier ----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_way_from_a_fasta_to_a_classifier_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    demo.write_demo_genome(Path("demo.fa"))
    Path("ecoli.fa.gz").write_bytes(gzip.compress(Path("demo.fa").read_bytes()))
    write_task(Path("."), train=40, dev=10, test=20)
    Path("genes.fa").write_text("".join(f">gene{i}\n{text}\n" for i, (text, _) in enumerate(planted_rows(5, 3))))

    section = README.split("## Use")[1].split("## Test")[0]
    shell, python, transformers = re.findall(r"```(?:sh|python)\n(.*?)```", section, flags=re.DOTALL)
    for line in shell.splitlines():
        run_line(line)
    assert np.load("genes.npz")["embeddings"].shape == (5, 32)
    assert len(Path("genes.tsv").read_text().splitlines()) == 6

    names: dict[str, object] = {}
    exec(python, names)
    shapes = {name: names[name].shape for name in ("vectors", "each_base", "attention")}
    assert shapes == {"vectors": (2, 32), "each_base": (8, 32), "attention": (1, 9, 9)}
    for name, shape in shapes.items():
        (comment,) = re.findall(rf"^{name} = .*# \((.*)\)$", python, flags=re.MULTILINE)
        assert tuple(eval(f"({comment},)", {"width": 32, "heads": 1})) == shape
    if importlib.util.find_spec("transformers"):
        exec(transformers, names)
        assert names["classifier"].config.id2label == {0: "0", 1: "1"}
    assert len(shell.splitlines()) + len(python.splitlines()) <= 12
