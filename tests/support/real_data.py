"""A miniature of the folder of real data that `NUCEL_DATA` names: every kind of file in its place, with few rows."""

from __future__ import annotations

import gzip
from pathlib import Path

from benchmarks.experiments import judged_data

from .barcodes import write_set
from .genomes import random_bases
from .tiny import planted_rows, write_task

TASKS = {"tf/0", "splice", "promoters/ecoli", "promoters/mouse"}
"""What `judged_data.prepare` makes of it."""


def zipped(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()))
    return path


def write_data(folder: Path) -> Path:
    """Labelled tables, barcodes, and two annotated genomes."""
    for table in write_task(folder / "gue" / "tf" / "0", 40, 20, 30).values():
        zipped(table.with_suffix(".csv.gz"), table.read_text())
        table.unlink()
    rows = [f"{['EI', 'IE', 'N'][i % 3]},ROW-{i},    {random_bases(58, i)}DN" for i in range(90)]
    (folder / "uci").mkdir()
    (folder / "uci" / "splice.data.txt").write_text("\n".join(["class,instance,f1", *rows]) + "\n")
    for number, stem in enumerate(stem for pair in judged_data.PROMOTERS.values() for stem in pair):
        found = [sequence for sequence, label in planted_rows(100, number) if label == (number + 1) % 2]
        text = "".join(f">{i}\n{sequence}\n" for i, sequence in enumerate(found))
        zipped(folder / "promoters" / f"{stem}.fa.gz", text)
    write_set(folder / "barcodes")
    for number, name in enumerate(("first_one", "second")):
        zipped(folder / "genomes" / "bacteria" / f"{name}.fa.gz", f">NC_{number}\n{random_bases(4000, number)}\n")
        kinds = ("CDS", "tRNA")
        lines = [f"NC_{number}\t{100 * i}\t{100 * i + 60 + i}\t{kinds[i % 2]}\t0\t+\n" for i in range(39)]
        zipped(folder / "annotations" / f"{name}.bed.gz", "".join(lines))
    return folder
