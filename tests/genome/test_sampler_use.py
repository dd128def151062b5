"""The sampler as a user meets it: arguments, batches, weights, pickles, data loaders."""

from __future__ import annotations

import gzip
import pickle
import threading

import numpy as np
import pytest
from support.genomes import FASTA, random_bases, tile, wrap, write
from torch.utils.data import DataLoader

from nucel.genome import GenomeError
from nucel.genome.fasta import Genome
from nucel.genome.sampler import WindowSampler
from nucel.genome.windows import Windows
from nucel.tokenizers import nucleotide


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"context": 102}, r"must lie in \[2, 101\], got 102"),
        ({"context": 1}, "context is"),
        ({"rank": 1}, r"rank must lie in \[0, world_size\) = \[0, 1\), got 1"),
        ({"rank": -1}, "rank must lie"),
        ({"batch_size": 3, "world_size": 4}, "at least world_size = 4, got 3"),
        ({"batch_size": 0}, "at least world_size"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"seed": 1 << 64}, "seed must lie"),
        ({"context": 64.0}, "context must be an integer, got 64.0"),
        ({"batch_size": 8.0}, "batch_size must be an integer, got 8.0"),
        ({"rank": 0.0}, "rank must be an integer, got 0.0"),
        ({"world_size": "1"}, "world_size must be an integer, got '1'"),
        ({"threads": 1.5}, "threads must be an integer, got 1.5"),
        ({"seed": 1.0}, "seed must be an integer, got 1.0"),
    ],
)
def test_sampler_refuses_bad_arguments(three_contigs, arguments, message):
    with pytest.raises(ValueError, match=message):
        WindowSampler(three_contigs, **{"context": 64, **arguments})


def test_sampler_refuses_empty_windows_and_impossible_steps(three_contigs):
    with pytest.raises(ValueError, match="no windows"):
        WindowSampler(three_contigs.hold_out()[1], context=64)
    sampler = WindowSampler(three_contigs, context=64)
    for step in (-1, 1 << 60):
        with pytest.raises(ValueError, match="step must lie"):
            sampler.batch(step)
    with pytest.raises(ValueError, match=r"step must be an integer, got 1\.0"):
        sampler.batch(1.0)
    assert (sampler.batch(np.int64(1)).tokens == sampler.batch(1).tokens).all()


def test_batch_shapes_and_types(three_contigs):
    batch = WindowSampler(three_contigs, context=64, batch_size=7, rank=1, world_size=2).batch(0)
    assert [(array.shape, array.dtype) for array in batch] == [
        ((4, 64), np.uint8), ((4,), np.int64), ((4,), np.int32), ((4,), np.int64), ((4,), np.int8),
    ]  # fmt: skip
    assert (batch.tokens[:, 0] == nucleotide.CLS).all() and not (batch.tokens[:, 1:] == nucleotide.CLS).any()


def test_steps_far_away_are_as_good_as_the_first(three_contigs):
    sampler = WindowSampler(three_contigs, context=64, batch_size=192)
    batch = sampler.batch(1 << 40)
    row = three_contigs.genome.fetch(int(batch.contig[5]), int(batch.start_bp[5]), int(batch.start_bp[5]) + 63)
    expected = row if batch.strand[5] == 1 else nucleotide.reverse_complement(row)
    assert (batch.tokens[5, 1:] == expected).all()


def test_batches_are_fresh_arrays(three_contigs):
    sampler = WindowSampler(three_contigs, context=64)
    first = sampler.batch(0)
    kept = first.tokens.copy()
    first.tokens[:] = 0
    assert (sampler.batch(0).tokens == kept).all()


def test_steps_per_epoch_and_rows(three_contigs):
    sampler = WindowSampler(three_contigs, context=64, batch_size=10, rank=2, world_size=3)
    assert sampler.steps_per_epoch == len(three_contigs) / 10 and sampler.rows == 4


def test_without_reverse_complement_all_rows_are_forward(three_contigs):
    sampler = WindowSampler(three_contigs, context=64, reverse_complement=False)
    assert (sampler.batch(0).strand == 1).all()


def test_four_threads_at_once_get_what_one_gets(three_contigs):
    sampler = WindowSampler(three_contigs, context=64, batch_size=32, threads=2)
    alone = [sampler.batch(step).tokens for step in range(40)]
    together: dict[tuple[int, int], np.ndarray] = {}

    def work(worker: int) -> None:
        for step in np.random.default_rng(worker).permutation(40).tolist():
            together[worker, step] = sampler.batch(step).tokens

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(together) == 160
    assert all((tokens == alone[step]).all() for (_, step), tokens in together.items())


def test_genome_and_windows_are_collections(tmp_path):
    genome = Genome(write(tmp_path / "a.fa", FASTA))
    assert len(genome) == 2 and list(genome) == ["one", "two"]
    windows = tile(genome, 200, 50)
    assert list(windows) == [("one", 0, 200), ("one", 150, 350), ("one", 300, 500)] and len(windows) == 3


def test_a_sampler_gives_its_batches_in_turn(three_contigs):
    sampler = WindowSampler(three_contigs, context=64, batch_size=8, seed=3)
    for step, batch in zip(range(5), sampler, strict=False):
        assert (batch.tokens == sampler.batch(step).tokens).all()


@pytest.mark.parametrize("packed", [False, True])
def test_pickles_read_the_same_bases(tmp_path, monkeypatch, packed):
    content = FASTA.encode()
    write(tmp_path / "a.fa", gzip.compress(content) if packed else content)
    monkeypatch.chdir(tmp_path)
    windows = tile(Genome("a.fa"), 100, 20).weighted([2.0])
    sampler = WindowSampler(windows, 64, 8, seed=5, rank=1, world_size=2, reverse_complement=False, threads=1)
    pickled = pickle.dumps(sampler)
    assert len(pickled) < 2000
    monkeypatch.chdir("/")
    copy = pickle.loads(pickled)
    assert all((a == b).all() for a, b in zip(copy.batch(7), sampler.batch(7), strict=True))
    assert copy.rows == 4 and copy.steps_per_epoch == sampler.steps_per_epoch
    assert copy.windows.genome.contigs == ("one", "two") and not copy.windows.start_bp.flags.writeable
    assert (copy.windows.weight == windows.weight).all()


def test_a_pickle_of_other_bases_is_refused(tmp_path):
    path = write(tmp_path / "a.fa", ">a\nACGT\n")
    pickled = pickle.dumps(Genome(path))
    write(path, ">a\nACGA\n")
    with pytest.raises(GenomeError, match="content of its files has changed"):
        pickle.loads(pickled)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_data_loader_workers_share_the_steps(three_contigs, start):
    sampler = WindowSampler(three_contigs, context=64, batch_size=8, threads=1)
    loader = DataLoader(
        range(3, 9), batch_size=None, collate_fn=sampler.batch, num_workers=2, multiprocessing_context=start
    )
    rows = [batch.tokens for batch in loader]
    assert len(rows) == 6
    assert all((tokens == sampler.batch(step).tokens).all() for step, tokens in enumerate(rows, start=3))


def drawn(windows: Windows, epochs: int) -> np.ndarray:
    """How often each window is drawn in some epochs, each known by its start."""
    sampler = WindowSampler(windows, windows.window_bp + 1, batch_size=1, seed=3)
    rows = round(sampler.steps_per_epoch * epochs)
    batch = WindowSampler(windows, windows.window_bp + 1, batch_size=rows, seed=3).batch(0)
    place = np.searchsorted(windows.contig * 1_000_000 + windows.start_bp, batch.contig * 1_000_000 + batch.start_bp)
    return np.bincount(place, minlength=len(windows))


def test_weights_set_how_often_a_window_is_drawn(masked):
    windows = tile(masked, 50, 0, max_masked=0.6, masked_weight=0.25)
    counts = drawn(windows, 90)
    repeat = windows.weight == 0.25
    # 20 windows: 18 of weight 1 and 2 of 0.25 share 20 rows an epoch as 19 to 1.
    assert set(counts[repeat].tolist()) == {45} and set(counts[~repeat].tolist()) == {95}


def test_genome_weights_share_the_rows_and_show_each_genome_evenly(tmp_path):
    paths = [
        write(tmp_path / f"{i}.fa", f">c\n{wrap(random_bases(length, i))}") for i, length in enumerate((4000, 1000))
    ]
    genome = Genome(paths)
    windows = tile(genome, 50, 0)
    for weights, shares in (((1, 1), (50, 50)), ((3, 1), (75, 25)), ((4, 1), (80, 20))):
        weighted = windows.weighted(weights)
        counts = drawn(weighted, 6)
        for source, (n, rows) in enumerate(zip((80, 20), shares, strict=True)):
            of = counts[genome.source[windows.contig] == source]
            assert of.sum() == 6 * rows
            assert set(of.tolist()) <= {6 * rows // n, -(-6 * rows // n)}
    for bad in ((1,), (1, 0), (1, float("inf")), (1, 1, 1)):
        with pytest.raises(ValueError, match="one number above 0 for each of the 2 files"):
            windows.weighted(bad)
    with pytest.raises(ValueError, match="weight must be a number above 0 for each window"):
        Windows(genome, 50, np.array([0]), np.array([0]), np.array([0.0]))


def test_weighted_rows_are_functions_of_seed_and_step(masked):
    windows = tile(masked, 50, 0, max_masked=0.6, masked_weight=0.25)
    whole = WindowSampler(windows, 40, batch_size=12, seed=1, threads=1)
    halves = [WindowSampler(windows, 40, batch_size=12, seed=1, rank=rank, world_size=2, threads=2) for rank in (0, 1)]
    for step in (7, 0, 1 << 40):
        expected = whole.batch(step)
        for i, column in enumerate(expected):
            assert (np.concatenate([half.batch(step)[i] for half in halves]) == column).all()
        for half in halves:
            assert all((x == y).all() for x, y in zip(half.batch_of_all_ranks(step), expected, strict=True))
        assert expected.rows.tolist() == list(range(step * whole.batch_size, (step + 1) * whole.batch_size))
        row = masked.fetch(int(expected.contig[0]), int(expected.start_bp[0]), int(expected.start_bp[0]) + 39)
        assert (expected.tokens[0, 1:] == (row if expected.strand[0] > 0 else nucleotide.reverse_complement(row))).all()
