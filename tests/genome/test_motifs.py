"""MEME files: matrices, background and strands as they are written, and errors that name the line."""

from __future__ import annotations

import numpy as np
import pytest
from support.data import DATA, real
from support.genomes import write

from nucel.genome.motifs import read_motifs
from nucel.runtime.errors import InputError
from nucel.tokenizers.nucleotide import BASES, decode

FULL = """********
MEME - Motif discovery tool
********
MEME version 5.5.5 (Release date: x)

ALPHABET= ACGT

strands: +

Background letter frequencies (from uniform background):
A 0.3 C 0.2
G 0.2 T 0.3

MOTIF MA1 first
log-odds matrix: alength= 4 w= 2 E= 0
  10 20 30 40
  10 20 30 40
letter-probability matrix: alength= 4 w= 3 nsites= 20 E= 0
 1.0 0.0 0.0 0.0
 0.0 0.502 0.502 0.0
 0.1 0.2 0.3 0.4
URL http://x

MOTIF second
letter-probability matrix:
0 0 0 1
"""


def test_a_full_file(tmp_path):
    found = read_motifs(write(tmp_path / "m.meme", FULL))
    assert [motif.name for motif in found.motifs] == ["MA1 first", "second"] and not found.both_strands
    np.testing.assert_allclose(found.background, [0.3, 0.2, 0.2, 0.3])
    np.testing.assert_allclose(found.motifs[0].probabilities, [[1, 0, 0, 0], [0, 0.5, 0.5, 0], [0.1, 0.2, 0.3, 0.4]])
    assert decode(found.motifs[1].consensus()) == "T"


def test_draws_follow_the_matrix(tmp_path):
    motif = read_motifs(write(tmp_path / "m.meme", FULL)).motifs[0]
    draws = np.random.default_rng(0)
    drawn = np.stack([motif.draw(draws) for _ in range(4000)]) - BASES[0]
    shares = np.stack([(drawn == letter).mean(0) for letter in range(4)], axis=1)
    np.testing.assert_allclose(shares, motif.probabilities, atol=0.04)  # five standard errors
    assert (drawn[:, 0] == 0).all()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("MEME version 5.5.5", "hello", "is not in MEME's format"),
        ("ALPHABET= ACGT", "ALPHABET= ACDEFGHIKLMNPQRSTVWY", "line 6: the alphabet must be ACGT"),
        (" 0.1 0.2 0.3 0.4", " 0.1 0.2 0.3 0.5", "line 21: a row of motif 'MA1 first'"),
        (" 0.1 0.2 0.3 0.4", " 0.1 0.2 0.3", "line 21: a row of motif"),
        (" 0.1 0.2 0.3 0.4\n", "", "has 2 rows, w= 3"),
        (" 0.1 0.2 0.3 0.4", " 0.1 nan 0.3 0.4", "line 21: a row of motif"),
        ("alength= 4 w= 3", "alength= 20 w= 3", "alength= 20"),
        ("A 0.3 C 0.2", "A 0.3", "line 11: the background"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, old, new, message):
    assert old in FULL
    with pytest.raises(InputError, match=message):
        read_motifs(write(tmp_path / "m.meme", FULL.replace(old, new)))


class TestReal:
    pytestmark = real("motifs")

    @pytest.mark.parametrize(("name", "number"), [("jaspar_4.meme", 4), ("mixed_jaspar_hocomoco_12.meme", 12)])
    def test_public_files(self, name, number):
        found = read_motifs(DATA / "motifs" / name)
        assert len(found.motifs) == number and found.both_strands
        for motif in found.motifs:
            np.testing.assert_allclose(motif.probabilities.sum(1), 1)
