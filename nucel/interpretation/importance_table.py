"""What is planted where, and the effects as a table and as a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..genome.motifs import Motif, read_motifs
from ..genome.sequences import parse_bases
from ..runtime import files
from ..runtime.cli import counting
from ..runtime.errors import ConfigError, InputError, require
from ..tokenizers import nucleotide
from .attribution_files import read_maps
from .importance import Backgrounds, Effect, Model, Planted, effect, interaction, sites_above


@dataclass(frozen=True, kw_only=True)
class PatternOptions:
    """What is planted, and where."""

    pattern: tuple[str, ...] = ()
    """Patterns to plant; N and other codes leave the background as it is."""
    motifs: Path | None = None
    """MEME file whose motifs are planted too."""
    motif_names: tuple[str, ...] = ()
    """Which of its motifs, by identifier; by default all."""
    drawn: bool = False
    """Draw motifs from their matrices, anew for each background; by default their consensus is planted."""
    sites: Path | None = None
    """Maps of the same sequences that `attribution` has written (.npz, .h5): the bases above the 95th percentile of a
    map, and 2 on either side of each, are planted in the sequence's own shuffles, where they were."""
    both_motif_strands: bool = False
    """Also plant the reverse complement of each pattern, as rows of its own."""
    positions: tuple[int, ...] = ()
    """Starts of the patterns, counted from 0; by default the middle of each sequence."""
    spacings: tuple[int, ...] = ()
    """Plant two patterns with so many bases between them, around the middle: how far they interact."""

    def __post_init__(self) -> None:
        chosen = bool(self.pattern) or self.motifs is not None or self.sites is not None
        require(chosen, "give --pattern, --motifs or --sites")
        require(not self.motif_names or self.motifs is not None, "--motif-names needs --motifs")
        require(not (self.positions and self.spacings), "--positions and --spacings exclude each other")
        require(min((*self.positions, *self.spacings), default=0) >= 0, "positions and spacings are at least 0")


class Word(NamedTuple):
    """Something to plant."""

    name: str
    strand: str
    draw: Callable[[np.random.Generator], np.ndarray]
    """Its bases uint8 (w,)."""


class Row(NamedTuple):
    """A row of the table."""

    pattern: str
    strand: str
    start_bp: int | None
    """None for the middle."""
    spacing_bp: int | None
    """Of an interaction."""
    effect: Effect


def words(options: PatternOptions) -> list[Word]:
    """What is planted, in the order given.

    Raises:
        ConfigError: no such motif, or no two patterns for a spacing.
        InputError: a letter that is not a nucleotide code, or a file that is not in MEME's format.
    """
    found = [Word(text, "+", _fixed(parse_bases(text, f"--pattern {text}"))) for text in options.pattern]
    if options.motifs is not None:
        listed = read_motifs(options.motifs).motifs
        chosen = [motif for motif in listed if not options.motif_names or _is_named(motif, options.motif_names)]
        missing = [name for name in options.motif_names if not any(_is_named(motif, (name,)) for motif in listed)]
        if missing:
            raise ConfigError(f"{options.motifs} has no motif {missing[0]!r}; it has {_some(listed)}")
        found += [Word(m.name, "+", m.draw if options.drawn else _fixed(m.consensus())) for m in chosen]
    if options.spacings and len(found) != 2:
        raise ConfigError(f"--spacings needs two patterns, got {len(found)}")
    if options.both_motif_strands:
        found = [strand for word in found for strand in (word, Word(word.name, "-", _reverse(word.draw)))]
    return found


def _some(motifs: Sequence[Motif]) -> str:
    return ", ".join(repr(motif.name) for motif in motifs[:10])


def _is_named(motif: Motif, names: Sequence[str]) -> bool:
    return motif.name in names or motif.name.split()[0] in names


def _fixed(tokens: np.ndarray) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda draws: tokens


def _reverse(draw: Callable[[np.random.Generator], np.ndarray]) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda draws: nucleotide.reverse_complement(draw(draws))


def marked_sites(options: PatternOptions, sequences: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The bases that --sites marks in each sequence, as patterns uint8 (L,); an empty list without that option.

    Raises:
        InputError: the file holds no maps, or maps of other sequences.
    """
    if options.sites is None:
        return []
    maps = read_maps(options.sites)
    if len(maps.tokens) != len(sequences) or not all(map(np.array_equal, maps.tokens, sequences)):
        raise InputError(f"{options.sites} holds maps of other sequences than those that are shuffled")
    return [sites_above(values, tokens) for values, tokens in zip(maps.values, maps.tokens, strict=True)]


def measure(model: Model, found: Backgrounds, options: PatternOptions, sites: Sequence[np.ndarray] = ()) -> list[Row]:
    """The effects of all patterns at all positions, or the interactions at all spacings.

    Args:
        sites: a pattern (L,) for each sequence, planted in its own shuffles; see `marked_sites`.
    """
    listed = words(options)
    if options.spacings:
        pairs = [(listed[0], listed[1])] if not options.both_motif_strands else [
            (one, other) for one in listed[:2] for other in listed[2:]
        ]  # fmt: skip
        with counting(len(pairs) * len(options.spacings), "interactions") as count:
            rows = []
            for one, other in pairs:
                for spacing in options.spacings:
                    rows.append(_interaction_row(model, found, one, other, spacing))
                    count(1)
        return rows
    starts: Sequence[int | None] = options.positions or (None,)
    with counting(len(listed) * len(starts) + bool(sites), "effects") as count:
        rows = []
        for word in listed:
            for start in starts:
                planted = [[_at(background, tokens, start)] for background, tokens in _drawn(model, found, word)]
                rows.append(Row(word.name, word.strand, start, None, effect(model, found, planted)))
                count(1)
        if sites:
            shuffles = model.options.shuffles
            planted = [[Planted(0, sites[number // shuffles])] for number in range(len(found.tokens))]
            rows.append(Row("sites of the maps", "+", None, None, effect(model, found, planted)))
            count(1)
    return rows


def _drawn(model: Model, found: Backgrounds, word: Word) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each background and the bases to plant in it, the same at all positions."""
    seed = model.options.seed
    draws = (np.random.default_rng((seed, number, 1)) for number in range(len(found.tokens)))
    return [(tokens, word.draw(source)) for tokens, source in zip(found.tokens, draws, strict=True)]


def _at(background: np.ndarray, tokens: np.ndarray, start: int | None) -> Planted:
    return Planted((len(background) - len(tokens)) // 2 if start is None else start, tokens)


def _interaction_row(model: Model, found: Backgrounds, one: Word, other: Word, spacing: int) -> Row:
    left, right = [], []
    for (background, a), (_, b) in zip(_drawn(model, found, one), _drawn(model, found, other), strict=True):
        start = (len(background) - len(a) - spacing - len(b)) // 2
        if start < 0:
            raise InputError(f"two patterns with {spacing} bases between them do not fit into {len(background)} bases")
        left.append(Planted(start, a))
        right.append(Planted(start + len(a) + spacing, b))
    name, strand = f"{one.name}, {other.name}", f"{one.strand}, {other.strand}"
    return Row(name, strand, None, spacing, interaction(model, found, left, right))


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write the table as TSV: a row for each pattern, strand and place; an empty start is the middle."""
    lines = ["pattern\tstrand\tstart_bp\tspacing_bp\tbackgrounds\tmean\tlow\thigh\twilcoxon_p\tmann_whitney_p"]
    for row in rows:
        place = ["" if x is None else str(x) for x in (row.start_bp, row.spacing_bp)]
        one = row.effect
        numbers = [f"{x:.6g}" for x in (one.mean, one.low, one.high, one.wilcoxon, one.mann_whitney)]
        lines.append("\t".join([row.pattern, row.strand, *place, str(len(one.changes)), *numbers]))
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, "\n".join(lines) + "\n")


def draw_rows(path: Path, rows: Sequence[Row], wild_type: float | None) -> None:
    """Draw a box for each row: the changes over the backgrounds; needs matplotlib.

    Args:
        wild_type: f of the sequences less f of their shuffles, drawn as a line.
    """
    from matplotlib.figure import Figure  # optional dependency

    def label(row: Row) -> str:
        if row.spacing_bp is not None:
            return f"{row.pattern}, {row.spacing_bp} bp"
        return f"{row.pattern} {row.strand}" + ("" if row.start_bp is None else f" at {row.start_bp}")

    figure = Figure(figsize=(2 + 0.4 * len(rows), 5), layout="constrained")
    axes = figure.add_subplot()
    axes.boxplot([row.effect.changes for row in rows], showfliers=False)
    axes.set(ylabel="change of the output")
    axes.set_xticks(range(1, 1 + len(rows)), [label(row) for row in rows], rotation=90)
    axes.axhline(0, color="0.6", linewidth=0.8)
    if wild_type is not None:
        axes.axhline(wild_type, color="tab:red", linestyle="--", label="sequences less their shuffles")
        axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=150)
