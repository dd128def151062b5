"""Motifs from files in MEME's text format, version 4 and later, minimal and full (meme-suite.org/doc/meme-format.html).

Read are the alphabet, which must be DNA, the strands, the background, and each motif's letter-probability matrix.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..runtime.errors import InputError
from ..tokenizers import nucleotide

_TOLERANCE = 0.01
"""How far the sum of a matrix's row may be from 1: files are written with few digits."""


@dataclass(frozen=True, eq=False)
class Motif:
    """A motif of w positions.

    Attributes:
        name: its identifier, and its other name where it has one: "MA0636.1 BHLHE41".
        probabilities: float64 (w, 4), of A, C, G and T; rows sum to 1.
    """

    name: str
    probabilities: np.ndarray

    def consensus(self) -> np.ndarray:
        """The likeliest bases as token ids, uint8 (w,)."""
        return (self.probabilities.argmax(1) + nucleotide.BASES[0]).astype(np.uint8)

    def draw(self, draws: np.random.Generator) -> np.ndarray:
        """Bases drawn from the matrix, position by position, as token ids uint8 (w,)."""
        ends = self.probabilities.cumsum(1)
        letters = (draws.random(len(ends))[:, None] >= ends[:, :3]).sum(1)
        return (letters + nucleotide.BASES[0]).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class MotifFile:
    """What a MEME file says.

    Attributes:
        motifs: in the file's order.
        both_strands: whether the motifs stand for both strands, "+ -".
        background: float64 (4,), frequencies of A, C, G and T; uniform where the file gives none.
    """

    motifs: list[Motif]
    both_strands: bool = True
    background: np.ndarray = field(default_factory=lambda: np.full(4, 0.25))


def read_motifs(path: str | Path) -> MotifFile:
    """The motifs of a MEME file.

    Raises:
        InputError: another format or alphabet, a matrix that is cut short, or a row that is no distribution; the line
            is named.
        OSError: it cannot be read.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file in MEME's format") from None
    if not any(re.match(r"\s*MEME version\s+[4-9]", line) for line in lines):
        raise InputError(f"{path} is not in MEME's format: no line says 'MEME version 4' or later")
    motifs: list[Motif] = []
    name, both, background, i = "", True, np.full(4, 0.25), 0
    while i < len(lines):
        line = lines[i].strip()
        i += 1
        if line.startswith("ALPHABET") and not re.match(r"ALPHABET\s*=\s*ACGT$|ALPHABET\s+\"?DNA", line):
            raise InputError(f"{path}, line {i}: the alphabet must be ACGT, got {line[:60]!r}")
        if line.startswith("strands:"):
            both = "-" in line.split(":")[1]
        elif line.startswith("Background letter frequencies"):
            background, i = _background(path, lines, i)
        elif line.startswith("MOTIF"):
            name = " ".join(line.split()[1:3])
        elif line.startswith("letter-probability matrix"):
            matrix, i = _matrix(path, lines, i, name)
            motifs.append(Motif(name or f"motif {len(motifs) + 1}", matrix))
    if not motifs:
        raise InputError(f"{path} holds no letter-probability matrix")
    return MotifFile(motifs, both, background)


def _background(path: str | Path, lines: list[str], i: int) -> tuple[np.ndarray, int]:
    """Frequencies that follow line i, maybe over several lines, and the number of lines read so far."""
    words: list[str] = []
    start = i
    while i < len(lines) and len(words) < 8 and lines[i].strip():
        words += lines[i].split()
        i += 1
    found = dict(zip(words[::2], words[1::2], strict=False))
    try:
        return _distribution([float(found[letter]) for letter in "ACGT"]), i
    except (KeyError, ValueError):
        raise InputError(f"{path}, line {start + 1}: the background must give A, C, G and T a frequency") from None


def _matrix(path: str | Path, lines: list[str], i: int, name: str) -> tuple[np.ndarray, int]:
    """The matrix whose head is line i, (w, 4), and the number of lines read so far."""
    head = dict(re.findall(r"(\w+)\s*=\s*(\S+)", lines[i - 1]))
    if head.get("alength", "4") != "4":
        raise InputError(f"{path}, line {i}: motif {name!r} has alength= {head['alength']}, DNA has 4")
    rows: list[np.ndarray] = []
    while i < len(lines) and (cells := lines[i].split()) and re.match(r"[-+.\d]", cells[0]):
        try:
            if len(cells) != 4:
                raise ValueError
            rows.append(_distribution([float(cell) for cell in cells]))
        except ValueError:
            raise InputError(
                f"{path}, line {i + 1}: a row of motif {name!r} must be four probabilities that sum to 1, "
                f"got {lines[i].strip()[:60]!r}"
            ) from None
        i += 1
    if not rows or (head.get("w", str(len(rows))) != str(len(rows))):
        raise InputError(f"{path}, line {i}: motif {name!r} has {len(rows)} rows, w= {head.get('w')}")
    return np.stack(rows), i


def _distribution(cells: list[float]) -> np.ndarray:
    """Made to sum to 1 exactly; ValueError where they are no probabilities."""
    row = np.array(cells)
    if not np.isfinite(row).all() or (row < 0).any() or abs(row.sum() - 1) > _TOLERANCE:
        raise ValueError
    return row / row.sum()
