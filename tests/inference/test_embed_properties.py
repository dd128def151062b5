"""What an embedding must not depend on, and what tiles and strands must add up to.

The encoder computes in fp64 here, so that what is left of a difference is the rounding of the results to fp32.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.examples import fewer_examples
from support.tiny import tiny_encoder

import nucel
from nucel.inference.predict import make_batch, predict
from nucel.inference.tiles import Tiles
from nucel.runtime.device import Precision
from nucel.tokenizers import nucleotide

ENCODER = tiny_encoder().double()
EXACT = {"rtol": 1e-6, "atol": 1e-6}
CPU = Precision(torch.device("cpu"), torch.float32)

sequences = st.lists(st.text("ACGTN", min_size=1, max_size=40), min_size=1, max_size=12)
poolings = st.sampled_from(["mean", "cls"])


def alone(sequence: str, pooling: str = "mean", **options) -> np.ndarray:
    if pooling == "none":
        return nucel.embed_positions(ENCODER, [sequence], **options)[0]
    return nucel.embed(ENCODER, [sequence], pooling=pooling, **options)[0]


@fewer_examples(4)
@given(sequences, poolings, st.integers(0, 2), st.booleans(), st.sampled_from([16_384, 1, 100]))
def test_a_sequence_s_embedding_is_its_own(given_sequences, pooling, layer, both_strands, batch_tokens):
    """Whatever shares its batch, in whatever order, padded to whatever length."""
    options = {"pooling": pooling, "layer": layer, "average_reverse_complement": both_strands}
    together = nucel.embed(ENCODER, given_sequences, batch_tokens=batch_tokens, **options)
    assert together.shape == (len(given_sequences), 32) and together.dtype == np.float32
    for sequence, found in zip(given_sequences, together, strict=True):
        np.testing.assert_allclose(found, alone(sequence, **options), **EXACT)
    backwards = nucel.embed(ENCODER, given_sequences[::-1], batch_tokens=batch_tokens, **options)
    np.testing.assert_allclose(backwards[::-1], together, **EXACT)


@fewer_examples(6)
@given(sequences)
def test_pooling_is_of_the_bases_hidden_states(given_sequences):
    each = nucel.embed_positions(ENCODER, given_sequences)
    assert [found.shape for found in each] == [(len(s), 32) for s in given_sequences]
    mean = nucel.embed(ENCODER, given_sequences)
    np.testing.assert_allclose(mean, [found.mean(0, dtype=np.float64) for found in each], **EXACT)


@fewer_examples(6)
@given(st.text("ACGTN", min_size=1, max_size=40))
def test_both_strands_embed_alike(sequence):
    other = nucleotide.decode(nucleotide.reverse_complement(nucleotide.encode(sequence)))
    for pooling in ("mean", "cls", "none"):
        found, reverse = (alone(s, pooling=pooling, average_reverse_complement=True) for s in (sequence, other))
        np.testing.assert_allclose(found, reverse[::-1] if pooling == "none" else reverse, **EXACT)
        forward, backward = (alone(s, pooling=pooling) for s in (sequence, other))
        flipped = backward[::-1] if pooling == "none" else backward
        np.testing.assert_allclose(found, (forward.astype(np.float64) + flipped) / 2, **EXACT)


@given(st.integers(1, 300), st.integers(1, 60), st.data())
def test_tiles_answer_for_each_base_once(length, room, data):
    overlap = data.draw(st.integers(0, room - 1))
    found = Tiles(length, room, overlap)
    assert found[0][0] == 0 and found[-1][1] == length
    assert all(end - start == min(room, length) for start, end, _, _ in found)
    assert all(start <= first < last <= end for start, end, first, last in found)
    assert [x for _, _, first, last in found for x in range(first, last)] == list(range(length))
    assert all(before[1] - after[0] >= overlap for before, after in pairwise(found))
    mirrored = [(length - end, length - start) for start, end, _, _ in reversed(found)]
    middle = len(found) // 2 if len(found) % 2 else None  # may miss the exact middle by half a base
    assert all(i == middle or one == other[:2] for i, (one, other) in enumerate(zip(mirrored, found, strict=True)))
    assert len(found) == 1 or (len(found) - 2) * (room - overlap) < length - room  # one fewer would not do


@fewer_examples(6)
@given(st.text("ACGTN", min_size=1, max_size=90), st.integers(6, 30), st.booleans(), st.data())
def test_tiles_are_pooled_as_one_sequence(sequence, context, both_strands, data):
    overlap = data.draw(st.integers(0, context - 2))
    options = {"long": "tile", "context": context, "overlap_bp": overlap, "average_reverse_complement": both_strands}
    whole = np.zeros((len(sequence), 32))
    summary = []
    for start, end, first, last in Tiles(len(sequence), context - 1, overlap):
        tile = sequence[start:end]
        bases = alone(tile, pooling="none", average_reverse_complement=both_strands)
        whole[first:last] = bases[first - start : last - start]
        summary.append(alone(tile, pooling="cls", average_reverse_complement=both_strands))
    np.testing.assert_allclose(alone(sequence, pooling="none", **options), whole, **EXACT)
    np.testing.assert_allclose(alone(sequence, pooling="mean", **options), whole.mean(0), **EXACT)
    np.testing.assert_allclose(alone(sequence, pooling="cls", **options), np.mean(summary, axis=0), **EXACT)


@fewer_examples(3)
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=200), st.sampled_from([16_384, 1, 700]))
def test_batches_are_small_enough_and_hold_each_sequence_once(lengths, batch_tokens):
    tokens = [np.full(length, nucleotide.BASES[0], np.uint8) for length in lengths]
    shapes, seen = [], []

    def network(batch):
        shapes.append(tuple(batch.tokens.shape))
        seen.extend(batch.rows.tolist())
        real = torch.full((len(batch.rows),), batch.tokens.shape[1]) if batch.lengths is None else batch.lengths
        assert real.tolist() == [1 + lengths[i] for i in batch.rows.tolist()]
        assert (batch.tokens == nucleotide.PAD).sum(1).tolist() == (batch.tokens.shape[1] - real).tolist()
        return batch.rows[:, None]

    assert [int(row[0]) for row in predict(network, tokens, CPU, batch_tokens)] == list(range(len(lengths)))
    assert sorted(seen) == list(range(len(lengths)))
    for rows, positions in shapes:
        assert rows == 1 or rows * positions <= batch_tokens


def test_a_batch_without_padding_has_no_lengths():
    tokens = [nucleotide.encode(s) for s in ("ACGT", "TTTT", "AC")]
    assert make_batch(tokens[:2], torch.device("cpu")).lengths is None
    batch = make_batch(tokens[:0:-1], torch.device("cpu"))
    assert batch.lengths.tolist() == [3, 5] and batch.tokens.tolist() == [[2, 11, 12, 0, 0], [2, 14, 14, 14, 14]]
