"""What a run itself tells: its curves, its losses beside Markov models, its cost, and logos of some windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..genome.fasta import Genome
from ..genome.markov import MOST_BP, ORDERS, blocks, cross_entropies
from ..genome.records import Records
from ..genome.windows import Windows
from ..interpretation.attribution import Attribution, AttributionOptions, Method, attributions
from ..interpretation.logo import draw_logos
from ..interpretation.networks import load_networks
from ..interpretation.targets import Subject
from ..objectives.kinds import OBJECTIVES
from ..pretraining.config import TrainConfig
from ..pretraining.setup import open_genome, windows_of
from ..pretraining.stored import stored_config
from ..runs import log
from ..runs.card import reached, trained_on
from ..runs.curves import draw
from ..runs.directory import RunDirectory
from ..runtime.cli import command_line, console, note
from ..runtime.errors import CheckpointError, NucelError
from ..runtime.files import write_text
from ..tokenizers.nucleotide import decode
from .efficiency import PF_DAY, Cost
from .report_data import Judged
from .report_sections import Kept, Section, Table, picture

LOGO_BP = 100
"""Bases of a window that are drawn: those in its middle."""


def windows_of_run(
    run: RunDirectory, files: tuple[Path, ...] = (), cache_dir: Path | None = None
) -> tuple[Windows | Records, Windows | Records, bool]:
    """A run's training and held-out windows, and whether it reads both strands.

    Args:
        files: where the genome is now, if it was moved.
        cache_dir: for the decompressed copies of .gz files; by default they are made beside them.

    Raises:
        CheckpointError: this is not the genome that the run was trained on, or run.json cannot be read.
        GenomeError, OSError: the genome cannot be read.
    """
    config = replace(stored_config(run), cache_dir=cache_dir)
    if files:
        genome = Genome(files, cache_dir, copy_beside=cache_dir is None)
    else:
        _require_genome(config, run)
        genome = open_genome(config, run)
    if genome.fingerprint != run.read_description().genome.fingerprint:
        raise CheckpointError(f"{genome} is not the genome that {run} was trained on")
    return *windows_of(config, genome), config.reverse_complement


def _require_genome(config: TrainConfig, run: RunDirectory) -> None:
    wanted = config.genome or (run.demo_genome,)
    if missing := [str(path) for path in wanted if not path.exists()]:
        raise CheckpointError(f"the genome of {run} is not in {', '.join(missing)} any more: --trained-on says where")


# ---- training --------------------------------------------------------------------------------------------------------


def training(run: RunDirectory, files: tuple[Path, ...], kept: Kept, cache_dir: Path | None) -> Section:
    """The run's curves and held-out figures beside Markov models, what it was trained on, and what that cost."""
    description, lines = run.read_description(), log.read_metrics(run)
    where, rows = reached(lines, run.read_summary(), description)
    paragraphs, tables, commands = [where] if not rows else [], [], []
    notes: list[str] = []
    losses = markov(run, files, notes, cache_dir)
    newest: dict[str, Any] = next((line for line in reversed(lines) if line["split"] == "validation"), {})
    if learned := learned_text(run, losses):
        paragraphs.append(learned)
    if rows:
        tables.append(Table(where.rstrip(":"), ["metric", "value", "what it means"], [_plain(row) for row in rows]))
    if losses:
        name = {"electra": "generator", "mlm": "masked LM", "mae": "decoder"}[description.objective]
        own = newest.get("generator_loss")
        table: list[list] = [[f"Markov model of order {order}", f"{value:.4f}"] for order, value in losses.items()]
        if own is not None:
            table.append([f"{name} of the run, both sides known", f"{own:.4f}"])
        tables.append(Table("Cross-entropy of a held-out base, nats", ["model", "loss"], table))
        notes.append(
            "Markov models see the last few bases only; they are fitted to the run's training windows, "
            f"{'both strands, ' if description.recipe.get('reverse_complement') else ''}with add-one counts, and read "
            f"all its held-out windows (of more than {MOST_BP / 1e6:.0f} Mb, windows at equal distances)."
        )
    tables.append(Table("What it was trained on", ["what", ""], _facts(run)))
    with kept.scratch() as folder:
        pictures = []
        if lines:
            draw([run.path], folder / "curves.svg")
            pictures = [picture(folder / "curves.svg", "The run's curves: what is trained on, and what is held out.")]
            commands.append(command_line("plot", [run]))
    return Section(
        "The run", paragraphs, tables=tables, pictures=pictures, notes=notes, commands=[description.command, *commands]
    )


def _plain(row: Sequence[str]) -> list:
    return [cell.replace("`", "") for cell in row]


def _facts(run: RunDirectory) -> list[list]:
    """What the run was trained on, and the cost of it as counted operations."""
    description, step = run.read_description(), run.newest_step()
    rows = [_plain(row) for row in trained_on(description, log.read_metrics(run), step)]
    cost = Cost.of(stored_config(run))
    counted = f"{cost.flops(step) / PF_DAY:.3g} petaflop/s-days, counted operations"
    counted += ", without what the initial weights had cost" if description.initial_weights else ""
    return [
        *rows[:-1],
        ["cost", counted],
        ["parameters", f"{cost.parameters:,}, of the network that is kept"],
        rows[-1],
    ]


def markov(
    run: RunDirectory, files: tuple[Path, ...], notes: list[str], cache_dir: Path | None = None
) -> dict[int, float]:
    """Held-out cross-entropies of Markov models by order; none, and a note, where the genome is not at hand."""
    try:
        train, held_out, both_strands = windows_of_run(run, files, cache_dir)
    except (NucelError, OSError) as error:
        note(f"no Markov models: {_reason(error)}")
        notes.append(f"No Markov models were fitted: {_reason(error)}.")
        return {}
    if not len(held_out):
        notes.append("No Markov models were fitted: the run holds out no windows.")
        return {}
    console.print("Markov models of the run's windows", markup=False)
    return cross_entropies(train, held_out, ORDERS, both_strands)


def _reason(error: NucelError | OSError) -> str:
    """Why something cannot be read, without the system's number of the error."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f' ({error.filename})' if error.filename else ''}"
    return str(error)


def learned_text(run: RunDirectory, losses: dict[int, float]) -> str | None:
    """Whether the run has learned its own task, in a sentence; None before a validation."""
    newest = next((line for line in reversed(log.read_metrics(run)) if line["split"] == "validation"), None)
    if newest is None:
        return None
    metrics = {name: np.nan if x is None else x for name, x in newest.items() if name != "split"}
    summary = run.read_summary()
    same = summary.get("step") == newest["step"]
    for end in ("low", "high"):
        value = summary.get(f"val_rtd_auroc_{end}") if same else None
        metrics[f"rtd_auroc_{end}"] = np.nan if value is None else value
    metrics["composition"] = losses.get(0, np.log(4))
    text = str(OBJECTIVES[run.read_description().objective].verdict(metrics))
    if losses and "generator_loss" in metrics:
        order = min(losses, key=lambda one: losses[one])
        relation = "below" if metrics["generator_loss"] < losses[order] else "not below"
        text += (
            f" The loss at masked bases, {metrics['generator_loss']:.4f}, is {relation} that of the best Markov model, "
            f"{losses[order]:.4f} of order {order}."
        )
    return text


# ---- attribution -----------------------------------------------------------------------------------------------------


def logos(run: RunDirectory, files: tuple[Path, ...], number: int, judged: Judged, kept: Kept, tables: Path) -> Section:
    """Attribution logos of some held-out windows, at equal distances from the first to the last.

    Args:
        tables: folder to make, for a FASTA file of the windows.
    """
    title = "What the model says of single bases"
    try:
        _, held_out, _ = windows_of_run(run, files, judged.cache_dir)
        networks = load_networks(run.path).to(judged.precision.device)
    except (NucelError, OSError) as error:
        return Section(title, [f"There are no logos: {_reason(error)}."])
    methods: tuple[Method, ...] = ()
    if networks.discriminator is not None:
        methods = ("surprise", "gradient")
    elif networks.generator is not None:
        methods = ("entropy",)
    if not methods or not len(held_out):
        return Section(title, ["There are no logos: the run holds out no windows, or keeps no head that tells bases."])
    windows = _windows(held_out, number)
    names, tokens = [name for name, _ in windows], [one for _, one in windows]
    subject, options = Subject(networks), AttributionOptions()
    maps = {
        method: list(attributions(subject, tokens, method, options, judged.precision, f"bases, {method}"))
        for method in methods
    }
    pictures = []
    with kept.scratch() as folder:
        for i, sequence in enumerate(tokens):
            part = _middle(len(sequence))
            path = folder / "logo.svg"
            cut = {str(method): _cut(found[i], part) for method, found in maps.items()}
            draw_logos(f"window {i + 1}, bases {part.start} to {part.stop}", sequence[part], cut, path)
            pictures.append(picture(path, f"Window {i + 1}: {names[i]}, bases {part.start} to {part.stop} of it."))
    meaning = {
        "surprise": "surprise, -ln of the discriminator's probability that the base is the original (up: unexpected)",
        "gradient": "gradient, how much the base adds to the sum of the discriminator's logits",
        "entropy": "entropy, the masked LM's information: each letter as high as its share of ln 4 less the entropy",
    }
    text = f"{'; '.join(meaning[method] for method in methods)}."
    notes = ["Means of both strands. The windows are chosen by their place alone, before anything was computed."]
    fasta = tables / "windows.fa"
    tables.mkdir(parents=True)
    records = (f">window_{i} {windows[i - 1][0]}\n{decode(windows[i - 1][1])}\n" for i in range(1, len(windows) + 1))
    write_text(fasta, "".join(records))
    words = ["attribution", run, fasta, "--method", *methods, "--out", "logos.svg"]
    command = command_line("interpret", words)
    return Section(title, [text[0].upper() + text[1:]], pictures=pictures, commands=[command], notes=notes)


def _windows(held_out: Windows | Records, number: int) -> list[tuple[str, np.ndarray]]:
    """Names and tokens of some windows."""
    chosen = np.unique(np.linspace(0, len(held_out) - 1, number).round().astype(int)).tolist()
    found = []
    for i in chosen:
        if isinstance(held_out, Records):
            contig = int(held_out.first.contig[i])
            one = Records(_one(held_out.first, i), held_out.bases, held_out.drop_gaps)
            found.append((held_out.first.genome.contigs[contig], next(blocks(one))[0]))
        else:
            start = int(held_out.start_bp[i])
            name = f"{held_out.genome.contigs[int(held_out.contig[i])]}:{start + 1}-{start + held_out.window_bp}"
            found.append((name, next(blocks(_one(held_out, i)))[0]))
    return found


def _one(windows: Windows, i: int) -> Windows:
    return Windows(windows.genome, windows.window_bp, windows.contig[i : i + 1], windows.start_bp[i : i + 1])


def _middle(length: int) -> slice:
    start = max(0, (length - LOGO_BP) // 2)
    return slice(start, min(length, start + LOGO_BP))


def _cut(one: Attribution, part: slice) -> Attribution:
    probabilities = None if one.probabilities is None else one.probabilities[part]
    return Attribution(one.values[part], probabilities=probabilities)
