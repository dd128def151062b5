"""The one alphabet: token ids, the byte table that reads a sequence, the complement.

The 27 ids are those of the published NucEL model, so that its weights load. A model's sequence is ``[CLS]`` followed by
one token per base. ``A C G T`` are read in either case, ``U`` reads as ``T``, and every other byte (``N``, IUPAC
ambiguity codes, gaps) is ``[UNK]``.
"""

from __future__ import annotations

import numpy as np

TOKENS: tuple[str, ...] = (
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[BOS]", "[EOS]",
    *(f"[UNUSED_{i}]" for i in range(4)),
    "A", "C", "G", "T",
    *(f"[RESERVED_{i}]" for i in range(12)),
)  # fmt: skip
ID: dict[str, int] = {token: i for i, token in enumerate(TOKENS)}
PAD, UNK, CLS, SEP, MASK = (ID[t] for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
BASES: tuple[int, ...] = tuple(ID[base] for base in "ACGT")
"""Ids of A, C, G, T, which are consecutive: the tokens that are masked and proposed."""
ALIASES: dict[str, str] = {"a": "A", "c": "C", "g": "G", "t": "T", "U": "T", "u": "T"}
"""Letters that read as a base besides A, C, G, T themselves."""
AMBIGUITY_CODES = "RYSWKMBDHVN"
"""IUPAC's letters for more than one base; they read as [UNK]."""


def _encode_table() -> np.ndarray:
    table = np.full(256, UNK, np.uint8)
    for letter, base in [*zip("ACGT", "ACGT", strict=True), *ALIASES.items()]:
        table[ord(letter)] = ID[base]
    return table


def _complement_table() -> np.ndarray:
    table = np.arange(len(TOKENS), dtype=np.uint8)
    for base, partner in zip("ACGT", "TGCA", strict=True):
        table[ID[base]] = ID[partner]
    return table


ENCODE: np.ndarray = _encode_table()
"""uint8 (256,): byte -> token id."""
COMPLEMENT: np.ndarray = _complement_table()
"""uint8 (27,): token id -> id of the complementary base; every other token is its own complement."""
ENCODE.flags.writeable = COMPLEMENT.flags.writeable = False


def encode(sequence: str | bytes) -> np.ndarray:
    """Token ids of a sequence, uint8 (length,), without [CLS]. A letter that is not a base becomes [UNK]."""
    raw = sequence.encode("ascii", errors="replace") if isinstance(sequence, str) else sequence
    return ENCODE[np.frombuffer(raw, np.uint8)]


def decode(tokens: np.ndarray) -> str:
    """Text of token ids (any integer array of one dimension): bases as letters, [UNK] as N, others by name.

    Raises:
        ValueError: an id outside the vocabulary.
    """
    ids = np.asarray(tokens)
    if ids.size and not (ids.min() >= 0 and ids.max() < len(TOKENS)):
        raise ValueError(f"token ids must lie in [0, {len(TOKENS)}), got {ids.min()} to {ids.max()}")
    return "".join("N" if i == UNK else TOKENS[i] for i in ids.tolist())


def reverse_complement(tokens: np.ndarray) -> np.ndarray:
    """The other strand of token ids (..., length), read in its own direction."""
    return COMPLEMENT[tokens[..., ::-1]]
