"""All single-base variants of a region."""

from __future__ import annotations

import numpy as np
import pytest
from support.pair import tiny_pair
from support.tiny import tiny_encoder
from support.variants import genome_of, random_bases

import nucel
from nucel.genome.variants import Variant
from nucel.runtime.errors import ConfigError, InputError

BASES = random_bases(120, 31)
CONTIGS = {"c": BASES[:60] + "N" + BASES[61:], "p:1001-1120": BASES}


@pytest.fixture(scope="module")
def pair():
    return tiny_pair(64)


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    return genome_of(tmp_path_factory.mktemp("genome"), CONTIGS)


def test_the_matrix_holds_the_scores_of_all_variants(pair, genome):
    matrix = nucel.saturation_mutagenesis(pair, genome, ("c", 50, 70), "llr")
    assert matrix.shape == (20, 4)
    for i, row in enumerate(matrix):
        ref = CONTIGS["c"][50 + i]
        if ref == "N":
            assert np.isnan(row).all()
            continue
        variants = [Variant("c", 50 + i, ref, alt) for alt in "ACGT"]
        np.testing.assert_allclose(row, nucel.score_variants(pair, variants, genome)["llr"], rtol=1e-5, atol=1e-6)
        assert row["ACGT".index(ref)] == 0


def test_without_a_name_the_model_s_best_score_is_taken(pair, genome):
    for model, score in ((pair, "rtd_corrected"), (pair.generator, "llr"), (pair.discriminator, "rtd")):
        expected = nucel.saturation_mutagenesis(model, genome, ("c", 10, 14), score)
        np.testing.assert_array_equal(nucel.saturation_mutagenesis(model, genome, ("c", 10, 14)), expected)
    cosine = nucel.saturation_mutagenesis(tiny_encoder(), genome, ("c", 10, 14), context=64)
    assert (cosine >= 0).all() and (cosine > 0).sum() == 12


def test_a_region_on_a_piece_has_the_contig_s_coordinates(pair, genome):
    matrix = nucel.saturation_mutagenesis(pair, genome, ("p", 1010, 1015), "rtd")
    same = nucel.saturation_mutagenesis(pair, genome, ("p:1001-1120", 10, 15), "rtd")
    np.testing.assert_array_equal(matrix, same)
    assert [("ACGT")[np.flatnonzero(row == 0)[0]] for row in matrix] == list(BASES[10:15])


def test_refusals(pair, genome):
    with pytest.raises(InputError, match="not in the genome"):
        nucel.saturation_mutagenesis(pair, genome, ("c", 100, 121))
    with pytest.raises(InputError, match="no_contig"):
        nucel.saturation_mutagenesis(pair, genome, ("d", 0, 5))
    with pytest.raises(ConfigError, match="one score"):
        nucel.saturation_mutagenesis(pair, genome, ("c", 0, 5), scores=("rtd",))
