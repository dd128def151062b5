"""One page that judges a run: everything that the data at hand allow, beside its controls.

run, tasks, barcodes, biotypes, variants --sections, kept beside the page--> comparisons --> answer, HTML
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import OmitArgPrefixes

from ..genome.fasta import Genome
from ..genome.variant_files import VariantFile
from ..interpretation.networks import load_networks
from ..pretraining.stored import stored_config
from ..runs.directory import RunDirectory
from ..runtime import cli, environment
from ..runtime.cli import console
from ..runtime.device import DeviceOptions, choose_precision
from ..runtime.errors import ConfigError, require
from ..runtime.files import sha256, write_text
from ..runtime.version import __version__
from ..tasks.fit import require_seeds
from . import report_data, report_run, report_variants
from .barcode_sets import find_sets
from .layouts import Layout, find_layouts
from .report_data import Judged
from .report_page import Answer, answer, page
from .report_sections import Kept, Section
from .variant_report import EvaluationOptions


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The data to judge by, each of which is left out where it is not given."""

    tasks: tuple[Path, ...] = ()
    """Folders of labelled tasks, as nucel.suite takes them: GUE, Genomic Benchmarks, NT, or one's own."""
    barcodes: tuple[Path, ...] = ()
    """Folders with NAME_train.fasta and NAME_test.fasta, DNA barcodes with their species."""
    biotypes: tuple[Path, ...] = ()
    """Genes with their classes: FASTA of Ensembl or GENCODE, or GTF, GFF3 or BED with --genome."""
    variants: Path | None = None
    """Table of variants with measured effects (Coefficient) or labels 0 and 1 (label), with --genome."""
    genome: tuple[Path, ...] = ()
    """FASTA that the variants are against, or that the annotations of --biotypes are of."""
    trained_on: tuple[Path, ...] = ()
    """FASTA that the run was trained on, where it has moved since."""
    cache_dir: Path | None = None
    """Folder for the decompressed copies of .gz files. By default they are made beside the files by what reads them for
    long, and in $XDG_CACHE_HOME/nucel or ~/.cache/nucel otherwise."""

    def __post_init__(self) -> None:
        require(self.variants is None or bool(self.genome), "--variants needs the --genome that they are against")


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """One page on whether pre-training was worth it: all that the data at hand allow, with controls."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run directory of the trainer."""
    out: Path | None = None
    """The page; by default RUN/report.html. What is finished is kept in the folder of that name with .parts."""
    control: Path | None = None
    """The MLM control: a run or model directory, probed like the model."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One training for each, of every head that is drawn, and one untrained encoder for each."""
    max_rows: int | None = None
    """Use at most so many rows of each table, drawn once: for a quick look. The tables are those of --tasks."""
    logos: int = 3
    """Held-out windows whose attributions are drawn."""
    data: OmitArgPrefixes[DataOptions] = field(default_factory=DataOptions)
    compute: OmitArgPrefixes[DeviceOptions] = field(default_factory=DeviceOptions)

    def __post_init__(self) -> None:
        require_seeds(self.seeds)
        require(self.max_rows is None or self.max_rows >= 10, f"max_rows must be at least 10, got {self.max_rows}")
        require(self.logos >= 0, f"logos must be at least 0, got {self.logos}")
        require(self.out is None or self.out.suffix in (".html", ".htm"), f"--out must end with .html, got {self.out}")


def report(config: ReportConfig, command: str) -> cli.Result:
    """Carry out the command; returns its summary and report.

    Raises:
        ConfigError, InputError, GenomeError, HubError, CheckpointError, OSError: bad input. Sections that were finished
            before are kept.
    """
    _require_libraries(config)
    run = RunDirectory(config.run)
    run.read_description()
    stored_config(run)
    precision = choose_precision(config.compute.device, config.compute.dtype)
    out = config.out or config.run / "report.html"
    if not out.parent.is_dir():
        raise ConfigError(f"there is no folder {out.parent} for the page")
    judged = Judged(config.run, config.control, config.seeds, config.max_rows, precision, config.data.cache_dir)
    kept = Kept(out)
    planned = list(_plan(config, run, judged, kept))  # digests of all data, so that a wrong path costs nothing
    sections = []
    for i, (name, identity, make) in enumerate(planned, start=1):
        console.print(f"{i} of {len(planned)}: {name}", soft_wrap=True, markup=False)
        sections.append(kept.section(name, identity, make))
    found = answer([one for section in sections for one in section.comparisons], _learned(sections))
    versions = ", ".join(f"{name} {x}" for name, x in environment.versions(precision.device).items() if x)
    seconds = sum(section.seconds for section in sections)
    about = [
        command,
        f"{versions}; {precision.device}, {precision.dtype_name}; {seconds:,.0f} s of computing; "
        f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
    ]
    write_text(out, page(config.run.resolve().name, found, sections, about))
    return _result(out, found, sections, round(seconds, 1), kept)


def _result(out: Path, found: Answer, sections: Sequence[Section], seconds: float, kept: Kept) -> cli.Result:
    compared = [one for section in sections for one in section.comparisons]
    summary = {
        "answer": found.headline,
        "comparisons": len(compared),
        "better": sum(one.better for one in compared),
        "sections": [section.title for section in sections],
        "seconds": seconds,
        "out": str(out),
    }
    more = "Next: open it in a browser; the same command with more data keeps what is finished"
    if not compared:
        more = "Next: give labelled data with --tasks, --barcodes, --biotypes or --variants"
    return cli.Result(summary, (found.headline, f"The page is {out}, the tables are in {kept.folder}.", more))


def _learned(sections: Sequence[Section]) -> str | None:
    return next((text for section in sections[:1] for text in section.paragraphs), None)


# ---- what is done ----------------------------------------------------------------------------------------------------

Planned = tuple[str, dict[str, Any], Callable[[Path], Section]]
"""A section's name, its identity, and what makes it."""


def _plan(config: ReportConfig, run: RunDirectory, judged: Judged, kept: Kept) -> Iterator[Planned]:
    data, files, precision = config.data, config.data.trained_on, judged.precision
    common = {
        "version": __version__, "run": str(config.run), "model": load_networks(config.run).fingerprint,
        "dtype": precision.dtype_name,
    }  # fmt: skip
    stored = files or tuple(stored_config(run).genome)
    own = common | {"genome": [[str(path), path.exists()] for path in stored], "files": _digest(_run_files(run))}
    with_control: dict[str, Any] = {
        "control": config.control and [str(config.control), load_networks(config.control).fingerprint],
        "seeds": config.seeds,
    }
    yield "run", own, lambda tables: report_run.training(run, files, kept, data.cache_dir)
    if config.logos:
        yield (
            "logos", own | {"number": config.logos},
            lambda tables: report_run.logos(run, files, config.logos, judged, kept, tables),
        )  # fmt: skip
    for name, (layout, folder) in _tasks(data.tasks).items():
        identity: dict[str, Any] = (
            common | with_control | {"rows": config.max_rows, "data": str(folder), "files": _digest([folder])}
        )
        yield f"task {name}", identity, _task(name, layout, judged, folder)
    if data.barcodes:
        for name, paths in find_sets(data.barcodes).items():
            identity = common | with_control | {"data": [str(path) for path in paths], "files": _digest(paths)}
            yield f"barcodes {name}", identity, _barcodes(name, data.barcodes, judged)
    if data.biotypes:
        genes = {"data": list(map(str, data.biotypes)), "files": _digest((*data.biotypes, *data.genome))}
        yield (
            "biotypes", common | with_control | genes,
            lambda tables: report_data.gene_classes(data.biotypes, data.genome, judged, tables),
        )  # fmt: skip
    if data.variants is not None:
        path, background = data.variants, _background(run, files)
        report_variants.evaluation_of(VariantFile(path), EvaluationOptions())
        of_variants: dict[str, Any] = {
            "data": str(path),
            "background": background and str(background),
            "files": _digest([path]),
        }
        genome = {"against": Genome(data.genome, data.cache_dir, copy_beside=data.cache_dir is None).fingerprint}
        yield (
            "variants", common | with_control | of_variants | genome,
            lambda tables: report_variants.variants(path, data.genome, judged, background, tables),
        )  # fmt: skip


def _task(name: str, layout: Layout, judged: Judged, folder: Path) -> Callable[[Path], Section]:
    return lambda tables: report_data.task(name, layout, judged, folder, tables)


def _barcodes(name: str, folders: tuple[Path, ...], judged: Judged) -> Callable[[Path], Section]:
    return lambda tables: report_data.barcode_set(name, folders, judged, tables)


def _tasks(folders: tuple[Path, ...]) -> dict[str, tuple[Layout, Path]]:
    """Every task with the folder that holds it."""
    if not folders:
        return {}
    found = {}
    for name, layout in find_layouts(folders).items():
        own = [folder / name for folder in folders if (folder / name).is_dir()]
        found[name] = layout, (own or folders)[0]
    return found


def _run_files(run: RunDirectory) -> list[Path]:
    return [path for path in (run.path / "run.json", run.metrics, run.summary) if path.is_file()]


def _digest(paths: Sequence[Path]) -> str:
    """SHA-256 over files, and over all files of folders, with their names."""
    digest = hashlib.sha256()
    for path in paths:
        files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
        for one in files:
            digest.update(f"{one.name} {sha256(one)}\n".encode())
    return digest.hexdigest()


def _background(run: RunDirectory, files: tuple[Path, ...]) -> Path | None:
    """The genome that the run was trained on, where it is one file and at hand: 7-mers of it are a control."""
    paths = files or tuple(stored_config(run).genome) or (run.demo_genome,)
    return paths[0] if len(paths) == 1 and paths[0].is_file() else None


def _require_libraries(config: ReportConfig) -> None:
    needed = {"matplotlib": "plots", "logomaker": "plots"}
    if config.data.tasks or config.data.barcodes:
        needed["sklearn"] = "eval"
    if config.data.biotypes:
        needed |= {"sklearn": "biotypes", "xgboost": "biotypes"}
    missing = [library for library in needed if importlib.util.find_spec(library) is None]
    if missing:
        extras = ",".join(dict.fromkeys(needed[library] for library in missing))
        raise ConfigError(f"this report needs {', '.join(missing)}, not installed here: pip install 'nucel[{extras}]'")
