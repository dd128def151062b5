"""Whole records as rows: which there are, and what a batch holds of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nucel.genome.fasta import Genome
from nucel.genome.records import Records, RecordSampler
from nucel.genome.windows import WindowOptions
from nucel.runtime.errors import GenomeError
from nucel.tokenizers import nucleotide

LETTERS = "ACGTacgtN-"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("records")


def write(path: Path, sequences: list[str]) -> Path:
    path.write_text("".join(f">ref|Genus_{i % 3}|{i}\n{sequence}\n" for i, sequence in enumerate(sequences)))
    return path


def text_of(batch, row: int) -> str:
    length = batch.lengths[row]
    assert batch.tokens[row, 0] == nucleotide.CLS and (batch.tokens[row, length:] == nucleotide.PAD).all()
    return nucleotide.decode(batch.tokens[row, 1:length])


def read(sequence: str, strand: int = 1) -> str:
    """By itself: upper case, all that is no base an N, the other strand complemented and backwards."""
    letters = "".join(letter if letter in "ACGT" else "N" for letter in sequence.upper())
    return letters if strand > 0 else letters[::-1].translate(str.maketrans("ACGT", "TGCA"))


@settings(max_examples=30)
@given(
    st.lists(st.text(LETTERS, min_size=1, max_size=30), min_size=1, max_size=7),
    st.booleans(), st.integers(2, 40), st.integers(1, 5), st.integers(0, 2**64 - 1),
)  # fmt: skip
def test_an_epoch_reads_each_record_once_as_it_is_written(folder, sequences, drop_gaps, context, batch_size, seed):
    plain = [sequence.replace("-", "") if drop_gaps else sequence for sequence in sequences]
    if not any(plain) or not any(letter in "ACGTacgtN" for sequence in sequences for letter in sequence):
        return
    try:
        genome = Genome(write(folder / "some.fa", sequences))
    except GenomeError:  # without a letter that is a base
        return
    records = Records.of(genome, WindowOptions(max_unknown=1.0), drop_gaps)
    assert len(records) == sum(map(bool, plain)) and records.lengths.tolist() == [len(x) for x in plain if x]
    sampler = RecordSampler(records, context, batch_size, seed)
    n, seen, cut = len(records), [], 0
    for step in range(-(-n // batch_size) + 1):
        batch = sampler.batch(step)
        for row in range(batch_size):
            strand, contig, start = batch.strand[row], batch.contig[row], batch.start_bp[row]
            size = min(len(plain[contig]), context - 1)
            assert text_of(batch, row) == read(plain[contig][start : start + size], strand)
            cut += size < len(plain[contig])
            if step * batch_size + row < n:
                seen.append(int(contig))
    assert sorted(seen) == [i for i, sequence in enumerate(plain) if sequence]


def test_rows_do_not_depend_on_ranks_threads_or_what_was_drawn_before(folder):
    draws = np.random.default_rng(0)
    sequences = ["".join(draws.choice(list("ACGT"), draws.integers(20, 90))) for _ in range(50)]
    records = Records.of(Genome(write(folder / "ranks.fa", sequences)), WindowOptions())
    whole = RecordSampler(records, 41, 12, seed=3, threads=1)
    for step in (7, 0, 4):
        batch = whole.batch(step)
        parts = [RecordSampler(records, 41, 12, 3, rank, 3, threads=2).batch(step) for rank in range(3)]
        for name in ("tokens", "rows", "contig", "start_bp", "strand", "lengths"):
            together = np.concatenate([getattr(part, name) for part in parts])
            assert np.array_equal(together, getattr(batch, name)), name
        assert np.array_equal(whole.batch_of_all_ranks(step).tokens, batch.tokens)


def test_places_of_crops_are_even_and_other_in_each_row(folder):
    records = Records.of(Genome(write(folder / "long.fa", ["ACGT" * 5])), WindowOptions())
    starts = np.concatenate([RecordSampler(records, 18, 64, seed=1).batch(step).start_bp for step in range(30)])
    counts = Counter(starts.tolist())
    assert set(counts) == {0, 1, 2, 3} and min(counts.values()) > 0.2 * len(starts)
    others = RecordSampler(records, 18, 64, seed=2).batch(0).start_bp
    assert not np.array_equal(others, starts[:64])


def test_records_are_held_out_by_name_and_by_share(folder):
    records = Records.of(Genome(write(folder / "held.fa", ["ACGTACGT"] * 60)), WindowOptions())
    train, held = records.hold_out(["*|Genus_1|*"])
    names = [records.first.genome.contigs[i] for i in held.first.contig]
    assert len(held) == 20 and all("Genus_1" in name for name in names) and len(train) == 40
    train, held = records.hold_out([], 0.25, seed=4)
    assert len(held) == 15 and len(train) == 45
    assert not set(train.first.contig) & set(held.first.contig)


def test_unknown_bases_are_counted_without_the_gaps_that_are_removed(folder):
    genome = Genome(write(folder / "gaps.fa", ["ACGT------", "ACGTACGTNN", "ACGTACGTAC", "----------"]))
    assert Records.of(genome, WindowOptions()).lengths.tolist() == [10]
    assert Records.of(genome, WindowOptions(), drop_gaps=True).lengths.tolist() == [4, 10]
    assert len(Records.of(genome, WindowOptions(max_unknown=0.2), drop_gaps=True)) == 3
    with pytest.raises(GenomeError, match=r"each of the 1 records .* or remove gaps with --drop-gaps"):
        Records.of(genome, WindowOptions(contigs=("*|0",)))


def test_repeats_and_files_are_weighted(folder):
    genome = Genome([write(folder / "a.fa", ["ACGTACGT", "acgtacgt"]), write(folder / "b.fa", ["TTTTACGT"])])
    assert len(Records.of(genome, WindowOptions(max_masked=0.5))) == 2
    some = Records.of(genome, WindowOptions(max_masked=0.5, masked_weight=0.25)).weighted((1.0, 3.0))
    assert some.first.weight is not None
    np.testing.assert_allclose(some.first.weight, [0.8, 0.2, 3.0])
    with pytest.raises(GenomeError, match="soft-masked by more than"):
        Records.of(genome, WindowOptions(max_masked=0.5, contigs=("*|1",)))
