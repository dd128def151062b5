"""Sequences longer than a model's context become tiles that overlap."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple


class Tile(NamedTuple):
    """Bases [start, end) of a sequence; [keep_start, keep_end) are those it answers for."""

    start: int
    end: int
    keep_start: int
    keep_end: int


def tiles(length: int, room: int, overlap: int) -> list[Tile]:
    """The tiles of a sequence of `length` bases, of `room` bases each; overlaps are shared in halves.

    The last tile ends with the sequence, so that it may overlap the one before by more. A sequence that fits is one
    tile. Every base is kept by exactly one tile: the one whose ends are farther from it.
    """
    if length <= room:
        return [Tile(0, length, 0, length)]
    starts = [*range(0, length - room, room - overlap), length - room]
    cuts = [(start + before + room) // 2 for before, start in pairwise(starts)]
    return [
        Tile(start, start + room, first, last)
        for start, first, last in zip(starts, [0, *cuts], [*cuts, length], strict=True)
    ]
