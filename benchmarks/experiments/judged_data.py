"""The labelled data that `benchmarks.experiments.judged` reads, from the folder of real data.

| task | made of |
|---|---|
| those of GUE | their own tables train, dev and test |
| splice | UCI's splice junctions, as `benchmarks.experiments.finetune_data` splits them |
| promoters/ecoli, promoters/mouse | CNNProm's two files each, split 80, 10, 10 % by clusters of sequences |
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.experiments.finetune_data import split_splice
from nucel.genome.sequences import SequenceOptions
from nucel.runtime.errors import ConfigError
from nucel.runtime.files import replacing, sha256
from nucel.suites.probes import limited
from nucel.tasks.folders import find_tasks
from nucel.tasks.task import PARTS, Split, Task, TaskOptions, read_task
from nucel.tokenizers import nucleotide

PROMOTERS = {"ecoli": ("Ecoli_prom", "Ecoli_non_prom"), "mouse": ("Mouse_tata", "Mouse_nonprom")}
"""Names of the files of promoters and of other sequences."""
CACHE = "cache"
"""Name of the folder for decompressed copies: nothing is written into the folder of real data."""


def prepare(data: Path, work: Path, rows: int | None) -> Path:
    """Folders of tables train, dev and test, one for each task, in WORK/tasks-ROWS, which is made unless it is there.

    Args:
        rows: of each table at most, from one fixed draw.
    """
    folder = work / f"tasks-{rows or 'all'}"
    if folder.exists():
        return folder
    work.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(folder) as made:
            _write(made, data, rows, SequenceOptions(cache_dir=work / CACHE))
    except OSError:
        if not folder.exists():  # else another process was faster, with the same tables
            raise
    return folder


def _write(folder: Path, data: Path, rows: int | None, columns: SequenceOptions) -> None:
    for name, task in _tasks(data, folder / "splice", columns):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for part, split in zip(PARTS, limited(task, rows).splits, strict=True):
            (folder / name / f"{part}.csv").write_text(_table(split), encoding="utf-8")


def _tasks(data: Path, splice: Path, columns: SequenceOptions) -> Iterator[tuple[str, Task]]:
    """Every task with all its rows.

    Args:
        splice: folder for the tables of that task.
        columns: which say where decompressed copies go.
    """
    for name, tables in find_tasks((data / "gue",)).items():
        yield name, read_task(*tables, columns=columns)
    split_splice(data / "uci" / "splice.data.txt", splice)
    train, dev, test = (splice / f"{part}.csv" for part in PARTS)
    yield "splice", read_task(train, dev, test)
    by_cluster = TaskOptions(split="80,10,10", split_by="cluster")
    for name, stems in PROMOTERS.items():
        files = [_fasta(data / "promoters", stem) for stem in stems]
        classes = [f"{label}={path}" for label, path in zip(("promoter", "other"), files, strict=True)]
        yield f"promoters/{name}", read_task(classes, options=by_cluster, columns=columns)


def _fasta(folder: Path, stem: str) -> Path:
    """The file STEM.fa or STEM.fa.gz in a folder or below it."""
    found = [path for name in (f"{stem}.fa", f"{stem}.fa.gz") for path in folder.rglob(name)]
    if len(found) != 1:
        raise ConfigError(f"{folder} must hold one file {stem}.fa or {stem}.fa.gz, has {len(found)}")
    return found[0]


def _table(split: Split) -> str:
    rows = zip(split.sequences.tokens, split.labels, strict=True)
    return "".join(["sequence,label\n", *(f"{nucleotide.decode(tokens)},{label}\n" for tokens, label in rows)])


def annotated(data: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """The files of genes, and the genome of each."""
    genes = tuple(sorted(path for glob in ("*.bed", "*.bed.gz") for path in (data / "annotations").glob(glob)))
    return genes, tuple(_fasta(data / "genomes", path.name.partition(".")[0]) for path in genes)


def digests(data: Path) -> dict[str, str]:
    """SHA-256 of every file that is read, by its path below the folder of real data."""
    folders = [data / name for name in ("gue", "uci", "promoters", "barcodes")]
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    files = [path for path in files if ".nucel" not in path.name]  # copies that some command has made
    genes, genomes = annotated(data)
    return {path.relative_to(data).as_posix(): sha256(path) for path in (*files, *genes, *genomes)}
