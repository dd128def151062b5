"""Fine-tune a classifier on CSV tables, then predict new sequences with it.

    python examples/finetune_csv.py [FOLDER]

Takes less than a minute on two idle CPU cores, and needs no data. It needs scikit-learn: pip install '.[eval]'.

The sequences are generated: those of class 1 hold a TATA box in every dozen bases. The model is pre-trained for a few
steps only, so this shows how to fine-tune, not what pre-training gains. `python -m nucel.suite` measures that.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

MOTIF = "TATAAA"


def labelled_sequence(rng: np.random.Generator) -> tuple[str, int]:
    """48 random bases and their class."""
    bases = rng.choice(list("ACGT"), 48)
    label = int(rng.integers(2))
    if label:
        for start in range(0, 48, 12):
            offset = start + int(rng.integers(12 - len(MOTIF) + 1))
            bases[offset : offset + len(MOTIF)] = list(MOTIF)
    return "".join(bases), label


def write_table(path: Path, rows: int, rng: np.random.Generator) -> None:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["sequence", "label"])
        table.writerows(labelled_sequence(rng) for _ in range(rows))


def run_verb(verb: str, words: str, folder: Path) -> None:
    """Run a verb in a folder, as it would be typed in a shell there."""
    subprocess.run([sys.executable, "-m", f"nucel.{verb}", *words.split(), "--device", "cpu"], cwd=folder, check=True)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for table, rows in {"train": 240, "dev": 60, "test": 100, "new": 5}.items():
        write_table(folder / f"{table}.csv", rows, rng)

    pretraining = "--context 128 --window-bp 160 --overlap-bp 16 --steps 4 --batch-size 8 --validation-windows 16"
    run_verb("train", f"debug --out run {pretraining}", folder)
    tables = "--train train.csv --dev dev.csv --test test.csv"
    settings = "--classifier-pooling mean --lr 2e-3 --warmup-steps 5 --epochs 6 --seeds 0"
    run_verb("finetune", f"run {tables} --out classifier {settings}", folder)
    run_verb("predict", "classifier/model new.csv --out new.tsv", folder)

    with (folder / "classifier/seed-0/predictions.tsv").open() as file:
        predictions = list(csv.DictReader(file, delimiter="\t"))
    correct = sum(row["predicted"] == row["label"] for row in predictions)
    print(f"test table: {correct} of {len(predictions)} correct")
    print((folder / "new.tsv").read_text(), end="")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
