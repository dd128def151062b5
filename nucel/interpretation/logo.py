"""Maps as sequence logos (logomaker): a row of letters for each method, as high as the value of the base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..runtime import files
from ..tokenizers import nucleotide
from .attribution import Attribution

ROW_BP = 200
"""Bases of a row at most."""


def letter_heights(tokens: np.ndarray, one: Attribution) -> np.ndarray:
    """Heights of A, C, G and T, float64 (L, 4); 0 where a letter is not drawn.

    The base that is there stands as high as its value, below the axis where that is negative. Distributions over the
    bases are drawn as information logos: each letter as high as its probability times ln 4 - H.
    """
    if one.probabilities is not None:
        p = np.nan_to_num(one.probabilities.astype(np.float64))
        entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(1, keepdims=True)
        return p * (np.log(4) - entropy)
    present = tokens[:, None] == np.array(nucleotide.BASES)
    return np.where(present, np.nan_to_num(one.values.astype(np.float64))[:, None], 0.0)


def draw_logos(title: str, tokens: np.ndarray, maps: dict[str, Attribution], path: Path) -> None:
    """Draw the maps of one sequence by several methods, one under the other, with common positions.

    Args:
        tokens: uint8 (L,), without [CLS].
        maps: by method, each of this sequence. A dependency map is drawn as a heat map.
        path: .png, .svg or .pdf. Needs logomaker and matplotlib.
    """
    import logomaker  # optional dependencies
    import pandas
    from matplotlib.figure import Figure

    blocks = [(start, min(start + ROW_BP, len(tokens))) for start in range(0, len(tokens), ROW_BP)]
    logos = [(name, letter_heights(tokens, one)) for name, one in maps.items()]
    squares = [(name, one.dependency) for name, one in maps.items() if one.dependency is not None]
    rows = len(blocks) * len(logos)
    width = max(4.0, 0.09 * max(end - start for start, end in blocks))
    heights = [1.2] * rows + [1.0] + [6.0] * len(squares)
    figure = Figure(figsize=(width, sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    places = iter(axes)
    for start, end in blocks:
        for name, table in logos:
            panel = next(places)
            frame = pandas.DataFrame(table[start:end], columns=list("ACGT"), index=range(start, end))
            logomaker.Logo(frame, ax=panel, color_scheme="classic", flip_below=True)
            low, high = _limits(table)
            panel.set(ylim=(low, high), ylabel=name, xlim=(start - 0.5, start + min(ROW_BP, len(tokens)) - 0.5))
            panel.axhline(0, color="0.6", linewidth=0.5)
    values = np.stack([one.values for one in maps.values()]).astype(np.float64)
    _heat_map(next(places), values, list(maps))
    for (name, square), panel in zip(squares, places, strict=True):
        panel.imshow(square, cmap="viridis", interpolation="nearest")
        panel.set(title=f"{name}: change at column when row is changed", xlabel="position", ylabel="position")
    axes[0].set_title(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=150)


def _limits(table: np.ndarray) -> tuple[float, float]:
    low, high = float(np.minimum(table, 0).sum(1).min()), float(np.maximum(table, 0).sum(1).max())
    return (low * 1.05, high * 1.05) if high > low else (-1.0, 1.0)


def _heat_map(panel, values: np.ndarray, names: Sequence[str]) -> None:
    """Each method's values in one row, scaled to its own largest."""
    largest = np.nanmax(np.abs(values), axis=1, keepdims=True, initial=0)
    scaled = values / np.where(largest > 0, largest, 1)
    panel.imshow(scaled, aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    panel.set(yticks=range(len(names)), yticklabels=names, xlabel="position")


def picture_name(out: Path, number: int, sequences: int) -> Path:
    """OUT for one sequence, OUT's stem with -1, -2, ... for several."""
    return out if sequences == 1 else out.with_name(f"{out.stem}-{number + 1}{out.suffix}")
