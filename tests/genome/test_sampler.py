"""Laws of the reader and the sampler, on generated FASTA files and sampler settings."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import _nucel
import numpy as np
import pyfaidx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.examples import fewer_examples

from nucel.genome import GenomeError
from nucel.genome.fasta import Genome
from nucel.genome.sampler import WindowSampler
from nucel.genome.windows import WindowOptions, Windows
from nucel.tokenizers import nucleotide


def tile(genome, window_bp=1224, overlap_bp=100, **options):
    """Windows.tile with some of its options."""
    return Windows.tile(genome, WindowOptions(window_bp=window_bp, overlap_bp=overlap_bp, **options))


SEEDS = st.integers(0, 2**64 - 1)


@dataclass(frozen=True)
class Layout:
    """How records are written: line width, line ending, final newline."""

    width: int
    newline: str
    final_newline: bool

    def render(self, records: list[tuple[str, str]]) -> bytes:
        lines: list[str] = []
        for name, sequence in records:
            lines += [
                f">{name} description",
                *(sequence[i : i + self.width] for i in range(0, len(sequence), self.width)),
            ]
        return (self.newline.join(lines) + (self.newline if self.final_newline else "")).encode()


layouts = st.builds(
    Layout,
    st.one_of(st.integers(1, 12), st.sampled_from([31, 32, 33, 60, 64, 70, 1000])),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
pieces = st.lists(
    st.one_of(st.text("ACGT", max_size=90), st.text("acgtNn", max_size=20), st.text("RYKMSWBDHVryUu-*", max_size=4)),
    max_size=3,
).map("".join)
# Every letter that FASTA allows, but mostly nucleotides, as a genome must be.
sequences = st.tuples(pieces, st.text("ACGT", min_size=25, max_size=60), pieces).map("".join)
files = st.lists(
    st.tuples(layouts, st.lists(st.one_of(sequences, st.just("")), max_size=3), sequences).map(
        lambda parts: (parts[0], [*parts[1], parts[2]])
    ),
    min_size=1,
    max_size=3,
)


def write_genome(folder: str, contents: list[tuple[Layout, list[str]]]) -> tuple[Genome, list[str]]:
    paths, expected = [], []
    for i, (layout, texts) in enumerate(contents):
        path = Path(folder) / f"{i}.fa"
        path.write_bytes(layout.render([(f"f{i}c{j}", text) for j, text in enumerate(texts)]))
        paths.append(path)
        expected += texts
    return Genome(paths), expected


def pyfaidx_tokens(genome: Genome, contig: int, start_bp: int, end_bp: int, reverse: bool) -> np.ndarray:
    name = genome.contigs[contig]
    path = next(path for path in genome.paths if path.stem == name[1])
    with pyfaidx.Fasta(str(path), as_raw=True) as fasta:
        tokens = nucleotide.encode(str(fasta[name][start_bp:end_bp]))
    return nucleotide.reverse_complement(tokens) if reverse else tokens


@given(files, st.data())
def test_fetch_and_counts_are_those_of_the_text(contents, data):
    with tempfile.TemporaryDirectory() as folder:
        genome, expected = write_genome(folder, contents)
        assert genome.lengths.tolist() == [len(text) for text in expected]
        for i, (_, texts) in enumerate(contents):
            letters = np.frombuffer("".join(texts).encode(), np.uint8)
            assert genome.byte_counts[i].tolist() == np.bincount(letters, None, 256).tolist()
        for i, text in enumerate(expected):
            assert genome.gc_bp[i] == sum(map(text.count, "GCgc"))
            assert genome.masked_bp[i] == sum(letter.islower() for letter in text)
            assert genome.unknown_bp[i] == (nucleotide.encode(text) == nucleotide.UNK).sum()
            assert (genome.fetch(i) == nucleotide.encode(text)).all()
            start = data.draw(st.integers(0, len(text)))
            end = data.draw(st.integers(start, len(text)))
            assert (genome.fetch(i, start, end) == nucleotide.encode(text[start:end])).all()
            reverse = nucleotide.reverse_complement(nucleotide.encode(text[start:end]))
            assert (genome.fetch(i, start, end, "-") == reverse).all()


@pytest.mark.interop
@given(files, st.integers(2, 40), st.integers(0, 20), SEEDS, st.integers(0, 2**40), st.data())
def test_rows_are_what_pyfaidx_reads_at_the_reported_place(contents, context, spare, seed, step, data):
    window_bp = context - 1 + spare
    with tempfile.TemporaryDirectory() as folder:
        genome, expected = write_genome(folder, contents)
        assume(max(len(text) for text in expected) >= window_bp)
        windows = tile(genome, window_bp, data.draw(st.integers(0, window_bp - 1)), max_unknown=1)
        batch = WindowSampler(windows, context, batch_size=5, seed=seed).batch(step)
        assert set(batch.strand.tolist()) <= {1, -1}
        for tokens, _, contig, start_bp, strand in zip(*batch, strict=True):
            assert tokens[0] == nucleotide.CLS
            end_bp = int(start_bp) + context - 1
            assert (tokens[1:] == pyfaidx_tokens(genome, int(contig), int(start_bp), end_bp, strand < 0)).all()
            in_window = (windows.contig == contig) & (windows.start_bp <= start_bp)
            assert (in_window & (end_bp <= windows.start_bp + window_bp)).any()


@given(sequences, layouts, st.integers(1, 30), st.data())
def test_tile_keeps_exactly_the_windows_with_few_enough_unknown_bases(text, layout, window_bp, data):
    assume(len(text) >= window_bp)
    overlap_bp = data.draw(st.integers(0, window_bp - 1))
    with tempfile.TemporaryDirectory() as folder:
        genome, _ = write_genome(folder, [(layout, [text])])
        every = tile(genome, window_bp, overlap_bp, max_unknown=1)
        starts = every.start_bp.tolist()
        covered = {base for start in starts for base in range(start, start + window_bp)}
        assert covered == set(range(len(text))) and starts == sorted(set(starts)) and starts[0] == 0
        assert all(after - before <= window_bp - overlap_bp for before, after in pairwise(starts))
        unknown = nucleotide.encode(text) == nucleotide.UNK
        few = [s for s in starts if unknown[s : s + window_bp].sum() / window_bp <= 0.25]
        assume(few)
        assert tile(genome, window_bp, overlap_bp, max_unknown=0.25).start_bp.tolist() == few


@pytest.fixture(scope="module")
def genome(tmp_path_factory) -> Genome:
    bases = np.random.default_rng(0).choice(list("ACGT"), 30_000)
    records = [
        ("f0c0", "".join(bases[:20_000])),
        ("f0c1", "".join(bases[20_000:29_000])),
        ("f0c2", "".join(bases[29_000:])),
    ]
    path = tmp_path_factory.mktemp("genome") / "0.fa"
    path.write_bytes(Layout(60, "\n", True).render(records))
    return Genome(path)


def some_windows(genome: Genome, n: int) -> Windows:
    """n windows, each known by its start."""
    return Windows(genome, 30, np.zeros(n, np.int32), np.arange(n) * 30)


@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 5), SEEDS, st.integers(1, 4), st.integers(0, 3))
def test_every_epoch_visits_every_window_once_whoever_asks(genome, n, batch_size, world_size, seed, threads, epoch):
    assume(batch_size >= world_size)
    ranks = [
        WindowSampler(
            some_windows(genome, n),
            2,
            batch_size,
            seed,
            rank=rank,
            world_size=world_size,
            threads=1 + (rank + threads) % 4,
        )
        for rank in range(world_size)
    ]
    assert sum(sampler.rows for sampler in ranks) == batch_size
    first, last = epoch * n // batch_size, ((epoch + 2) * n - 1) // batch_size
    steps = [np.concatenate([sampler.batch(step).start_bp for sampler in ranks]) for step in range(first, last + 1)]
    seen = np.concatenate(steps)[epoch * n - first * batch_size :] // 30
    assert sorted(seen[:n].tolist()) == list(range(n))
    assert sorted(seen[n : 2 * n].tolist()) == list(range(n))
    if n >= 30:
        assert seen[:n].tolist() != seen[n : 2 * n].tolist()
    alone = WindowSampler(some_windows(genome, n), 2, batch_size, seed)
    assert (
        np.concatenate([alone.batch(step).start_bp for step in range(first, last + 1)]) == np.concatenate(steps)
    ).all()


@fewer_examples(2)
@given(SEEDS, st.lists(st.integers(0, 2**40), min_size=2, max_size=8), st.integers(1, 700))
def test_a_batch_depends_on_its_step_alone(genome, seed, steps, batch_size):
    windows = tile(genome, 90, 10)
    one, other = (WindowSampler(windows, 64, batch_size, seed, threads=threads) for threads in (1, 3))
    forwards = {step: one.batch(step) for step in steps}
    for step in reversed(steps):
        for first, second in zip(forwards[step], other.batch(step), strict=True):
            assert (first == second).all()


@given(st.one_of(st.integers(1, 70), st.integers(1, 5000)), SEEDS, st.integers(0, 2**40))
def test_permutation_is_a_bijection(n, seed, epoch):
    assert sorted(_nucel.permutation(n, seed, epoch).tolist()) == list(range(n))


def chi_square(observed: np.ndarray) -> float:
    expected = observed.sum() / observed.size
    return float(((observed - expected) ** 2 / expected).sum())


def five_sigma(cells: int) -> float:
    """A chi-square of cells - 1 degrees of freedom stays below this, but for one time in a million."""
    return cells - 1 + 5 * np.sqrt(2 * (cells - 1)) + 10


@pytest.mark.parametrize("n", [3, 4, 5])
def test_small_permutations_reach_all_orders_about_equally_often(n):
    orders = np.array([_nucel.permutation(n, seed, 0) for seed in range(12_000)])
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == {3: 6, 4: 24, 5: 120}[n]
    assert chi_square(counts) < five_sigma(len(counts))


def test_each_place_of_an_epoch_shows_each_window_equally_often():
    n = 37
    orders = np.array([_nucel.permutation(n, 7, epoch) for epoch in range(4_000)])
    for place in (0, 1, n - 1):
        assert chi_square(np.bincount(orders[:, place], minlength=n)) < five_sigma(n)
    following = np.bincount(orders[:, 0] * n + orders[:, 1], minlength=n * n).reshape(n, n)[~np.eye(n, dtype=bool)]
    assert chi_square(following) < five_sigma(following.size)


def test_crops_cover_every_offset_evenly_and_strands_both(genome):
    windows = Windows(genome, 300, np.zeros(40, np.int32), np.arange(40) * 300)
    batch = WindowSampler(windows, context=251, batch_size=40_000, seed=5).batch(0)
    offset = batch.start_bp % 300
    assert offset.max() == 50
    assert chi_square(np.bincount(offset, minlength=51)) < five_sigma(51)
    assert abs((batch.strand == 1).mean() - 0.5) < 5 * 0.5 / np.sqrt(40_000)
    # Neither depends on the window or on the other.
    cells = (batch.start_bp // 300) * 2 + (batch.strand > 0)
    assert chi_square(np.bincount(cells, minlength=80)) < five_sigma(80)
    cells = offset * 2 + (batch.strand > 0)
    assert chi_square(np.bincount(cells, minlength=102)) < five_sigma(102)


def test_seeds_and_epochs_draw_different_rows(genome):
    windows = tile(genome, 90, 10)
    one = WindowSampler(windows, 64, len(windows), seed=0)
    other = WindowSampler(windows, 64, len(windows), seed=1)
    assert (one.batch(0).start_bp != other.batch(0).start_bp).mean() > 0.9
    assert (one.batch(0).start_bp != one.batch(1).start_bp).mean() > 0.9


@given(
    st.integers(1, 400), st.data(), SEEDS, st.one_of(st.just(0.0), st.floats(1e-6, 0.5)),
    st.sets(st.sampled_from(["f0c0", "f0c1", "f0c2"]), max_size=2),
)  # fmt: skip
def test_held_out_windows_share_no_base_with_those_to_train_on(genome, window_bp, data, seed, fraction, contigs):
    windows = tile(genome, window_bp, data.draw(st.integers(0, window_bp // 2)))
    try:
        train, held_out = windows.hold_out(sorted(contigs), fraction, seed)
    except GenomeError as refusal:
        assert "leaves none to train on" in str(refusal)
        return

    def places(part: Windows) -> set[tuple[int, int]]:
        return set(zip(part.contig.tolist(), part.start_bp.tolist(), strict=True))

    def occupied(part: Windows) -> np.ndarray:
        base = np.zeros((3, int(genome.lengths.max())), bool)
        for contig, start in places(part):
            base[contig, start : start + window_bp] = True
        return base

    assert places(train) <= places(windows) and places(held_out) <= places(windows)
    assert not (occupied(train) & occupied(held_out)).any()
    left = windows.contig[~np.isin(windows.contig, [genome.contigs.index(name) for name in contigs])]
    wanted = max(1, round(fraction * len(left))) if fraction else 0
    assert len(held_out) == len(windows) - len(left) + wanted
    # Nothing is dropped without need.
    dropped = places(windows) - places(train) - places(held_out)
    taken = occupied(held_out)
    assert all(taken[contig, start : start + window_bp].any() for contig, start in dropped)
