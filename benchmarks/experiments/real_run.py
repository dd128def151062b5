"""Replaced-token detection against masked-language modelling at equal compute, on a folder of real genomes.

    python -m benchmarks.experiments.real_run GENOMES --out DIR [--minutes 4] [--preset base] [--hold-out GLOB ...]

Both objectives train an encoder of the same size on the same windows with the same settings, and each gets as many
steps as the same number of floating-point operations pays for: what `--minutes` of the pair take on this machine, by a
dry run. Whole files are held out, so that the losses are those of genera that were never seen. curves.png shows both
runs; summary.json holds their summaries. `python -m nucel.suite` with `--models pretrained=DIR/electra mlm=DIR/mlm`
says which encoder is the more useful.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from nucel.genome.fasta import Genome
from nucel.objectives.electra import Electra
from nucel.objectives.mlm import MaskedLM
from nucel.pretraining.config import PRESETS
from nucel.pretraining.cost import training_flops

from .training import train

OBJECTIVES = {"electra": Electra, "mlm": MaskedLM}
WARMUP_SHARE = 0.05


def genomes_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.name.endswith((".fa", ".fa.gz")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("genomes", type=Path, help="folder of FASTA files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=4.0, help="for each of the two runs")
    parser.add_argument("--preset", choices=PRESETS, default="base")
    parser.add_argument("--lr", type=float, default=4e-4, help="higher than the paper's 1e-4: the run is so short")
    parser.add_argument(
        "--hold-out", nargs="+", default=["streptococcus*", "thermococcus*"], help="globs of file names"
    )
    options = parser.parse_args()
    files = genomes_in(options.genomes)
    held = [path for path in files if any(path.match(glob) for glob in options.hold_out)]
    if not held or len(held) == len(files):
        parser.error(f"{len(held)} of {len(files)} files in {options.genomes} match --hold-out {options.hold_out}")

    config = PRESETS[options.preset]()
    words = ["--genome", *map(str, files), "--lr", str(options.lr), "--decay", "linear"]
    words += ["--hold-out", *(contig for path in held for contig in Genome(path).contigs), "--hold-out-fraction", "0"]
    measured = train(options.preset, *words, "--dry-run")
    flops = {name: training_flops(model, config.model, config.context) for name, model in OBJECTIVES.items()}
    tokens_per_step = config.batch_size * config.context
    steps = {"electra": int(60 * options.minutes * measured["tokens_per_s"] / tokens_per_step)}
    steps["mlm"] = round(steps["electra"] * flops["electra"] / flops["mlm"])

    summary: dict[str, Any] = {"held_out": [path.name for path in held], "flops_per_window": flops, "runs": {}}
    for objective, count in steps.items():
        summary["runs"][objective] = train(
            options.preset, *words, "--objective", objective, "--out", str(options.out / objective),
            "--resume", "auto", "--steps", str(count), "--warmup-steps", str(int(WARMUP_SHARE * count)),
            "--validate-every", str(max(1, count // 20)), "--save-every", str(count), "--log-every", "10",
        )  # fmt: skip
        (options.out / "summary.json").write_text(json.dumps(summary, indent=1))
    runs = [str(options.out / objective) for objective in steps]
    subprocess.run([sys.executable, "-m", "nucel.plot", *runs, "--out", str(options.out / "curves.png")], check=True)


if __name__ == "__main__":
    main()
