"""What a report is made of: sections of text, tables, pictures and comparisons, kept on disk once they are finished.

A section holds plain text and numbers only; `report_page` makes HTML of it.
"""

from __future__ import annotations

import base64
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from ..runtime.files import remove, write_text

Cell = str | list[float | None]
"""Text, or a value with its interval: [value, low, high]. None is what is not known."""


class Figure(NamedTuple):
    """A value and its 95 % interval; nan where it is not known."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def cell(self) -> Cell:
        return [known(x) for x in self]

    @classmethod
    def of_cell(cls, cell: Cell) -> Figure:
        return cls(*(math.nan if x is None else float(x) for x in cell))


def known(value: float) -> float | None:
    """A number as JSON can hold it."""
    return value if math.isfinite(value) else None


def difference(one: Figure, other: Figure) -> Figure:
    """One figure less another, with an interval from theirs, as if they were independent (MOVER, Zou and Donner 2008).

    Two methods on the same test sequences tend to err on the same ones, and then the interval is wider than it needs
    to be.
    """
    value = one.value - other.value
    low = value - math.hypot(one.value - one.low, other.high - other.value)
    high = value + math.hypot(one.high - one.value, other.value - other.low)
    return Figure(value, low, high)


@dataclass(frozen=True)
class Comparison:
    """The model beside one control on one task.

    Attributes:
        metric: its name; larger is better.
        control: name of the control.
        model, other, difference: cells; the difference is the model's figure less the control's.
        pretrained: whether the control is pre-trained too, so that it does not tell what pre-training is worth.
    """

    task: str
    metric: str
    control: str
    model: Cell
    other: Cell
    difference: Cell
    pretrained: bool = False

    @classmethod
    def of(
        cls, task: str, metric: str, control: str, model: Figure, other: Figure, gain: Figure, pretrained: bool = False
    ) -> Comparison:
        return cls(task, metric, control, model.cell, other.cell, gain.cell, pretrained)

    @property
    def gain(self) -> Figure:
        return Figure.of_cell(self.difference)

    @property
    def better(self) -> bool:
        """Whether the interval of the difference lies above 0."""
        return self.gain.low > 0

    @property
    def worse(self) -> bool:
        """Whether it lies below 0."""
        return self.gain.high < 0


@dataclass(frozen=True)
class Table:
    """Rows of cells below a header."""

    caption: str
    header: list[str]
    rows: list[list[Cell]]


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI, and what it shows."""

    caption: str
    uri: str


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Attributes:
        paragraphs: text before the tables.
        commands: what computes the same figures without the report.
        notes: text after the pictures: how the figures are made, what limits them.
    """

    title: str
    paragraphs: list[str] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Section:
        parts = {"comparisons": Comparison, "tables": Table, "pictures": Picture}
        made = {name: [kind(**one) for one in content[name]] for name, kind in parts.items()}
        return cls(**(content | made))


def picture(path: Path, caption: str) -> Picture:
    """A picture of a file, .svg or .png."""
    kind = {".svg": "image/svg+xml", ".png": "image/png"}[path.suffix]
    return Picture(caption, f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}")


class Kept:
    """The folder PAGE.parts beside a page: NAME.json of each finished section, and the tables it was made from.

    The same command goes on with what is missing, and another one takes over the sections that it has in common: each
    file holds the identity of what its section was made from.
    """

    def __init__(self, page: Path):
        self.folder = page.with_name(page.name + ".parts")

    def section(self, name: str, identity: dict[str, Any], make: Callable[[Path], Section]) -> Section:
        """A section that is there and of this identity, or else a new one.

        Args:
            name: of the section; letters that a file's name may not have are replaced.
            identity: all that it depends on, as JSON takes it.
            make: from the path of a folder that does not exist yet, where its tables may be left.
        """
        path = self.folder / f"{_file_name(name)}.json"
        wanted = json.loads(json.dumps({"name": name, **identity}, default=str))
        if (stored := _read(path)) is not None and stored["identity"] == wanted:
            return Section.from_json(stored["section"])
        tables = path.with_suffix("")
        remove(path)
        remove(tables)
        self.folder.mkdir(parents=True, exist_ok=True)
        begun = path.with_suffix(".begun")
        if _text(begun) != json.dumps(wanted):
            remove(tables.with_name(tables.name + ".parts"))  # what another section of this name had finished
            write_text(begun, json.dumps(wanted))
        started = time.perf_counter()
        section = make(tables)
        section = replace(section, seconds=round(time.perf_counter() - started, 1))
        write_text(path, json.dumps({"identity": wanted, "section": asdict(section)}, indent=1) + "\n")
        remove(begun)
        return section

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for pictures on their way into a section."""
        folder = self.folder / "drawing"
        remove(folder)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            remove(folder)


def _file_name(name: str) -> str:
    """Two names that differ keep apart: what is replaced is replaced by its code."""
    return re.sub(r"[^\w. -]|^\.", lambda match: f"%{ord(match[0]):x}", name)


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _read(path: Path) -> dict[str, Any] | None:
    """What a file of a section holds; None where there is none, or a damaged one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        Section.from_json(content["section"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return content if "identity" in content else None
