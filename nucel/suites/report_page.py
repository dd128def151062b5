"""Sections as one HTML file that fetches nothing: styles within, pictures as data, no scripts.

All text is escaped here, in `_text`: names of contigs, classes and files are not to be trusted.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .probe_table import UNTRAINED
from .report_sections import Cell, Comparison, Figure, Section, Table

_MINUS = "\N{MINUS SIGN}"
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { --ink: #1b1f24; --soft: #5b6470; --line: #d8dde3; --paper: #fff; --block: #f4f6f8; --mark: #0b6b5d;
  --yes: #0b6b5d; --no: #a3391e; --open: #6b6f00; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa4b0; --line: #3a424c; --paper: #14181d;
  --block: #1d232a; --mark: #4fc3ae; --yes: #4fc3ae; --no: #f08a6c; --open: #cfd46a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.2rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .3rem 0 1rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; border-top: 1px solid var(--line); padding-top: 1rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
.verdict { background: var(--block); border-left: .4rem solid var(--open); padding: .8rem 1rem; border-radius: .3rem; }
.verdict.yes { border-color: var(--yes); } .verdict.no { border-color: var(--no); }
.verdict p { margin: .3rem 0; } .verdict p:first-child { font-size: 1.15rem; font-weight: 600; }
nav ul, .verdict ul { padding-left: 1.2rem; margin: .5rem 0; }
a { color: var(--mark); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; color: var(--soft); vertical-align: bottom; }
td { max-width: 30rem; min-width: 4rem; overflow-wrap: anywhere; }
td:first-child { overflow-wrap: break-word; } td.number { white-space: nowrap; min-width: 10.5rem; }
td.number span { color: var(--soft); font-size: .85em; }
svg { display: block; width: 100%; height: 12px; overflow: visible; } svg line { stroke: var(--soft); stroke-width: 2; }
svg line.zero { stroke-width: 1; stroke-dasharray: 2 2; } svg circle { fill: var(--mark); }
.yes-word { color: var(--yes); font-weight: 600; } .no-word { color: var(--no); font-weight: 600; }
figure { margin: 1rem 0; } figure img { display: block; width: 100%; min-width: 34rem; background: #fff;
  border: 1px solid var(--line); border-radius: .3rem; }
figcaption, .note, footer { color: var(--soft); font-size: .9rem; }
pre { background: var(--block); padding: .6rem .8rem; border-radius: .3rem; white-space: pre-wrap;
  overflow-wrap: anywhere; font-size: .85rem; }
@media (max-width: 40rem) { td.number { white-space: normal; min-width: 6.5rem; } td.number span { display: block; }
  .compare thead { display: none; }
  .compare tr { display: block; border-bottom: 1px solid var(--line); padding: .5rem 0; }
  .compare td { display: grid; grid-template-columns: 7rem 1fr; border: 0; padding: .1rem 0; max-width: none; }
  .compare td::before { content: attr(data-label); color: var(--soft); font-weight: 400; }
  .compare svg { grid-column: 1 / 3; } }
@media print { body { max-width: none; font-size: 10pt; padding: 0; } nav { display: none; }
  figure, tr, .verdict { break-inside: avoid; } h2, h3 { break-after: avoid; } .wide { overflow: visible; }
  figure img { min-width: 0; } td.number { min-width: 0; } }
"""


@dataclass(frozen=True)
class Answer:
    """What the whole page says, in plain words.

    Attributes:
        mood: "yes", "no" or "open", for the colour.
        headline: one sentence.
        lines: one for each task.
    """

    mood: str
    headline: str
    lines: list[str]


def answer(comparisons: Sequence[Comparison], learned: str | None = None) -> Answer:
    """Was pre-training worth it, by all comparisons with controls that are not pre-trained themselves?

    Args:
        learned: what is known of the run's own task, for where nothing was compared.
    """
    tasks: dict[str, list[Comparison]] = {}
    for one in comparisons:
        tasks.setdefault(one.task, []).append(one)
    own = {name: [one for one in found if not one.pretrained] for name, found in tasks.items()}
    own = {name: found for name, found in own.items() if found}
    if not own:
        text = "Open: no labelled data were given, so nothing tells what the representations are worth."
        return Answer("open", text, [learned] if learned else [])
    better = [name for name, found in own.items() if all(one.better for one in found)]
    mood = "yes" if len(better) == len(own) else "open" if better else "no"
    text = {"yes": "Yes", "open": "In part", "no": "No"}[mood] + ": " + _headline(len(better), len(own))
    blank = [[one for one in found if one.control.startswith(UNTRAINED)] for found in own.values()]
    gains = [all(one.better for one in found) for found in blank if found]
    if gains and mood != "yes":
        text += " " + _untrained(sum(gains), len(gains))
    return Answer(mood, text, [_sentence(name, found) for name, found in tasks.items()])


def _headline(some: int, number: int) -> str:
    if number == 1:
        return f"on the one task that was given, the model is {'' if some else 'not '}better than every control."
    if not some:
        return f"on none of {number} tasks is the model better than every control."
    which = f"all {number}" if some == number else f"{some} of {number}"
    return f"on {which} tasks the model is better than every control."


def _untrained(some: int, number: int) -> str:
    what = "better than untrained networks of its shape"
    if number == 1 or not some:
        return f"It is {'' if some else 'not '}{what}{'' if number == 1 else ' on any of them'}."
    return f"It is {what} on {some} of {number}."


def _sentence(task: str, found: Sequence[Comparison]) -> str:
    """The model's figure on a task, and its gain over each control."""
    value = found[0].metric, Figure.of_cell(found[0].model)
    parts = [f"{_relation(one)} {one.control} ({_signed(one.gain)})" for one in found]
    relations = "; ".join(parts)
    return f"{task}: {value[0]} {_minus(value[1].value)}. {relations[0].upper()}{relations[1:]}."


def _relation(one: Comparison) -> str:
    return "better than" if one.better else "worse than" if one.worse else "no better than"


def _number(value: float) -> str:
    """Three decimals; one for what lies far from 1."""
    if not math.isfinite(value):
        return "not known"
    text = f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _signed(gain: Figure) -> str:
    if not math.isfinite(gain.value):
        return "difference not known"
    plus = "+" if gain.value >= 0 else _MINUS
    ends = ", no interval"
    if math.isfinite(gain.low) and math.isfinite(gain.high):
        ends = f", {_minus(gain.low)} to {_minus(gain.high)}"
    return f"{plus}{_number(abs(gain.value))}{ends}"


def _minus(value: float) -> str:
    return _number(value).replace("-", _MINUS)


# ---- HTML ------------------------------------------------------------------------------------------------------------


def page(name: str, verdict: Answer, sections: Sequence[Section], about: Sequence[str]) -> str:
    """The page as HTML.

    Args:
        name: of the run.
        about: lines of the footer: command, versions, time.
    """
    compared = [one for section in sections for one in section.comparisons]
    links = "".join(f'<li><a href="#{_anchor(i)}">{_text(one.title)}</a></li>' for i, one in enumerate(sections))
    parts = [
        f"<h1>Was pre-training worth it? {_text(name)}</h1>",
        _verdict(verdict),
        _comparisons(compared) if compared else "",
        f"<nav><h3>On this page</h3><ul>{links}</ul></nav>",
        *(_section(_anchor(i), one) for i, one in enumerate(sections)),
        f"<footer><h2>How this page was made</h2>{''.join(_code(line) for line in about)}</footer>",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>Was pre-training worth it? {_text(name)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def _text(text: str) -> str:
    """Text for HTML, also within attributes. Characters that control a terminal or the direction of text are shown."""
    return html.escape(re.sub(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", "\ufffd", text), quote=True)


def _anchor(number: int) -> str:
    return f"section-{number + 1}"


def _code(text: str) -> str:
    return f"<pre>{_text(text)}</pre>"


def _verdict(verdict: Answer) -> str:
    lines = "".join(f"<li>{_text(line)}</li>" for line in verdict.lines)
    return f'<div class="verdict {_text(verdict.mood)}"><p>{_text(verdict.headline)}</p><ul>{lines}</ul></div>'


def _comparisons(found: Sequence[Comparison]) -> str:
    """The table of all comparisons, whose last column says whether the model is better."""
    gains = [one.gain for one in found]
    scale = _scale(gains, zero=True)
    names = ("task", "metric", "model", "control", "which control", "difference, 95 % interval", "better?")
    rows = []
    for one in found:
        word, kind = ("yes", "yes") if one.better else ("no, worse", "no") if one.worse else ("no", "no")
        values = (_minus(Figure.of_cell(cell).value) for cell in (one.model, one.other))
        cells = [("", _text(text)) for text in (one.task, one.metric, *values, one.control)]
        cells += [("number", _text(_signed(one.gain)) + _bar(one.gain, scale, zero=True)), (f"{kind}-word", word)]
        named = zip(names, cells, strict=True)
        row = (f'<td class="{style}" data-label="{_text(name)}">{content}</td>' for name, (style, content) in named)
        rows.append(f"<tr>{''.join(row)}</tr>")
    note = (
        "Better: the 95 % interval of the difference lies above 0. The intervals are not corrected for the number of "
        "comparisons; the MLM control is pre-trained too, and does not enter the first sentence."
    )
    return f'<h3>Model and controls</h3>{_table(names, rows, "compare")}<p class="note">{_text(note)}</p>'


def _table(header: Sequence[str], rows: Sequence[str], style: str = "") -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in header)
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="wide"><table class="{style}">{body}</table></div>'


def _section(anchor: str, section: Section) -> str:
    parts = [f'<section id="{anchor}"><h2>{_text(section.title)}</h2>']
    parts += [f"<p>{_text(text)}</p>" for text in section.paragraphs]
    parts += [f"<h3>{_text(table.caption)}</h3>{_figures(table)}" for table in section.tables]
    parts += [
        f'<figure><div class="wide"><img src="{_text(one.uri)}" alt="{_text(one.caption)}"></div>'
        f"<figcaption>{_text(one.caption)}</figcaption></figure>"
        for one in section.pictures
    ]
    parts += [f'<p class="note">{_text(text)}</p>' for text in section.notes]
    if section.commands:
        parts.append(f'<p class="note">Commands:</p>{"".join(map(_code, section.commands))}')
    return "".join([*parts, "</section>"])


def _figures(table: Table) -> str:
    """A table whose figures have a bar each, on one scale in each column."""
    scales = {}
    for column in range(len(table.header)):
        figures = [Figure.of_cell(row[column]) for row in table.rows if not isinstance(row[column], str)]
        scales[column] = _scale(figures)
    rows = ["".join(_cell(cell, scales[column]) for column, cell in enumerate(row)) for row in table.rows]
    return _table(table.header, [f"<tr>{row}</tr>" for row in rows])


def _cell(cell: Cell, scale: tuple[float, float]) -> str:
    if isinstance(cell, str):
        return f"<td>{_text(cell).replace('_', '_<wbr>')}</td>"
    figure = Figure.of_cell(cell)
    if not math.isfinite(figure.value):
        return "<td></td>"
    ends = ""
    if math.isfinite(figure.low) and math.isfinite(figure.high):
        ends = f" <span>{_minus(figure.low)} to {_minus(figure.high)}</span>"
    return f'<td class="number">{_minus(figure.value)}{ends}{_bar(figure, scale)}</td>'


def _scale(figures: Sequence[Figure], zero: bool = False) -> tuple[float, float]:
    """What lies at the left and at the right end of the bars."""
    numbers = [x for figure in figures for x in figure if math.isfinite(x)] + ([0.0] if zero else [])
    low, high = min(numbers, default=0.0), max(numbers, default=1.0)
    return (low, high) if high > low else (low - 1, high + 1)


def _bar(figure: Figure, scale: tuple[float, float], zero: bool = False) -> str:
    """An interval as a line with a point, drawn without a script."""
    if not math.isfinite(figure.value):
        return ""
    low, high = scale

    def place(value: float) -> str:
        return f"{2 + 96 * (value - low) / (high - low):.2f}%"

    line = ""
    if math.isfinite(figure.low) and math.isfinite(figure.high):
        line = f'<line x1="{place(figure.low)}" x2="{place(figure.high)}" y1="6" y2="6"/>'
    origin = f'<line class="zero" x1="{place(0)}" x2="{place(0)}" y1="0" y2="12"/>' if zero else ""
    return f'<svg aria-hidden="true">{origin}{line}<circle cx="{place(figure.value)}" cy="6" r="3.5"/></svg>'
