"""`python -m nucel.score` that dies and goes on, and on two ranks: the same file as from one undisturbed process."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from support.pair import save_pair, tiny_pair
from support.variants import random_bases, substitutions, write_fasta, write_vcf

import nucel.score
from nucel.interpretation.variant_effect import Scored, Scorer

CONTIGS = {"chr1": random_bases(300, 21), "chr2": random_bases(90, 22)}
VARIANTS = substitutions(CONTIGS, 12)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("input")
    model = save_pair(folder / "run", tiny_pair(64))
    genome = write_fasta(folder / "g.fa", CONTIGS)
    return [str(model), str(write_vcf(folder / "v.vcf", VARIANTS)), "--genome", str(genome), "--scores", "llr", "rtd"]


@pytest.fixture
def score(words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(nucel.score, "CHUNK", 5)

    def call(out: str, *more: str):
        status = nucel.score.main([*words, "--out", str(tmp_path / out), *more])
        return status, capsys.readouterr().err, tmp_path / out

    return call


def table(path) -> list[str]:
    """Without what names the command."""
    return [line for line in path.read_text().splitlines() if not line.startswith("##nucel")]


def test_scoring_that_died_goes_on(score, tmp_path, monkeypatch):
    whole = score("whole.vcf")[2]
    calls = []
    original = Scorer.score

    def dies(self, variants):
        calls.append(variants)
        if len(calls) == 3:
            raise OSError("the disk is gone")
        return original(self, variants)

    monkeypatch.setattr(Scorer, "score", dies)
    status, stderr, out = score("x.vcf")
    assert status == 2 and "the disk is gone" in stderr and not out.exists()
    parts = tmp_path / "x.vcf.parts"
    assert len(list(parts.glob("*.npz"))) == 2
    status, stderr, _ = score("x.vcf", "--context", "32")
    assert status == 2 and "is of another score:\n" in stderr and "context: the run has None, given is 32" in stderr
    before = len(calls)
    status, _, out = score("x.vcf")
    assert status == 0 and not parts.exists()
    assert len(calls) - before == -(-len(VARIANTS) // 5) - 2
    assert table(out) == table(whole)


def test_parts_of_another_file_of_variants_are_not_used(score, words, tmp_path, monkeypatch):
    monkeypatch.setattr(nucel.score, "_write", lambda *_: (_ for _ in ()).throw(OSError("no space")))
    assert score("x.tsv")[0] == 2 and (tmp_path / "x.tsv.parts").exists()
    monkeypatch.undo()
    other = write_vcf(tmp_path / "other.vcf", VARIANTS[::-1])
    assert nucel.score.main([words[0], str(other), *words[2:], "--out", str(tmp_path / "x.tsv")]) == 2
    assert not (tmp_path / "x.tsv").exists()


def test_scores_survive_being_stored(words):
    made = nucel.score_variants(words[0], VARIANTS, words[3])
    again = Scored.from_arrays(made.arrays())
    assert again.status == made.status and list(again.scores) == list(made.scores)
    for name, values in made.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], values)


@pytest.mark.slow
def test_two_ranks_write_the_same(score, words, tmp_path):
    alone = score("alone.tsv")[2]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    # Chunks as small as those above, so that both ranks have some.
    program = tmp_path / "small_chunks.py"
    program.write_text("import sys, nucel.score\nnucel.score.CHUNK = 5\nsys.exit(nucel.score.main())\n")
    command = [*torchrun, str(program), *words, "--out", str(tmp_path / "two.tsv")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.getcwd()})
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip().splitlines()) == 1
    summary = json.loads(done.stdout)
    assert summary["variants"] == len(VARIANTS) and summary["tokens_per_s"] > 0
    assert (tmp_path / "two.tsv").read_text() == alone.read_text()
    assert not (tmp_path / "two.tsv.parts").exists()
