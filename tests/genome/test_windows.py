"""Windows: how they tile contigs, which are held out, kept and left out."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from support.genomes import FASTA, SEQUENCE, random_bases, tile, wrap, write

from nucel.genome import GenomeError
from nucel.genome.fasta import Genome
from nucel.genome.windows import Windows


def test_tile_starts_at_zero_and_ends_flush(tmp_path):
    text = f">a\n{wrap(random_bases(250))}>short\n{wrap(random_bases(99))}>exact\n{wrap(random_bases(190))}"
    windows = tile(Genome(write(tmp_path / "a.fa", text)), window_bp=100, overlap_bp=10)
    assert windows.contig.tolist() == [0, 0, 0, 2, 2]
    assert windows.start_bp.tolist() == [0, 90, 150, 0, 90]
    assert (windows.contig.dtype, windows.start_bp.dtype, len(windows)) == (np.int32, np.int64, 5)
    assert tile(windows.genome, 100, 10, contigs=["exact"]).contig.tolist() == [2, 2]


def test_tile_drops_windows_with_too_many_unknown_bases(tmp_path):
    sequence = "A" * 10 + "R" + "A" * 9 + "NN" + "A" * 8 + "n" * 10
    genome = Genome(write(tmp_path / "a.fa", f">a\n{wrap(sequence, 7)}>b\n{'C' * 10}\n"))
    starts = {share: tile(genome, 10, 0, max_unknown=share).start_bp.tolist() for share in (0, 0.1, 0.2, 0.99, 1)}
    assert starts == {0: [0, 0], 0.1: [0, 10, 0], 0.2: [0, 10, 20, 0], 0.99: [0, 10, 20, 0], 1: [0, 10, 20, 30, 0]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window_bp": 0}, "window_bp must be at least 1, got 0"),
        ({"window_bp": 10, "overlap_bp": 10}, r"overlap_bp must lie in \[0, window_bp\) = \[0, 10\), got 10"),
        ({"overlap_bp": -1}, "overlap_bp must lie"),
        ({"window_bp": 10.5}, "window_bp must be an integer, got 10.5"),
        ({"overlap_bp": 0.0}, "overlap_bp must be an integer, got 0.0"),
        ({"max_unknown": 1.5}, "max_unknown is a share"),
        ({"max_unknown": float("nan")}, "max_unknown is a share"),
        ({"contigs": ["three"]}, "no contig 'three'"),
        ({"contigs": "one"}, "must be a sequence of names"),
    ],
)
def test_tile_refuses_bad_arguments(tmp_path, arguments, message):
    genome = Genome(write(tmp_path / "a.fa", FASTA))
    with pytest.raises(ValueError, match=message):
        tile(genome, **arguments)


def test_tile_refuses_to_give_no_windows(tmp_path):
    genome = Genome(write(tmp_path / "a.fa", FASTA))
    with pytest.raises(GenomeError, match="the longest has 500 bp; lower window_bp"):
        tile(genome, window_bp=501)
    genome = Genome(write(tmp_path / "b.fa", f">a\n{'N' * 300}\n"))
    with pytest.raises(GenomeError, match="raise max_unknown"):
        tile(genome, window_bp=100, overlap_bp=0)


def test_windows_must_lie_inside_their_contig(tmp_path):
    genome = Genome(write(tmp_path / "a.fa", FASTA))
    for contig, start in ((2, 0), (-1, 0), (0, -1), (0, 401), (1, 0)):
        with pytest.raises(ValueError, match="contig"):
            Windows(genome, 100, np.array([contig]), np.array([start]))
    with pytest.raises(ValueError, match="vectors of one length"):
        Windows(genome, 100, np.array([0, 0]), np.array([0]))


def test_hold_out_of_whole_contigs(three_contigs):
    train, held_out = three_contigs.hold_out(contigs=["c1"])
    assert set(held_out.contig.tolist()) == {1} and set(train.contig.tolist()) == {0, 2}
    assert len(train) + len(held_out) == len(three_contigs)


def test_hold_out_of_a_fraction_is_exact_seeded_and_in_blocks(three_contigs):
    train, held_out = three_contigs.hold_out(fraction=0.2, seed=3)
    assert len(held_out) == round(0.2 * len(three_contigs))
    again = three_contigs.hold_out(fraction=0.2, seed=3)[1]
    assert (held_out.contig == again.contig).all() and (held_out.start_bp == again.start_bp).all()
    other = three_contigs.hold_out(fraction=0.2, seed=4)[1]
    assert held_out.start_bp.tolist() != other.start_bp.tolist()
    # Each block costs the two windows at its ends, so a few blocks cost far fewer than single windows would.
    assert len(three_contigs) - len(train) - len(held_out) <= 12


def test_hold_out_of_a_tiny_fraction_is_one_window(three_contigs):
    assert len(three_contigs.hold_out(fraction=1e-9)[1]) == 1


def test_hold_out_of_nothing_changes_nothing(three_contigs):
    train, held_out = three_contigs.hold_out()
    assert len(train) == len(three_contigs) and len(held_out) == 0


def test_hold_out_refusals(three_contigs):
    with pytest.raises(GenomeError, match="leaves none to train on"):
        three_contigs.hold_out(contigs=["c0", "c1", "c2"])
    with pytest.raises(GenomeError, match="leaves none to train on"):
        three_contigs.hold_out(fraction=0.999)
    only_first = tile(three_contigs.genome, 100, 20, contigs=["c0"])
    with pytest.raises(GenomeError, match="none of 113 windows lies on these contigs: c2"):
        only_first.hold_out(contigs=["c2"])
    for arguments, message in (
        ({"fraction": 1.0}, "fraction must lie"),
        ({"fraction": -0.1}, "fraction must lie"),
        ({"contigs": ["c9"]}, "no contig 'c9'"),
        ({"fraction": 0.1, "seed": -1}, "seed must lie"),
    ):
        with pytest.raises(ValueError, match=message):
            three_contigs.hold_out(**arguments)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["a"], {0}), (["?"], {0, 1}), (["*"], {0, 1, 2}), (["!*_alt"], {0, 1}), (["*", "!b"], {0, 2}),
        (["chr[0-9]*", "b"], {1, 2}), ([1], {1}),
    ],
)  # fmt: skip
def test_contigs_by_name_and_glob(masked, patterns, expected):
    assert set(tile(masked, 50, 0, contigs=patterns).contig.tolist()) == expected
    train, held_out = tile(masked, 50, 0).hold_out(patterns) if expected != {0, 1, 2} else (None, None)
    if held_out is not None:
        assert set(held_out.contig.tolist()) == expected and not expected & set(train.contig.tolist())


def test_a_name_that_looks_like_a_glob_is_a_name(tmp_path):
    genome = Genome(write(tmp_path / "a.fa", f">x[1]\n{wrap(SEQUENCE)}>x1\n{wrap(SEQUENCE)}>!y\n{wrap(SEQUENCE)}"))
    assert set(tile(genome, 50, 0, contigs=["x[1]"]).contig.tolist()) == {0}
    assert set(tile(genome, 50, 0, contigs=["!y"]).contig.tolist()) == {2}
    assert set(tile(genome, 50, 0, contigs=["!!y"]).contig.tolist()) == {0, 1}


@pytest.mark.parametrize("patterns", [["x*"], ["!x*"], ["a", "x"]])
def test_a_glob_without_a_contig_is_refused(masked, patterns):
    with pytest.raises(GenomeError, match=r"no contig 'x\*?'; the genome has a, b, chr1_alt"):
        tile(masked, 50, 0, contigs=patterns)


def test_windows_lie_in_the_regions_that_are_kept(masked, tmp_path, capsys):
    keep = write(
        tmp_path / "keep.bed",
        "# a comment\ntrack name=x\na\t10\t70\tname\na 60 130\nb\t0\t49\nb\t250\t300\nc\t0\t9\n\n",
    )
    windows = tile(masked, 50, 0, keep_bed=keep)
    assert windows.contig.tolist() == [0, 0, 0, 1] and windows.start_bp.tolist() == [10, 60, 80, 250]
    assert "skipping regions on 1 contigs that are not there: c" in capsys.readouterr().err
    assert tile(masked, 50, 0, keep_bed=keep, contigs=["b"]).start_bp.tolist() == [250]


def test_windows_avoid_the_regions_that_are_left_out(masked, tmp_path):
    drop = write(
        tmp_path / "drop.bed.gz", gzip.compress(b"a\t60\t120\na\t110\t130\na\t200\t200\nb\t0\t300\nchr1_alt\t50\t251\n")
    )
    windows = tile(masked, 50, 0, drop_bed=drop)
    assert windows.contig.tolist() == [0] * 8 + [2]
    assert windows.start_bp.tolist() == [0, 10, 130, 180, 230, 280, 330, 350, 0]
    keep = write(tmp_path / "keep.bed", "a\t100\t190\nb\t0\t90\n")
    assert tile(masked, 50, 0, keep_bed=keep, drop_bed=drop).start_bp.tolist() == [130, 140]


@pytest.mark.parametrize(
    ("bed", "message"),
    [
        ("a\t0\t401\n", r"line 1: \[0, 401\) is not inside contig 'a', which has 400 bases"),
        ("a\t5\t4\n", "not inside contig"),
        ("a\t-1\t4\n", "not inside contig"),
        ("a\t0\t10\na\tx\t4\n", "line 2: no contig, start and end"),
        ("a 5\n", "line 1: no contig, start and end"),
        ("", "no region on the genome's contigs, a, b, chr1_alt"),
        ("1\t0\t10\n2\t0\t10\n", "its contigs are 1, 2"),
        ("a\t0\t49\n", "no contig or region is long enough for a window of 50 bp: the longest has 49 bp"),
    ],
)
def test_bed_files_that_are_refused(masked, tmp_path, bed, message):
    with pytest.raises(GenomeError, match=message):
        tile(masked, 50, 0, keep_bed=write(tmp_path / "r.bed", bed))


def test_repeats_are_kept_dropped_or_drawn_less_often(masked):
    everything = tile(masked, 50, 0)
    assert everything.weight is None and len(everything) == 8 + 6 + 6
    dropped = tile(masked, 50, 0, max_masked=0.6)
    assert dropped.start_bp[dropped.contig == 0].tolist() == [0, 50, 200, 250, 300, 350]
    assert tile(masked, 50, 0, max_masked=0).start_bp[:5].tolist() == [0, 50, 200, 250, 350]
    rarer = tile(masked, 50, 0, max_masked=0.6, masked_weight=0.25)
    assert rarer.weight.tolist() == [1, 1, 0.25, 0.25] + [1] * 16
    assert tile(masked, 50, 0, max_masked=0.6, masked_weight=0.25, contigs=["b"]).weight is None
    lower = write(masked.paths[0].with_name("l.fa"), ">l\n" + "acgt" * 20)
    with pytest.raises(GenomeError, match=r"is soft-masked by more than max_masked = 0\.5"):
        tile(Genome(lower), 50, 0, max_masked=0.5)
