"""See what a model sees: fine-tune on sequences with a motif, then draw which bases decide and what the motif does.

    python examples/interpret_model.py [FOLDER]

Takes about a minute on an idle CPU core, and needs no data. It needs scikit-learn, matplotlib and logomaker:
pip install '.[eval,plots]'. FOLDER gets logos.svg and importance.svg, the pictures of docs/interpret.md.

The sequences are generated: those of class 1 hold TTGACATATAAT once, anywhere, those of class 0 nowhere. So it is known
what the model should look at.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

MOTIF = "TTGACATATAAT"
LENGTH = 60


def labelled_sequence(rng: np.random.Generator, label: int) -> str:
    """Random bases, with the motif in them if the label is 1."""
    bases = rng.choice(list("ACGT"), LENGTH)
    if label:
        start = int(rng.integers(LENGTH - len(MOTIF) + 1))
        bases[start : start + len(MOTIF)] = list(MOTIF)
    return "".join(bases)


def write_table(path: Path, labels: list[int], rng: np.random.Generator) -> None:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["sequence", "label"])
        table.writerows((labelled_sequence(rng, label), label) for label in labels)


def run_verb(verb: str, words: str, folder: Path) -> None:
    """Run a verb in a folder, as it would be typed in a shell there."""
    subprocess.run([sys.executable, "-m", f"nucel.{verb}", *words.split(), "--device", "cpu"], cwd=folder, check=True)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for table, rows in {"train": 3000, "dev": 200, "test": 200}.items():
        write_table(folder / f"{table}.csv", [int(label) for label in rng.integers(0, 2, rows)], rng)
    write_table(folder / "one.csv", [1], rng)
    write_table(folder / "without.csv", [0] * 3, rng)

    sizes = {"layers": 2, "width": 64, "heads": 2, "intermediate": 96, "init-std": 0.1}  # smaller than the preset's
    pretraining = "--context 128 --window-bp 160 --overlap-bp 16 --steps 4 --batch-size 8 --validation-windows 16"
    pretraining += "".join(f" --model.discriminator.{name} {value}" for name, value in sizes.items())
    run_verb("train", f"debug --out run {pretraining}", folder)
    settings = "--classifier-pooling mean --lr 3e-3 --warmup-steps 20 --epochs 6 --seeds 0"
    run_verb("finetune", f"run --train train.csv --dev dev.csv --test test.csv --out tuned {settings}", folder)

    model = "tuned/model"
    run_verb("interpret", f"attribution {model} one.csv --method ism gradient --target class:1 --out logos.svg", folder)
    run_verb("interpret", f"attribution {model} one.csv --method ism --target class:1 --out ism.tsv", folder)
    patterns = f"--pattern {MOTIF} {MOTIF[:6]} {MOTIF[6:]} {MOTIF[::-1]} --shuffles 100"
    run_verb("interpret", f"importance {model} without.csv {patterns} --out effects.tsv --plot importance.svg", folder)

    with (folder / "ism.tsv").open() as file:
        values = [float(row["value"]) for row in csv.DictReader(file, delimiter="\t")]
    sequence = (folder / "one.csv").read_text().splitlines()[1].split(",")[0]
    highest = np.argsort(values)[::-1][: len(MOTIF)]
    start = sequence.index(MOTIF)
    inside = sum(start <= place < start + len(MOTIF) for place in highest)
    print(f"of the {len(MOTIF)} bases with the highest values, {inside} are in the motif")
    with (folder / "effects.tsv").open() as file:
        for row in csv.DictReader(file, delimiter="\t"):
            print(f"{row['pattern']}: {float(row['mean']):.3f} ({float(row['low']):.3f} to {float(row['high']):.3f})")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
