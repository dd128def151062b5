"""Laws of the scores: symmetries, indifference to batches and order, ends of contigs, unknown bases."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from support.pair import tiny_pair
from support.tiny import tiny_encoder
from support.variants import (
    applied,
    genome_of,
    mirrored,
    other_base,
    random_bases,
    reverse_complement,
    substitutions,
)

import nucel
from nucel.genome.variants import Variant
from nucel.interpretation.networks import Networks
from nucel.interpretation.variant_scores import IS_DISTANCE, NEEDS, UNDEFINED_FOR_INDELS
from nucel.interpretation.variant_windows import around
from nucel.runtime.errors import ConfigError

DATA = Path(os.environ.get("NUCEL_DATA", Path(__file__).parents[2] / "../shared/data"))
ALL = tuple(NEEDS)
NEGATED = ("llr", "pll", "rtd", "rtd_corrected", "rtd_window", "rtd_context")
CONTIGS = {"long": random_bases(300, 1), "short": random_bases(40, 2), "even": random_bases(64, 3)}
OTHERS = [
    Variant("long", 100, CONTIGS["long"][100:104], "".join(map(other_base, CONTIGS["long"][100:104]))),
    Variant("long", 150, CONTIGS["long"][150:155], ""),
    Variant("long", 200, "", "GATTACA"),
    Variant("long", 2, CONTIGS["long"][2:4], "TTTTT"),
    Variant("short", 20, CONTIGS["short"][20], ""),
    Variant("short", 39, "", "AC"),
]
"""A substitution of four bases, and indels."""
VARIANTS = substitutions(CONTIGS, 6) + OTHERS


@pytest.fixture(scope="module")
def pair():
    return tiny_pair(context=64)


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    return genome_of(tmp_path_factory.mktemp("genome"), CONTIGS)


@pytest.fixture(scope="module")
def scored(pair, genome):
    return nucel.score_variants(pair, VARIANTS, genome, scores=ALL)


def assert_same(found, expected, tolerance: float = 1e-5) -> None:
    assert found.scores.keys() == expected.scores.keys()
    for name, values in expected.scores.items():
        scale = max(1.0, np.nanmax(np.abs(values)))
        np.testing.assert_allclose(found[name], values, rtol=0, atol=tolerance * scale, err_msg=name)


# ---- check 1 ---------------------------------------------------------------------------------------------------------


def test_a_variant_that_changes_nothing_scores_exactly_0(pair, genome):
    bases = CONTIGS["long"]
    variants = [Variant("long", 50, bases[50], bases[50].lower()), Variant("long", 60, bases[60:65], bases[60:65])]
    scored = nucel.score_variants(pair, variants, genome, scores=ALL)
    assert scored.status == ["ok", "ok"]
    assert all((values == 0).all() for values in scored.scores.values()) and len(scored.scores) == len(ALL)


@pytest.mark.parametrize("variant", [VARIANTS[0], VARIANTS[2], VARIANTS[8], *OTHERS[:4]], ids=str)
def test_exchanging_both_alleles_negates_ratios_and_keeps_distances(pair, genome, tmp_path, variant):
    there = nucel.score_variants(pair, [variant], genome, scores=ALL)
    swapped = genome_of(tmp_path, applied(CONTIGS, variant))
    back = Variant(variant.contig, variant.start_bp, variant.alt, variant.ref)
    found = nucel.score_variants(pair, [back], swapped, scores=ALL)
    for name in (*NEGATED, *IS_DISTANCE):
        expected = there[name] if name in IS_DISTANCE else -there[name]
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-5, err_msg=name)
        assert np.isnan(expected).all() or (expected != 0).all(), f"{name} would pass without being computed"


# ---- check 2 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [64, 63, 20])
def test_the_other_strand_scores_the_same(pair, genome, tmp_path, context):
    """For odd and even windows, at the ends of contigs, for substitutions and indels."""
    here = nucel.score_variants(pair, VARIANTS, genome, scores=ALL, context=context)
    turned = genome_of(tmp_path, {name: reverse_complement(bases) for name, bases in CONTIGS.items()})
    there = nucel.score_variants(pair, [mirrored(CONTIGS, v) for v in VARIANTS], turned, scores=ALL, context=context)
    assert_same(there, here)
    lengths = np.array([len(CONTIGS[v.contig]) for v in VARIANTS])
    assert (there.window_start_bp == lengths - here.window_end_bp).all()


def test_one_strand_alone_is_not_symmetric(pair, genome, scored):
    """So that the law above says something."""
    forward = nucel.score_variants(pair, VARIANTS, genome, average_reverse_complement=False)
    assert not np.allclose(forward["rtd"], scored["rtd"], atol=1e-3, equal_nan=True)


def test_windows_are_inside_the_contig_and_as_long_as_they_can_be():
    for length in (1, 5, 30, 31, 32, 100):
        for room in (1, 8, 31, 32):
            for start in range(length):
                first, last = around(start, start + 1, length, room)
                assert 0 <= first <= start < last <= length
                assert last - first == min(length, room - 1 + room % 2)
                if first > 0 and last < length:
                    assert start - first == last - 1 - start


# ---- check 3 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"batch_tokens": 1}, {"batch_tokens": 700}, {"share_window": 1}], ids=str)
def test_batches_and_bins_of_one_base_change_nothing(pair, genome, scored, options):
    assert_same(nucel.score_variants(pair, VARIANTS, genome, scores=ALL, **options), scored)


def test_the_order_of_records_and_duplicates_change_nothing(pair, genome, scored):
    order = np.random.default_rng(0).permutation(len(VARIANTS)).tolist()
    found = nucel.score_variants(pair, [VARIANTS[i] for i in [*order, *order[:5]]], genome, scores=ALL)
    for name in ALL:
        expected = scored[name][[*order, *order[:5]]]
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-5, err_msg=name)
        # A row of a batch and the same row at another place in it are rounded apart by some builds of torch.
        np.testing.assert_allclose(found[name][:5], found[name][len(order) :], rtol=1e-5, atol=1e-5, err_msg=name)
    assert found.status == [scored.status[i] for i in [*order, *order[:5]]]


def test_more_variants_than_a_chunk(pair, genome, monkeypatch, scored):
    monkeypatch.setattr("nucel.interpretation.variant_effect.CHUNK", 5)
    assert_same(nucel.score_variants(pair, VARIANTS, genome, scores=ALL), scored)


def test_spellings_of_one_change_score_alike(pair, genome):
    bases = CONTIGS["long"]
    alt = other_base(bases[51])
    anchored = [Variant("long", 51, bases[51], alt), Variant("long", 50, bases[50:53], bases[50] + alt + bases[52])]
    deleted = [Variant("long", 150, bases[150:155], ""), Variant("long", 149, bases[149:155], bases[149])]
    found = nucel.score_variants(pair, anchored + deleted, genome, scores=ALL)
    for name, values in found.scores.items():
        np.testing.assert_allclose(values[[0, 2]], values[[1, 3]], rtol=1e-5, atol=1e-5, err_msg=name)


def test_shared_windows_share_and_fast_is_the_unmasked_ratio(pair, genome):
    variants = substitutions({"long": CONTIGS["long"]}, 12)
    shared = nucel.score_variants(pair, variants, genome, share_window=30)
    assert len(set(shared.window_start_bp.tolist())) < len(variants)
    starts = np.array([v.start_bp for v in variants])
    assert ((shared.window_start_bp <= starts) & (starts < shared.window_end_bp)).all()
    fast = nucel.score_variants(pair, variants, genome, fast=True)
    same = nucel.score_variants(pair, variants, genome, scores=("llr_unmasked",), share_window=63 // 2)
    assert list(fast.scores) == ["llr_unmasked"]
    np.testing.assert_array_equal(fast["llr_unmasked"], same["llr_unmasked"])


# ---- check 5 and statuses --------------------------------------------------------------------------------------------


def test_statuses_and_what_indels_leave_undefined(scored):
    assert scored.status == ["ok"] * (len(VARIANTS) - 5) + ["indel"] * 5
    for name, values in scored.scores.items():
        assert np.isfinite(values[:-5]).all(), name
        assert np.isnan(values[-5:]).all() == (name in UNDEFINED_FOR_INDELS), name
    for name in IS_DISTANCE:
        assert (scored[name][:-5] > 0).all()


def test_unknown_bases_and_soft_masks(pair, tmp_path):
    """Lower case scores as upper case; a run of N beside a variant is reported and does not spoil the score."""
    bases = random_bases(200, 5)
    contigs = {"upper": bases, "lower": bases.lower(), "gap": bases[:100] + "N" * 60 + bases[160:]}
    genome = genome_of(tmp_path, contigs)
    alt = other_base(bases[99])
    variants = [Variant(name, 99, bases[99], alt) for name in contigs] + [Variant("gap", 120, "N", "A")]
    scored = nucel.score_variants(pair, variants, genome, scores=ALL)
    assert scored.status == ["ok", "ok", "ok", "unknown_base"]
    for values in scored.scores.values():
        assert values[0] == values[1] != values[2] and np.isfinite(values[2]) and np.isnan(values[3])
    np.testing.assert_allclose(scored.unknown_near[:3], [0, 0, 60 / 129])
    assert np.isnan(scored.unknown_near[3]) and scored.window_start_bp[3] == -1


def test_windows_of_pieces_are_on_the_contig(pair, tmp_path):
    bases = CONTIGS["long"]
    whole = nucel.score_variants(pair, [Variant("c", 1100, bases[100], other_base(bases[100]))],
                                 genome_of(tmp_path, {"c": "A" * 1000 + bases}))  # fmt: skip
    piece = nucel.score_variants(pair, [Variant("c", 1100, bases[100], other_base(bases[100]))],
                                 genome_of(tmp_path, {"c:1001-1300": bases}, "piece.fa"))  # fmt: skip
    assert_same(piece, whole)
    assert (piece.window_start_bp, piece.window_end_bp) == (whole.window_start_bp, whole.window_end_bp) == (1069, 1132)


@pytest.mark.real
@pytest.mark.skipif(not (DATA / "genomes").is_dir(), reason=f"no genomes in {DATA} (set NUCEL_DATA)")
def test_real_odd_places(pair):
    """The ends of the mitochondrion and its N at 3107, and both sides of the gap in chr22."""
    for path in sorted((DATA / "genomes").glob("*")):
        if "chrM" in path.name or "mito" in path.name.lower() or "chr22" in path.name:
            genome = nucel.Genome(path, copy_beside=False)
            tokens = genome.fetch(0)
            text = nucel.decode(tokens)
            gaps = [i for i in range(1, len(text)) if (text[i] == "N") != (text[i - 1] == "N")]
            sides = [i for gap in gaps for i in (gap - 1, gap)]
            places = sorted({0, len(text) - 1, *sides})
            alts = [other_base(text[i]) if text[i] in "ACGT" else "A" for i in places]
            variants = [Variant(genome.contigs[0], i, text[i], alt) for i, alt in zip(places, alts, strict=True)]
            scored = nucel.score_variants(pair, variants, genome)
            expected = ["unknown_base" if text[i] == "N" else "ok" for i in places]
            assert scored.status == expected and "ok" in expected and "unknown_base" in expected
            finite = np.array(expected) == "ok"
            assert all((np.isfinite(values) == finite).all() for values in scored.scores.values())
            if len(text) < 20_000:
                assert text[3106] == "N" and scored.status[places.index(3106)] == "unknown_base"


# ---- what models allow -----------------------------------------------------------------------------------------------


def test_each_model_gives_what_it_can_and_says_what_it_cannot(pair, genome):
    bare, half, masked = (Networks.of(x) for x in (tiny_encoder(), pair.discriminator, pair.generator))
    options = {"context": 64}
    some = VARIANTS[:2]
    assert set(nucel.score_variants(bare, some, genome, **options).scores) == {
        "cosine",
        "cosine_mean",
        "cosine_site",
        "l2",
    }
    assert "rtd" in nucel.score_variants(half, some, genome).scores
    assert "llr" in nucel.score_variants(masked, some, genome).scores
    assert set(nucel.score_variants(pair, some, genome).scores) == set(ALL) - {"pll"}
    for networks, score in ((bare, "rtd"), (bare, "llr"), (half, "rtd_corrected"), (masked, "rtd_corrected")):
        with pytest.raises(ConfigError, match=f"{score} needs"):
            nucel.score_variants(networks, some, genome, scores=(score,), **options)
    with pytest.raises(ConfigError, match="give --context"):
        nucel.score_variants(bare, some, genome)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scores": ("rdt",)}, "scores are"), ({"context": 3}, "context"),
        ({"share_window": 64}, "share_window must be at most"), ({"fast": True, "scores": ("rtd",)}, "--fast"),
        ({"dtype": "int8"}, "dtype"), ({"layer": 3}, "layer must lie in"), ({"batch_tokens": 0}, "batch_tokens"),
    ],
)  # fmt: skip
def test_bad_options_are_refused(pair, genome, options, message):
    with pytest.raises(ConfigError, match=message):
        nucel.score_variants(pair, VARIANTS[:1], genome, **options)


def test_no_variants_give_no_scores(pair, genome):
    scored = nucel.score_variants(pair, [], genome)
    assert len(scored) == 0 and scored["rtd"].shape == (0,)
