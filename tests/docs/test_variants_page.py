"""docs/variants.md: its commands and its Python run as they stand; its tables name what there is."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from support.pair import save_pair, tiny_pair
from support.variants import other_base, random_bases, substitutions, write_fasta, write_variant_table, write_vcf

from nucel.genome.variants import STATUSES
from nucel.interpretation.variant_options import ScoreOptions
from nucel.interpretation.variant_scores import NEEDS
from nucel.score import ScoreConfig, main
from nucel.suites.variant_report import EvaluationOptions

PAGE = (Path(__file__).parents[2] / "docs" / "variants.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def flags() -> set[str]:
    prefixes = {ScoreConfig: "", ScoreOptions: "", EvaluationOptions: "evaluation."}
    names = {f"--{p}{f.name}".replace("_", "-") for kind, p in prefixes.items() for f in dataclasses.fields(kind)}
    return names | {"--dtype", "--device", "--evaluation.no-untrained"}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """What the page's commands read, by the names that they use."""
    pysam = pytest.importorskip("pysam")
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    bases = random_bases(400, 51)
    bases = bases[:99] + "A" + bases[100:]
    write_fasta(tmp_path / "genome.fa", {"chr1": bases})
    save_pair(tmp_path / "runs" / "human", tiny_pair(64))
    variants = substitutions({"chr1": bases}, 12)
    write_vcf(tmp_path / "v.vcf", variants)
    pysam.tabix_compress("v.vcf", "variants.vcf.gz")
    write_variant_table(tmp_path / "variants.tsv", variants)
    effects, labels = (["chrom\tpos\tref\talt\t" + name] for name in ("Coefficient", "label"))
    rng = np.random.default_rng(0)
    for i in range(100, 130):
        line = f"chr1\t{i + 1}\t{bases[i]}\t{other_base(bases[i])}\t"
        effects.append(f"{line}{rng.normal():.3f}")
        labels.append(f"{line}{i % 2}")
    Path("effects.tsv").write_text("\n".join(effects) + "\n")
    Path("labels.tsv").write_text("\n".join(labels) + "\n")
    return tmp_path


def test_commands_run_as_they_stand(files, capsys):
    lines = commands()
    assert len(lines) == 5
    for words in lines:
        assert words[:3] == ["python", "-m", "nucel.score"] and main(words[3:]) == 0, capsys.readouterr().err
        assert Path(words[words.index("--out") + 1]).exists()
    for name in ("region.png", "judged.tsv.evaluation.md", "ranked.tsv.evaluation.tsv", "scored.tsv.json"):
        assert Path(name).exists()


def test_python_runs_as_it_stands(files):
    (python,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(python, names)
    assert names["rtd"].shape == (2,) and np.isfinite(names["rtd"][0])
    assert names["scored"].status == ["ok", "indel"]
    assert names["matrix"].shape == (60, 4)


def test_the_tables_name_every_score_and_every_status():
    assert set(re.findall(r"^\| `(\w+)` \| ", PAGE, flags=re.MULTILINE)) == set(NEEDS)
    odd = PAGE.split("## Odd records")[1].split("## ")[0]
    assert set(re.findall(r"\| `(\w+)` \|$", odd, flags=re.MULTILINE)) == set(STATUSES)


def test_flags_exist():
    named = set(re.findall(r"(--[a-z][a-z.-]*)", PAGE)) - {"--objective", "--standalone", "--nproc-per-node"}
    assert len(named) > 15 and {flag.replace("--no-", "--") for flag in named} <= flags()
