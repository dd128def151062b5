"""Sequences longer than a model's context become tiles that overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload


class Tile(NamedTuple):
    """Bases [start, end) of a sequence; [keep_start, keep_end) are those it answers for."""

    start: int
    end: int
    keep_start: int
    keep_end: int


@dataclass(frozen=True)
class Tiles(Sequence[Tile]):
    """The tiles of a sequence, computed when they are asked for, so that a chromosome's take no memory.

    Tiles are as few as the overlap allows and evenly spaced, the same from either end (but for
    half a base in the very middle). Overlaps are shared in halves:
    every base is kept by exactly one tile, the one whose ends are farther from it. A sequence that fits is one tile.

    Args:
        length: bases of the sequence.
        room: bases of a tile.
        overlap: bases that neighbouring tiles share at least, below `room`.
    """

    length: int
    room: int
    overlap: int

    def __len__(self) -> int:
        beyond = max(0, self.length - self.room)
        return 1 - (-beyond // (self.room - self.overlap))

    def _start(self, number: int) -> int:
        beyond, last = self.length - self.room, len(self) - 1
        if number == 0:
            return 0
        if 2 * number > last:
            return beyond - self._start(last - number)
        return (2 * number * beyond + last - 1) // (2 * last)  # rounded, halves down

    def _cut(self, number: int) -> int:
        """Where what tile `number` keeps begins."""
        if number == 0:
            return 0
        if number == len(self):
            return self.length
        ends = self._start(number) + self._start(number - 1) + self.room
        return (ends + (2 * number > len(self))) // 2

    @overload
    def __getitem__(self, number: int) -> Tile: ...
    @overload
    def __getitem__(self, number: slice) -> list[Tile]: ...
    def __getitem__(self, number: int | slice) -> Tile | list[Tile]:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(f"there are {len(self)} tiles, got {number}")
        i = number % len(self)
        start = self._start(i)
        return Tile(start, min(start + self.room, self.length), self._cut(i), self._cut(i + 1))
