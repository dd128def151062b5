"""Masked autoencoder, masked LM and replaced-token detection on sets of DNA barcodes, at equal compute.

    python -m benchmarks.experiments.barcodes FOLDER --out DIR [--sets GLOB ...] [--seeds 0 1 2] [--steps 1500]
        [--mega-tokens 3] [--page barcodes.md] [-- --dtype bf16]

For every set, each objective pre-trains an encoder of the same sizes on the training rows, without the species that the
evaluation holds out as unseen, and without copies. The steps of the autoencoder are `--steps`, fewer where that would
be more than `--mega-tokens`; each of the others gets as many as the same number of floating-point operations pays for.
Each seed is a training of its own. DIR/table.md has the evaluations of `python -m nucel.suite barcodes`, beside k-mers,
edit distance and untrained encoders; a run that is there already is not trained again. Words after `--` go to every
`python -m nucel.train`. --page is for committing: it has the means over the sets, and what the runs were, above all
tables.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import functools
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nucel.genome.kmers import kmer_frequencies
from nucel.inference.embedding import EmbedOptions, embeddings
from nucel.model import hub
from nucel.model.config import ElectraConfig
from nucel.model.encoder import Encoder
from nucel.model.networks import fingerprint
from nucel.objectives.kinds import OBJECTIVES
from nucel.pretraining.config import PRESETS
from nucel.pretraining.cost import training_flops
from nucel.runs.directory import RunDirectory
from nucel.runtime.device import choose_precision
from nucel.runtime.files import write_text
from nucel.runtime.parts import Parts
from nucel.runtime.version import __version__
from nucel.suites.barcode_protocols import ProtocolOptions, Row, by_neighbours, evaluate
from nucel.suites.barcode_sets import BarcodeSet, find_sets, held_out_species, read_set
from nucel.suites.barcode_table import markdown, tsv
from nucel.suites.barcodes import EDITS, KMERS, UNTRAINED, edit_neighbours
from nucel.tasks.features import untrained
from nucel.tokenizers import nucleotide
from nucel.train import parse

from .barcodes_page import page
from .training import command, split_at_dashes, train

SETTINGS: dict[str, dict[str, str]] = {
    "mae": {},
    "mlm": {"objective": "mlm"},
    "electra": {"objective": "electra", "model.mask-rate": "0.15", "model.mask-span": "1"},
}
"""What each objective changes of the preset: the LM takes the autoencoder's masks, the pair the paper's."""
WARMUP_SHARE = 0.3


def write_training_rows(barcodes: BarcodeSet, held_out: Sequence[str], path: Path) -> int:
    """The distinct training rows whose species is not held out, as a FASTA file; how many there are."""
    chosen = np.flatnonzero(~barcodes.in_test & ~np.isin(barcodes.species, held_out))
    distinct = {barcodes.tokens[i].tobytes(): i for i in chosen.tolist()}.values()
    text = "".join(f">row{i}\n{nucleotide.decode(barcodes.tokens[i])}\n" for i in sorted(distinct))
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:  # another process may be training on it
        write_text(path, text)
    return len(distinct)


def steps_at_equal_compute(preset: str, context: int, steps: int) -> dict[str, int]:
    """Steps of each objective that cost as many operations as `steps` of the autoencoder."""
    sizes: ElectraConfig = PRESETS[preset]().model
    masks = {"electra": dataclasses.replace(sizes, mask_rate=0.15, mask_span=1)}
    flops = {name: training_flops(OBJECTIVES[name], masks.get(name, sizes), context) for name in SETTINGS}
    return {name: max(1, round(steps * flops["mae"] / flops[name])) for name in SETTINGS}


def pretrain(objective: str, genome: Path, out: Path, steps: int, words: Sequence[str]) -> None:
    """A run in `out`, unless it has come to its end there."""
    if out.is_dir() and RunDirectory(out).newest_step() >= steps:
        return
    settings = SETTINGS[objective] | {"genome": str(genome), "out": str(out), "resume": "auto", "steps": str(steps)}
    settings |= {"warmup-steps": str(int(WARMUP_SHARE * steps)), "save-every": str(steps)}
    settings |= {"validate-every": str(max(1, steps // 10))}
    given = [word for name, value in settings.items() for word in (f"--{name}", value)]
    train(*words[:1], *given, *words[1:])


@dataclass(frozen=True)
class Evaluations:
    """Evaluations of one set, each kept in FOLDER."""

    one: BarcodeSet
    protocol: ProtocolOptions
    folder: Path

    def of_encoder(self, name: str, encoder: Encoder, seed: int) -> list[Row]:
        def make() -> list[Row]:
            precision = choose_precision("auto", "auto")
            network = encoder.to(precision.device)
            return evaluate(
                self.one,
                name,
                lambda tokens: np.stack(list(embeddings(network, tokens, EmbedOptions(), precision))),
                self.protocol,
                (seed,),
            )

        return self._once(name, [seed], fingerprint(encoder), make)

    def of_kmers(self, name: str, k: int, seeds: Sequence[int]) -> list[Row]:
        counts = functools.partial(kmer_frequencies, sizes=(k,))
        return self._once(name, seeds, None, lambda: evaluate(self.one, name, counts, self.protocol, seeds))

    def of_edits(self, seed: int) -> list[Row]:
        nearest = edit_neighbours(self.one)
        return self._once(EDITS, [seed], None, lambda: by_neighbours(self.one, EDITS, nearest, self.protocol, seed))

    def _once(self, name: str, seeds: Sequence[int], model: str | None, make: Callable[[], list[Row]]) -> list[Row]:
        identity = {
            "version": __version__,
            "set": self.one.fingerprint,
            "protocol": dataclasses.asdict(self.protocol) | {"reduction": self.protocol.chosen_reduction},
            "model": model,
        }
        path = self.folder / "-".join([*name.split(), *map(str, seeds)])
        parts = Parts(path, "evaluation of barcodes", identity)
        return [Row(*row) for row in parts.once_json(0, make)]


def rows_of(one: BarcodeSet, options: argparse.Namespace, protocol: ProtocolOptions) -> Iterator[Row]:
    """Pre-train on a set, and evaluate what comes out, beside the controls."""
    folder: Path = options.out / one.name
    seeds: list[int] = options.seeds
    held = held_out_species(one, protocol.split_seed, protocol.unseen_share)
    count = write_training_rows(one, held.tolist(), folder / "pretrain.fa")
    print(f"{one.name}: pre-training on {count} distinct rows, {len(held)} species held out", file=sys.stderr)
    context = 1 + max(map(len, one.tokens))
    words = [options.preset, "--context", str(context), *options.words]
    batch = parse([*words, "--genome", str(folder / "pretrain.fa")]).batch_size
    most = min(options.steps, 1e6 * options.mega_tokens // (batch * context))
    steps = steps_at_equal_compute(options.preset, context, max(1, int(most)))
    evaluations = Evaluations(one, protocol, folder / "evaluations")
    for objective, seed in itertools.product(SETTINGS, seeds):
        run = folder / f"{objective}-{seed}"
        pretrain(objective, folder / "pretrain.fa", run, steps[objective], [*words, "--seed", str(seed)])
        yield from evaluations.of_encoder(objective, hub.load(run), seed)
    for name, k in KMERS.items():
        yield from evaluations.of_kmers(name, k, seeds)
    yield from evaluations.of_edits(seeds[0])
    shape = hub.load(run)
    for seed in seeds:
        yield from evaluations.of_encoder(UNTRAINED, untrained(shape, seed), seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of NAME_train.fasta and NAME_test.fasta (.gz)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=["*"], help="globs of names")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--preset", choices=PRESETS, default="barcode-small")
    parser.add_argument("--steps", type=int, default=1500, help="of the autoencoder")
    parser.add_argument("--mega-tokens", type=float, default=math.inf, help="that an autoencoder reads at most")
    parser.add_argument("--draws", type=int, default=1000, help="of the bootstrap")
    parser.add_argument("--page", type=Path, help="Markdown for committing")
    given, words = split_at_dashes(sys.argv[1:])
    options = parser.parse_args(given, argparse.Namespace(words=words))
    protocol = ProtocolOptions(draws=options.draws)
    files = find_sets([options.folder])
    names = [name for name in files if any(fnmatch.fnmatchcase(name, glob) for glob in options.sets)]
    if not names:
        parser.error(f"no set in {options.folder} is named {' '.join(options.sets)}; there are {' '.join(files)}")
    rows: list[Row] = []
    sizes = {}
    for name in names:
        one = read_set(name, *files[name])
        sizes[name] = one.sizes()
        rows += rows_of(one, options, protocol)
        settings = {"protocol": dataclasses.asdict(protocol), "unseen_in_pretraining": "no"}
        about = {"settings": settings, "reduction": protocol.chosen_reduction, "torch": torch.__version__}
        (options.out / "table.tsv").write_text(tsv(rows))
        (options.out / "table.md").write_text(markdown(rows, sizes, about))
        (options.out / "about.json").write_text(json.dumps(about | {"command": sys.argv}, indent=2) + "\n")
    if options.page:
        words = command("benchmarks.experiments.barcodes", sys.argv[1:], options.folder.resolve().parent)
        runs = {(n, o): [options.out / n / f"{o}-{seed}" for seed in options.seeds] for n in names for o in SETTINGS}
        write_text(options.page, page(words, rows, runs, markdown(rows, sizes, about)))


if __name__ == "__main__":
    main()
