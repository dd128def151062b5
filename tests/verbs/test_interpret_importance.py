"""``python -m nucel.interpret importance``: the table holds what the functions give."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.genomes import random_bases, write
from support.pair import save_pair, tiny_pair

from nucel import interpret
from nucel.interpretation.attribution_files import read_maps
from nucel.interpretation.importance import (
    ImportanceOptions,
    Model,
    Planted,
    backgrounds,
    effect,
    interaction,
    sites_above,
)
from nucel.interpretation.targets import Subject
from nucel.runtime.device import choose_precision
from nucel.tokenizers import nucleotide

pytest.importorskip("scipy.stats")
TEXT = random_bases(50, 1)
MEME = """MEME version 4

MOTIF M1 first
letter-probability matrix: alength= 4 w= 3
 0.9 0.1 0 0
 0 0 0 1
 0.5 0 0 0.5
MOTIF M2 second
letter-probability matrix: alength= 4 w= 1
 0 0 1 0
"""


@pytest.fixture
def call(tmp_path, capsys):
    """Runs the sub-command on one sequence; returns the exit status, the summary, stderr and the table's rows."""
    directory = save_pair(tmp_path / "run", tiny_pair())
    fasta = write(tmp_path / "s.fa", f">one\n{TEXT}\n")
    write(tmp_path / "m.meme", MEME)

    def run(*words):
        out = tmp_path / "i.tsv"
        arguments = ("importance", directory, fasta, "--out", out, "--shuffles", 6, *words)
        status = interpret.main([str(word) for word in arguments])
        captured = capsys.readouterr()
        if status:
            return status, None, captured.err, []
        header, *lines = [line.split("\t") for line in out.read_text().splitlines()]
        rows = [dict(zip(header, line, strict=True)) for line in lines]
        return status, json.loads(captured.out.splitlines()[-1]), captured.err, rows

    return run


def model_and_backgrounds(**options):
    chosen = ImportanceOptions(shuffles=6, **options)
    model = Model.of(Subject.of(tiny_pair()), chosen, choose_precision("cpu", "fp32"))
    return model, backgrounds([nucleotide.encode(TEXT)], chosen)


def assert_row(row, expected):
    cells = [float(row[name]) for name in ("mean", "low", "high", "wilcoxon_p", "mann_whitney_p")]
    np.testing.assert_allclose(cells, expected[1:], rtol=1e-3, atol=1e-5)


def test_patterns_on_a_grid_of_positions(call, tmp_path):
    picture = tmp_path / "i.png"
    status, summary, _, rows = call("--pattern", "TATAAA", "GNG", "--positions", 0, 30, "--plot", picture)
    assert status == 0 and summary["rows"] == 4 and picture.exists() and (tmp_path / "i.tsv.about.json").exists()
    assert [(row["pattern"], row["start_bp"]) for row in rows] == [
        ("TATAAA", "0"), ("TATAAA", "30"), ("GNG", "0"), ("GNG", "30"),
    ]  # fmt: skip
    model, found = model_and_backgrounds()
    for row in rows:
        planted = Planted(int(row["start_bp"]), nucleotide.encode(row["pattern"]))
        assert_row(row, effect(model, found, [[planted]] * 6))


def test_sites_of_a_map_are_planted_where_they_were(call, tmp_path):
    maps, other = tmp_path / "maps.npz", tmp_path / "other.npz"
    shorter = write(tmp_path / "shorter.fa", f">one\n{TEXT[:40]}\n")
    for sequences, path in ((tmp_path / "s.fa", maps), (shorter, other)):
        words = ("attribution", tmp_path / "run", sequences, "--method", "surprise", "--out", path)
        assert interpret.main([str(word) for word in words]) == 0
    status, summary, _, (row,) = call("--sites", maps)
    assert status == 0 and summary["rows"] == 1 and row["pattern"] == "sites of the maps"
    (values,) = read_maps(maps).values
    model, found = model_and_backgrounds()
    marked = sites_above(values, nucleotide.encode(TEXT))
    assert 3 <= np.isin(marked, nucleotide.BASES).sum() <= 15  # the highest 3 of 50, and 2 on either side of each
    assert_row(row, effect(model, found, [[Planted(0, marked)]] * 6))
    status, _, stderr, _ = call("--sites", other)
    assert status == 2 and "holds maps of other sequences" in stderr


def test_motifs_of_both_strands_in_the_middle(call, tmp_path):
    words = ("--motifs", tmp_path / "m.meme", "--both-motif-strands", "--target", "surprise")
    status, summary, _, rows = call(*words)
    assert status == 0 and summary["wild_type"] is None
    assert [(row["pattern"], row["strand"]) for row in rows] == [
        ("M1 first", "+"), ("M1 first", "-"), ("M2 second", "+"), ("M2 second", "-"),
    ]  # fmt: skip
    model, found = model_and_backgrounds(target="surprise")
    for row, text in zip(rows, ("ATA", "TAT", "G", "C"), strict=True):
        planted = Planted((50 - len(text)) // 2, nucleotide.encode(text))
        assert_row(row, effect(model, found, [[planted]] * 6))
    assert [row["pattern"] for row in call(*words, "--motif-names", "M2", "--drawn")[3]] == ["M2 second"] * 2


def test_interactions_against_spacing(call):
    status, _, _, rows = call("--pattern", "ACG", "TTGA", "--spacings", 0, 5, 43)
    assert status == 0 and [row["spacing_bp"] for row in rows] == ["0", "5", "43"]
    model, found = model_and_backgrounds()
    for row in rows:
        gap = int(row["spacing_bp"])
        start = (50 - 7 - gap) // 2
        one, other = Planted(start, nucleotide.encode("ACG")), Planted(start + 3 + gap, nucleotide.encode("TTGA"))
        assert_row(row, interaction(model, found, [one] * 6, [other] * 6))
    assert "do not fit into 50 bases" in call("--pattern", "ACG", "TTGA", "--spacings", 44)[2]


def test_what_cannot_be_planted_is_refused(call, tmp_path):
    for words, message in [
        (("--pattern", "ACGT", "--spacings", 3), "--spacings needs two patterns, got 1"),
        (("--motifs", tmp_path / "m.meme", "--motif-names", "M3"), "has no motif 'M3'; it has 'M1 first', 'M2 second'"),
        (("--pattern", "AXQ"), "'X' at position 2 is not a nucleotide code"),
        (("--pattern", "A" * 51, "--positions", 3), "is not inside a sequence of 50"),
        (("--pattern", "A", "--target", "class:1"), "needs a fine-tuned model"),
    ]:
        status, _, stderr, _ = call(*words)
        assert status == 2 and message in " ".join(stderr.split())
