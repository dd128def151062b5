"""Draw the pictures of docs/kernels.md and of the README as SVG: ``python -m website.drawings``.

Plain text, so that a change of a picture can be read; the bars take their numbers from the committed count of machine
code.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PICTURES = REPOSITORY / "docs" / "pictures"
COUNT = REPOSITORY / "benchmarks" / "results" / "static_count.md"
INK, GREY, QUERY, KEY, HIDDEN, ACCENT = "#222", "#888", "#00796b", "#ef6c00", "#eceff1", "#c2185b"

RADIUS, TILE = 64, 64
"""Of local attention, and of the tiles that its kernels compute."""


def svg(width: int, height: int, title: str, shapes: Iterable[str]) -> str:
    """A picture on white, so that it can be read on a dark page as well."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="13" role="img"><title>{title}</title>'
    )
    return "\n".join([head, rectangle(0, 0, width, height, "#fff"), *shapes, "</svg>"]) + "\n"


def rectangle(x: float, y: float, width: float, height: float, fill: str, stroke: str = "none") -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}" stroke="{stroke}"/>'


def polygon(points: Iterable[tuple[float, float]], fill: str) -> str:
    return f'<polygon points="{" ".join(f"{x:g},{y:g}" for x, y in points)}" fill="{fill}"/>'


def text(x: float, y: float, words: str, fill: str = INK, anchor: str = "start", size: int = 13) -> str:
    words = words.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x:g}" y="{y:g}" fill="{fill}" text-anchor="{anchor}" font-size="{size}">{words}</text>'


def arrow(x1: float, y1: float, x2: float, y2: float, colour: str = INK) -> str:
    """A line with a head; horizontal, vertical or slanted."""
    length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
    dx, dy = 8 * (x2 - x1) / length, 8 * (y2 - y1) / length
    left, right = (x2 - dx - dy / 2, y2 - dy + dx / 2), (x2 - dx + dy / 2, y2 - dy - dx / 2)
    line = f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2 - dx:g}" y2="{y2 - dy:g}" stroke="{colour}" stroke-width="1.5"/>'
    return line + polygon([(x2, y2), left, right], colour)


# ---- the band --------------------------------------------------------------------------------------------------------


def visible_share(block: int) -> float:
    """Of the scores that tiles of a size compute for the band, the share that some query sees (far from the ends)."""
    side = -(-RADIUS // block) * block
    return (2 * RADIUS + 1) / (block + 2 * side)


def band() -> str:
    """The matrix of scores: which tiles a kernel computes, and what of them is visible."""
    tiles, cell, x0, y0 = 6, 56, 70, 46
    end = tiles * cell
    shapes = [rectangle(x0, y0, end, end, HIDDEN)]
    for row in range(tiles):
        for column in range(max(0, row - 1), min(tiles, row + 2)):
            shapes.append(rectangle(x0 + column * cell, y0 + row * cell, cell, cell, "#b2dfdb"))
    reach = cell * RADIUS / TILE
    visible = [(0, 0), (reach, 0), (end, end - reach), (end, end), (end - reach, end), (0, reach)]
    shapes.append(polygon([(x0 + x, y0 + y) for x, y in visible], QUERY))
    for line in range(tiles + 1):
        at = line * cell
        shapes.append(f'<path d="M{x0 + at},{y0}v{end}M{x0},{y0 + at}h{end}" stroke="#fff" stroke-width="1"/>')
    row = 3
    shapes.append(rectangle(x0 + (row - 1) * cell, y0 + row * cell, 3 * cell, cell, "none", ACCENT))
    for name, column in (("left", row - 1), ("own", row), ("right", row + 1)):
        shapes.append(text(x0 + (column + 0.5) * cell, y0 + (row + 0.55) * cell, name, "#fff", "middle", 12))
    x = x0 + end + 24
    shapes += [
        text(x0 + end / 2, 24, "keys j", KEY, "middle"),
        text(10, y0 + end / 2, "queries", QUERY),
        text(10, y0 + end / 2 + 16, "i", QUERY),
        rectangle(x, y0 + 10, 14, 14, QUERY),
        text(x + 22, y0 + 22, "visible: |i - j| <= 64"),
        rectangle(x, y0 + 36, 14, 14, "#b2dfdb"),
        text(x + 22, y0 + 48, "computed, then hidden"),
        rectangle(x, y0 + 62, 14, 14, HIDDEN),
        text(x + 22, y0 + 74, "never computed"),
        rectangle(x, y0 + 88, 14, 14, "none", ACCENT),
        text(x + 22, y0 + 100, "one tile of 64 queries:"),
        text(x + 22, y0 + 116, "its 192 keys, one softmax"),
        text(x, y0 + 160, "Share of the computed scores"),
        text(x, y0 + 176, "that is visible:"),
        *(
            text(x, y0 + 200 + 18 * i, f"tiles of {block}: {visible_share(block):.0%}")
            for i, block in enumerate((64, 128))
        ),
    ]
    return svg(x0 + end + 230, y0 + end + 20, "Tiles of the band of local attention", shapes)


# ---- the walk --------------------------------------------------------------------------------------------------------


def walk() -> str:
    """Three steps of the backward pass along the diagonal."""
    cell, y0, shapes = 44, 58, []
    for step, x0 in enumerate((20, 250, 480)):
        shapes.append(text(x0, 24, f"Step {step + 1}: keys of tile {step + 1}"))
        for row in range(5):
            for column in range(5):
                fill = HIDDEN
                if abs(row - column) <= 1:
                    fill = "#b2dfdb" if column < step + 1 else "#fff3e0"
                if column == step + 1 and abs(row - column) <= 1:
                    fill = KEY
                shapes.append(rectangle(x0 + column * cell, y0 + row * cell, cell - 2, cell - 2, fill))
        for row, name in ((step, "dQ done"), (step + 1, "dQ"), (step + 2, "dQ new")):
            x, y = x0 + (step + 1.5) * cell - 1, y0 + (row + 0.6) * cell
            shapes.append(text(x, y, name, "#fff", "middle", 10))
        shapes.append(text(x0 + (step + 1.5) * cell, y0 - 8, "K V", KEY, "middle"))
        shapes.append(arrow(x0 + (step + 1.5) * cell, y0 + 5 * cell, x0 + (step + 1.5) * cell, y0 + 5 * cell + 22, KEY))
        shapes.append(text(x0 + (step + 1.5) * cell, y0 + 5 * cell + 38, "dK dV", KEY, "middle"))
    below = y0 + 5 * cell + 66
    shapes += [
        text(20, below, "One program goes down the diagonal. The keys of one tile meet a column of three tiles."),
        text(
            20,
            below + 18,
            "Each step loads one new tile, finishes dQ of the upper one, and writes dK and dV of its keys.",
        ),
    ]
    return svg(720, y0 + 5 * cell + 100, "The walk of the backward pass along the diagonal", shapes)


# ---- what bounds them ------------------------------------------------------------------------------------------------

UNITS = {"issue": GREY, "xu": KEY, "tensor": QUERY, "l2": "#5c6bc0", "memory": "#90a4ae"}
"""The units that the bars show, of those that the table counts."""
SHOWN = ("walk_forward", "walk_backward", "loop_forward", "global_backward_queries", "global_backward_keys")


def counted(section: str = "## Triton 3.7.1", sm: str = "90") -> dict[str, dict[str, str]]:
    """The rows of the committed count for one version and GPU, by kernel."""
    lines = COUNT.read_text(encoding="utf-8").split(f"\n{section}\n")[1].split("\n## ")[0].splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    rows = [dict(zip(table[0], row, strict=True)) for row in table[2:] if len(row) == len(table[0])]
    return {row["kernel"]: row for row in rows if row["sm"] == sm}


def bounds() -> str:
    """Milliseconds that each unit of an H200 needs at least, by kernel."""
    rows, shapes, y, scale = counted(), [], 40, 380
    for kernel in SHOWN:
        row = rows[kernel]
        shapes.append(text(10, y + 12, kernel))
        shapes.append(text(10, y + 28, f"limit: {row['limiter']}", GREY, size=11))
        for number, (unit, colour) in enumerate(UNITS.items()):
            width = float(row[unit]) * scale
            shapes.append(rectangle(200, y + 11 * number, width, 9, colour))
            if unit == row["limiter"]:
                shapes.append(text(206 + width, y + 11 * number + 9, f"{row[unit]} ms", size=11))
        y += 11 * len(UNITS) + 16
    x = 200
    for unit, colour in UNITS.items():
        shapes += [rectangle(x, 12, 12, 12, colour), text(x + 17, 23, unit)]
        x += 90
    return svg(720, y + 4, "Time that each unit needs at least, by kernel", shapes)


# ---- the data flow ---------------------------------------------------------------------------------------------------


def flow() -> str:
    """The README's picture: ten bases on their way through the pair."""
    original, masked, proposed = "ACGTTGCATA", "AC_TTG_ATA", "ACGTTGTATA"
    labels = ["o" if a == b else "r" for a, b in zip(original, proposed, strict=True)]
    cell, x0, shapes = 30, 210, []
    rows = [
        ("window of the genome", original, 34),
        ("15 % are masked", masked, 104),
        ("generator's proposals", proposed, 174),
        ("discriminator: original?", labels, 244),
    ]
    for name, letters, y in rows:
        shapes.append(text(10, y + 20, name))
        for i, letter in enumerate(letters):
            changed = masked[i] == "_" and name != "window of the genome"
            fill = {"_": "#ffe0b2", "r": "#f8bbd0", "o": "#e0f2f1"}.get(letter, "#ffe0b2" if changed else HIDDEN)
            shapes.append(rectangle(x0 + i * cell, y, cell - 3, 28, fill))
            word = {"_": "?", "o": "yes", "r": "no"}.get(letter, letter)
            shapes.append(text(x0 + i * cell + 13, y + 19, word, ACCENT if letter == "r" else INK, "middle", 12))
    for y, words in ((64, ""), (134, "small generator, trained to fill in"), (204, "large discriminator, kept")):
        shapes += [arrow(x0 + 148, y + 2, x0 + 148, y + 34), text(x0 + 164, y + 23, words, GREY, size=12)]
    x = x0 + 10 * cell + 20
    for i, words in enumerate(("embeddings", "fine-tuning", "variants", "genome tracks", "attribution")):
        shapes += [text(x + 30, 200 + 22 * i, words, QUERY), arrow(x, 258, x + 24, 196 + 22 * i, QUERY)]
    return svg(680, 306, "How NucEL is trained, and what it is used for", shapes)


def main() -> None:
    for drawing in (band, walk, bounds, flow):
        (PICTURES / f"{drawing.__name__}.svg").write_text(drawing(), encoding="utf-8")


if __name__ == "__main__":
    main()
