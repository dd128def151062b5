"""The alphabet: ids of the published model, byte table, complement."""

from __future__ import annotations

import numpy as np
import pytest

from nucel.tokenizers import nucleotide


def test_ids_are_those_of_the_published_model():
    published = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "[BOS]": 5, "[EOS]": 6}
    published |= dict(zip("ACGT", range(11, 15), strict=True))
    published |= {f"[RESERVED_{i}]": 15 + i for i in range(12)}
    assert len(nucleotide.TOKENS) == len(set(nucleotide.TOKENS)) == 27
    assert {token: nucleotide.ID[token] for token in published} == published
    specials = (nucleotide.PAD, nucleotide.UNK, nucleotide.CLS, nucleotide.SEP, nucleotide.MASK)
    assert specials == (0, 1, 2, 3, 4) and nucleotide.BASES == (11, 12, 13, 14)


def test_every_byte_has_a_token():
    bases = {**dict(zip("ACGT", range(11, 15), strict=True)), **dict(zip("acgt", range(11, 15), strict=True))}
    bases |= {"U": 14, "u": 14}
    assert nucleotide.ENCODE.shape == (256,) and nucleotide.ENCODE.dtype == np.uint8
    assert nucleotide.ENCODE.tolist() == [bases.get(chr(byte), nucleotide.UNK) for byte in range(256)]


@pytest.mark.parametrize("sequence", ["ACGTUacgtuNnRYKM-*. ", b"ACGTUacgtuNnRYKM-*. "])
def test_encode_then_decode_gives_bases_in_upper_case_and_n_for_the_rest(sequence):
    tokens = nucleotide.encode(sequence)
    assert tokens.dtype == np.uint8
    assert nucleotide.decode(tokens) == "ACGTTACGTT" + 10 * "N"


def test_letters_beyond_ascii_are_unknown_and_count_once():
    assert nucleotide.decode(nucleotide.encode("AéC")) == "ANC"


def test_decode_names_special_tokens_and_refuses_ids_outside_the_vocabulary():
    assert nucleotide.decode(np.array([nucleotide.CLS, 11, nucleotide.MASK])) == "[CLS]A[MASK]"
    assert nucleotide.decode(np.array([], np.uint8)) == ""
    for outside in (-1, 27):
        with pytest.raises(ValueError, match="must lie in"):
            nucleotide.decode(np.array([11, outside]))


def test_complement_is_an_involution_that_keeps_all_but_bases():
    assert nucleotide.COMPLEMENT[nucleotide.COMPLEMENT].tolist() == list(range(27))
    assert [nucleotide.TOKENS[i] for i in nucleotide.COMPLEMENT[list(nucleotide.BASES)]] == list("TGCA")
    others = [i for i in range(27) if i not in nucleotide.BASES]
    assert nucleotide.COMPLEMENT[others].tolist() == others


def test_reverse_complement_of_rows():
    rows = np.stack([nucleotide.encode("AACGN"), nucleotide.encode("TTTTT")])
    assert [nucleotide.decode(row) for row in nucleotide.reverse_complement(rows)] == ["NCGTT", "AAAAA"]


def test_tables_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        nucleotide.ENCODE[0] = 3
    with pytest.raises(ValueError, match="read-only"):
        nucleotide.COMPLEMENT[0] = 3
