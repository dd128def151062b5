"""The ladder of budgets: its runs, its table, and that nothing is trained twice."""

import gzip
import sys

import numpy as np
import pytest

from benchmarks.experiments import ladder


@pytest.mark.slow
def test_a_small_ladder(tmp_path, monkeypatch, capsys):
    (tmp_path / "data" / "genomes").mkdir(parents=True)
    bases = np.random.default_rng(0).choice(list("ACGT"), 60_000)
    fasta = tmp_path / "data" / "genomes" / "ecoli_K12_MG1655.fa.gz"
    fasta.write_bytes(gzip.compress(f">chromosome\n{''.join(bases)}\n".encode()))
    monkeypatch.setattr(ladder, "JUDGED_BASES", 100)
    words = [str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--arms", "uniform", "mlm"]
    words += ["--mega-tokens", "0.008", "--", "--validation-windows", "8"]
    words += ["--model.discriminator.layers", "1", "--model.generator.layers", "1"]
    monkeypatch.setattr(sys, "argv", ["ladder", *words])
    ladder.main()
    first = (tmp_path / "out" / "ladder.md").read_text()
    uniform, mlm, markov = first.splitlines()[-3:]
    assert uniform.startswith("| ecoli | uniform | 0.008 | 0 | ")
    assert "--model.temperature 1000" in uniform and "--steps 1 " in uniform
    assert "--objective mlm" in mlm and "Markov chain, order" in markov
    assert 0.5 < float(uniform.split("|")[6]) < 4  # one step from new weights
    assert not [path for path in fasta.parent.iterdir() if path != fasta]

    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("summary.json")}
    assert len(stamps) == 2
    ladder.main()
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert (tmp_path / "out" / "ladder.md").read_text() == first


def test_training_sequences_of_gue_are_written_once(tmp_path):
    for task in ("tf/0", "tf/1"):
        folder = tmp_path / "gue" / task
        folder.mkdir(parents=True)
        (folder / "train.csv").write_text("sequence,label\nACGT,0\nGGCC,1\n")
        (folder / "test.csv").write_text("sequence,label\nTTTT,0\n")
    ladder.write_gue(tmp_path / "gue", tmp_path / "gue.fa")
    assert (tmp_path / "gue.fa").read_text() == ">0\nACGT\n>1\nGGCC\n"
