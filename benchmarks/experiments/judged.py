"""Two trained models beside their controls on all labelled data at hand: one table, by one command.

    python -m benchmarks.experiments.judged RTD_RUN MLM_RUN DATA --out benchmarks/results/judged.md

| part | what it does, as which command | controls, besides the masked LM |
|---|---|---|
| probes | logistic regression on frozen [CLS] and mean; nucel.probe | untrained encoders, one-hot, k-mers |
| finetune | all weights on the same tables; nucel.suite | the network from new weights, one-hot CNN |
| barcodes | species of DNA barcodes; nucel.suite barcodes | untrained encoders, k-mers, edit distance |
| biotypes | kinds of genes, by genome; nucel.suite biotypes | untrained encoders, length, k-mers |

Tables are those of GUE, UCI's splice sites and CNNProm's promoters. `--rows` and `--fits` limit their rows, for probes
and for fine-tuning, so that two cores are enough. --work keeps all that is done: a stopped command goes on where it
was, and loses one fit at most. Results of other models or data are refused. Several processes may compute some --parts
each, with an --out of their own; the command with all of them then puts them together.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import table
from benchmarks.experiments.annotated import in_words
from benchmarks.experiments.judged_data import CACHE, annotated, digests, prepare
from benchmarks.experiments.judged_probes import NAMES, probes
from nucel.model.encoder import Encoder
from nucel.model.networks import fingerprint
from nucel.runs.directory import RunDirectory
from nucel.runtime import environment
from nucel.runtime.device import DeviceOptions, Precision, choose_precision
from nucel.runtime.errors import NucelError
from nucel.runtime.files import write_text
from nucel.runtime.parts import Parts
from nucel.runtime.version import __version__
from nucel.suites.barcodes import BarcodesConfig, barcodes
from nucel.suites.biotypes import BiotypesConfig, SplitOptions, biotypes
from nucel.suites.methods import load_encoder
from nucel.suites.probe_table import CONTROL, MODEL
from nucel.suites.runner import SuiteConfig, run_suite
from nucel.tasks.classifier import HeadOptions
from nucel.tasks.fit import FitOptions
from nucel.tasks.search import SearchedFitOptions

PARTS = ("probes", "finetune", "barcodes", "biotypes")
MIN_GENES = 40
"""Of a class of biotypes: tRNA and rRNA of three bacteria are few."""
PURPOSE = (
    "This table is for one question: is pre-training worth it? Replaced-token detection (rtd) stands beside a masked "
    "LM (mlm), the same network with new weights, and features that need no training at all, on every labelled table "
    "at hand. It is reported as it came out."
)


# ---- the parts -------------------------------------------------------------------------------------------------------


def finetuning(folder: Path, options: argparse.Namespace, context: int | None) -> str:
    """Fine-tuning of every method on every task, as the suite tells it."""
    epochs = options.epochs or SearchedFitOptions().epochs_on(options.fits or 10**9)
    whole = FitOptions(lr=options.lr, epochs=epochs)
    if options.fits:  # a warm-up of the default length would be most of a short training
        whole = replace(whole, warmup_steps=min(whole.warmup_steps, whole.steps(options.fits) // 10))
    out = options.work / f"finetune-{options.fits or 'all'}"
    config = SuiteConfig(
        folders=(folder,), out=out, models=_models(options), seeds=tuple(options.seeds), context=context,
        fit=whole, head=HeadOptions(classifier_pooling="mean"),
        compute=DeviceOptions(dtype=options.dtype),
    )  # fmt: skip
    run_suite(config)
    return (out / "table.md").read_text(encoding="utf-8")


def suite_table(options: argparse.Namespace, name: str, run: Callable[[Path], Any]) -> str:
    """The table of a suite, which is run unless it is complete."""
    out = options.work / "-".join([name, *map(str, options.seeds)])
    if not (out / "result.json").exists():
        run(out)
    return (out / "table.md").read_text(encoding="utf-8").replace("\n## ", "\n### ")


def _models(options: argparse.Namespace) -> tuple[str, ...]:
    return (f"{NAMES[MODEL]}={options.rtd}", f"{NAMES[CONTROL]}={options.mlm}")


def sections(
    options: argparse.Namespace, encoders: dict[str, Encoder], precision: Precision
) -> Iterator[tuple[str, str]]:
    """Every part that is asked for: its title, and its tables."""
    seeds, data, work = tuple(options.seeds), options.data, options.work
    common: dict[str, Any] = {
        "models": _models(options), "seeds": seeds, "cache_dir": work / CACHE,
        "compute": DeviceOptions(dtype=options.dtype),
    }  # fmt: skip

    def of_barcodes(out: Path) -> None:
        barcodes(BarcodesConfig(folders=(data / "barcodes",), out=out, **common))

    def of_biotypes(out: Path) -> None:
        genes, genomes = annotated(data)
        split: dict[str, Any] = {
            "evaluation": SplitOptions(split_by="genome"),
            "min_genes": MIN_GENES,
            "room_bp": options.room_bp,
        }
        biotypes(BiotypesConfig(inputs=genes, genome=genomes, out=out, **split, **common))

    if "probes" in options.parts:
        folder = prepare(data, work, options.rows)
        kept = work / f"probes-{options.rows or 'all'}"
        yield "Frozen probes", probes(folder, encoders, seeds, kept, precision)
    if "finetune" in options.parts:
        folder = prepare(data, work, options.fits)
        yield "Fine-tuning", finetuning(folder, options, encoders[MODEL].context)
    if "barcodes" in options.parts:
        yield "DNA barcodes", suite_table(options, "barcodes", of_barcodes)
    if "biotypes" in options.parts:
        yield "Biotypes", suite_table(options, f"biotypes-{options.room_bp}", of_biotypes)


# ---- the page --------------------------------------------------------------------------------------------------------


def about(options: argparse.Namespace, precision: Precision, given: Sequence[str], context: int) -> list[str]:
    """What stands above the tables: their purpose, runs, machine and command. It names no folder of this machine."""
    known = {str(options.rtd): "RTD_RUN", str(options.mlm): "MLM_RUN", str(options.data): "$NUCEL_DATA"}
    words = [known.get(word) or shlex.quote(Path(word).name if word.startswith("/") else word) for word in given]
    runs = []
    for name, path in ((NAMES[MODEL], options.rtd), (NAMES[CONTROL], options.mlm)):
        run = RunDirectory(path)
        description = run.read_description()
        tokens = run.newest_step() * description.batch_size * description.context
        held = description.recipe.get("hold_out") or []
        runs.append(
            f"- {name}: run `{path.name}`, {tokens / 1e6:,.1f} M tokens ({in_words(path, description)})"
            + (f"; held out: {', '.join(held)}" if held else "")
        )
    limits = {"probes read": options.rows, "fine-tuning reads": options.fits}
    drawn = " and ".join(f"{part} at most {rows:,} rows of each table" for part, rows in limits.items() if rows)
    return [
        "# Trained models beside their controls", "", PURPOSE, "",
        f"{environment.available_cpus()} cores of {table.processor()}, torch {torch.__version__}, "
        f"{precision.dtype_name}; seeds {', '.join(map(str, options.seeds))}. "
        + (f"{drawn.capitalize()}, from one fixed draw. " if drawn else "")
        + f"In probes and fine-tuning, networks read up to {context - 1} bases at once, as the longest "
        "sequence of a task needs it, whatever they were trained on.", "",
        *runs, "",
        "```sh", " ".join(["python -m benchmarks.experiments.judged", *words]), "```",
    ]  # fmt: skip


def parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rtd", type=Path, metavar="RTD_RUN")
    parser.add_argument("mlm", type=Path, metavar="MLM_RUN")
    parser.add_argument(
        "data", type=Path, metavar="DATA", help="with gue, uci, promoters, barcodes, annotations, genomes"
    )
    parser.add_argument("--out", type=Path, required=True, help="the table, Markdown; written anew after each part")
    parser.add_argument("--work", type=Path, default=Path("runs/judged"), help="keeps all that is done")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, help="of each table at most, for probes")
    parser.add_argument("--fits", type=int, help="of each table at most, for fine-tuning")
    parser.add_argument("--lr", type=float, default=5e-4, help="of fine-tuning")
    parser.add_argument("--epochs", type=int, help="of fine-tuning; by default as many as make 500 steps, 3 to 20")
    parser.add_argument("--room-bp", type=int, default=1024, help="first bases of a gene that biotypes are told by")
    parser.add_argument("--dtype", choices=("auto", "fp32", "bf16"), default="auto")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if words is None else words)
    options = parse(given)
    precision = choose_precision("auto", options.dtype)
    try:
        encoders = {MODEL: load_encoder(options.rtd, None), CONTROL: load_encoder(options.mlm, None)}
        models = {NAMES[name]: fingerprint(encoder) for name, encoder in encoders.items()}
        identity: dict[str, Any] = {"version": __version__, "dtype": precision.dtype_name, "models": models}
        identity["data"] = digests(options.data)
        Parts(options.work / "judged", "table of judged models", identity)
        folder = prepare(options.data, options.work, None)
        context = max(_context(folder), *(encoder.context or 0 for encoder in encoders.values()))
        for encoder in encoders.values():
            encoder.context = context
            encoder.to(precision.device)
        text = about(options, precision, given, context)
        for title, tables in sections(options, encoders, precision):
            text += ["", f"## {title}", "", tables.strip()]
            options.out.parent.mkdir(parents=True, exist_ok=True)
            write_text(options.out, "\n".join(text) + "\n")
    except NucelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"The table is {options.out}.")
    return 0


def _context(folder: Path) -> int:
    """Tokens that the longest sequence of all tasks needs, with [CLS]."""
    lines = (line for path in folder.rglob("*.csv") for line in path.read_text(encoding="utf-8").splitlines()[1:])
    return 1 + max(len(line.partition(",")[0]) for line in lines)


if __name__ == "__main__":
    sys.exit(main())
