"""What a budget of tokens buys: runs of `small` at fixed budgets, on fixed data, by several recipes.

    python -m benchmarks.experiments.ladder $NUCEL_DATA --out DIR [--data ecoli] [--arms pair uniform mlm]
        [--mega-tokens 2 8] [--seeds 0 1 2] [--rows 1000] [--page ladder.md] [--picture ladder.png] [-- --dtype bf16]

Each run is one line of DIR/ladder.md, measured on windows that were held out:

- the masked model's loss (the generator's, or the masked LM's), in nats per base;
- the discriminator's AUROC, and what its loss gains over a constant guess;
- the discriminator's own nats per base: the cross-entropy of the distribution over the four bases that generator and
  discriminator imply (docs/variants.md), each base left unmasked in turn. It is the one figure in which both objectives
  and Markov chains can be compared;
- probes: what is read out of frozen vectors, the mean test MCC over all labelled tables at hand, with --rows rows of
  each. Networks with new weights and k-mer counts stand below.

--page is for committing: the mean of each arm over the seeds, with its spread, above all runs.

A run that is there already is not trained again, and a run that was stopped goes on. Words after `--` go to every
`python -m nucel.train`; they are part of the line's command.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nucel
from nucel.genome.markov import blocks, cross_entropies
from nucel.model.networks import fingerprint
from nucel.runs.directory import RunDirectory
from nucel.runtime.files import write_text
from nucel.runtime.parts import Parts
from nucel.runtime.version import __version__
from nucel.suites.methods import load_encoder
from nucel.suites.report_run import windows_of_run
from nucel.tasks.features import untrained
from nucel.tokenizers import nucleotide

from .. import table
from .annotated import ANNOTATED
from .ladder_page import draw, page
from .ladder_probes import Probes
from .training import command, split_at_dashes, train

SHORT = {"context": "128", "window-bp": "192", "overlap-bp": "32", "batch-size": "64"}
ARMS: dict[str, dict[str, str]] = {
    "preset": {},
    "pair": SHORT | {"model.temperature": "1"},
    "pair-3": SHORT | {"model.temperature": "3"},
    "uniform": SHORT | {"model.temperature": "1000"},
    "mlm": SHORT | {"objective": "mlm"},
}
"""What an arm changes of `small`. All but the first read short windows; the pairs differ in the proposals alone."""
DATA = ("ecoli", "prokaryotes", "gue")
WARMUP_SHARE, MOST_WARMUP = 0.1, 100
JUDGED_BASES = 2048
"""Of held-out windows, for the discriminator's own distribution, which takes four passes a base."""


def data_flags(name: str, data: Path, out: Path) -> dict[str, list[str]]:
    """The flags that say what is read, and what is held out."""
    if name == "ecoli":
        return {"genome": [str(data / "genomes" / "ecoli_K12_MG1655.fa.gz")]}
    if name == "prokaryotes":
        folders = [str(data / "genomes" / kind) for kind in ("bacteria", "archaea")]
        return {"genome": folders, "hold-out": [f"{contig}*" for contig in ANNOTATED.values()]}
    path = out / "gue.fa"
    if not path.exists():
        write_gue(data / "gue", path)
    return {"genome": [str(path)], "window": ["record"]}


def write_gue(folder: Path, path: Path) -> None:
    """The distinct training sequences of all tasks of GUE as one FASTA file."""
    found: dict[str, None] = {}
    for file in sorted([*folder.rglob("train.csv"), *folder.rglob("train.csv.gz")]):
        with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as lines:
            found |= dict.fromkeys(row["sequence"] for row in csv.DictReader(lines))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f">{i}\n{sequence}\n" for i, sequence in enumerate(found)))


def train_words(arm: str, flags: dict[str, list[str]], tokens: float, seed: int, words: list[str]) -> list[str]:
    """The command line of one run, without --out."""
    settings = {"context": "512", "batch-size": "16"} | ARMS[arm]
    steps = max(1, round(tokens / (int(settings["context"]) * int(settings["batch-size"]))))
    warmup = min(MOST_WARMUP, round(WARMUP_SHARE * steps))
    given = {name: [value] for name, value in ARMS[arm].items()} | flags
    if "window" in flags:
        given = {name: values for name, values in given.items() if name not in ("window-bp", "overlap-bp")}
    given |= {"steps": [str(steps)], "warmup-steps": [str(warmup)], "seed": [str(seed)]}
    return ["small", *(word for name, values in given.items() for word in (f"--{name}", *values)), *words]


def trained(run: Path, words: list[str], cache: Path) -> dict[str, Any]:
    """The summary of a run, which is trained or continued unless it has come to its end."""
    kept = RunDirectory(run).read_summary() if run.is_dir() else {}
    if kept and not kept["interrupted"]:
        return kept
    return train(*words, "--out", str(run), "--resume", "auto", "--cache-dir", str(cache))


def own_nats(run: Path, cache: Path) -> float:
    """Cross-entropy of the distribution that a pair implies at held-out bases, in nats per base."""
    _, held_out, _ = windows_of_run(RunDirectory(run), cache_dir=cache)
    room = RunDirectory(run).read_description().context - 1
    sampled = blocks(held_out, 2 * JUDGED_BASES)  # windows at equal distances over all that was held out
    chosen = [window[:room] for block in sampled for window in block]
    maps = nucel.attribute(run, chosen, "rtd_distribution", average_reverse_complement=False)
    costs = []
    for tokens, one in zip(chosen, maps, strict=True):
        known = (tokens >= nucleotide.BASES[0]) & (tokens <= nucleotide.BASES[-1])
        assert one.probabilities is not None
        costs.append(-np.log(one.probabilities[known, tokens[known] - nucleotide.BASES[0]]))
    return float(np.concatenate(costs).mean())


def markov_nats(run: Path, cache: Path) -> tuple[int, float]:
    """The order and the nats per base of the Markov chain that fits the held-out windows best."""
    train_windows, held_out, both = windows_of_run(RunDirectory(run), cache_dir=cache)
    found = cross_entropies(train_windows, held_out, both_strands=both)
    order = min(found, key=found.__getitem__)
    return order, found[order]


def measures(run: Path, words: list[str], cache: Path, probes: Probes | None) -> table.Row:
    """Train, and measure; what is dear to measure is kept beside the run."""
    summary = trained(run, words, cache)
    encoder = load_encoder(run, None)
    read_out = {"probes": probes.of_encoder(encoder)} if probes else {}
    if "val_rtd_auroc" not in summary:
        return {"masked": summary["val_loss"]} | read_out
    identity = {"version": __version__, "model": fingerprint(encoder), "bases": JUDGED_BASES}
    kept = Parts(run.with_name(f"{run.name}-own"), "discriminator's own nats", identity)
    return read_out | {
        "masked": summary["val_generator_loss"],
        "own": kept.once_json(0, lambda: own_nats(run, cache)),
        "gain": summary["val_rtd_blind"] - summary["val_rtd_loss"],
        "auroc": summary["val_rtd_auroc"],
    }


def rows(options: argparse.Namespace, words: list[str]) -> Iterator[table.Row]:
    """A row for each run; after those of the same data, the controls."""
    cache = options.out / "cache"
    dtype = words[words.index("--dtype") + 1] if "--dtype" in words else "auto"
    probes = Probes(options.folder, options.out / "probes", options.rows, dtype) if options.rows else None
    for name in options.data:
        flags = data_flags(name, options.folder, options.out)
        run = options.out
        for tokens, arm, seed in itertools.product(options.mega_tokens, options.arms, options.seeds):
            run = options.out / name / f"{arm}-{tokens:g}-{seed}"
            own = train_words(arm, flags, 1e6 * tokens, seed, words)
            labels = {"data": name, "arm": arm, "M tokens": f"{tokens:g}", "seed": seed}
            yield labels | measures(run, own, cache, probes) | {"command": command("nucel.train", own, options.folder)}
        order, nats = markov_nats(run, cache)
        yield {"data": name, "arm": f"Markov chain, order {order}", "masked": nats}
        for seed in options.seeds if probes else ():
            new = untrained(load_encoder(run, None), seed)
            yield {"data": name, "arm": "untrained", "seed": seed, "probes": probes.of_encoder(new)}
    if probes:
        yield {"data": "", "arm": "1- to 6-mers", "probes": probes.of_kmers()}


def main() -> None:
    given, words = split_at_dashes(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of real data, NUCEL_DATA")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", nargs="+", choices=DATA, default=["ecoli"])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["pair", "uniform", "mlm"])
    parser.add_argument("--mega-tokens", nargs="+", type=float, default=[2.0, 8.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rows", type=int, default=1000, help="of each labelled table at most; 0 leaves probes out")
    parser.add_argument("--page", type=Path, help="Markdown: means with their spread, then every run")
    parser.add_argument("--picture", type=Path, help="loss and probes against tokens")
    options = parser.parse_args(given)
    shown = table.Table(
        facts=table.machine(torch.device("cpu")),
        labels=("data", "arm", "M tokens", "seed"),
        values={
            "masked": ("masked model, nats", ".4f"),
            "own": ("discriminator's own, nats", ".4f"),
            "gain": ("RTD gain, nats", ".4f"),
            "auroc": ("AUROC", ".3f"),
            "probes": ("probes, MCC", ".3f"),
            "command": ("command", ""),
        },
        path=options.out / "ladder",
        note="What a budget of tokens buys on held-out DNA; Markov chains of the same windows are the control.",
    )
    shown.fill(rows(options, words))
    if options.picture:
        draw(options.picture, shown)
    if options.page:
        words = sys.argv[1:]
        write_text(options.page, page(shown, command("benchmarks.experiments.ladder", words, options.folder)))
    print(shown.markdown())


if __name__ == "__main__":
    main()
