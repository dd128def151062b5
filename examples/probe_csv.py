"""Probe a frozen model on CSV tables, beside k-mers, one-hot bases and an untrained encoder.

    python examples/probe_csv.py [FOLDER]

Takes less than a minute on two idle CPU cores, and needs no data. It needs scikit-learn: pip install '.[eval]'.

The sequences are generated: those of class 1 hold a motif, those of class 0 the same bases in another order, so that
single bases tell nothing. The model is pre-trained for a few steps only, so the table shows how to read a probe beside
its controls, not what pre-training gains.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import nucel

MOTIF = "GGATCCTA"


def labelled_sequence(rng: np.random.Generator) -> tuple[str, int]:
    """48 random bases, of which eight are the motif, or its bases in random order."""
    bases, motif, label = rng.choice(list("ACGT"), 48), list(MOTIF), int(rng.integers(2))
    start = int(rng.integers(41))
    bases[start : start + 8] = motif if label else rng.permutation(motif)
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
    for table, rows in {"train": 200, "dev": 60, "test": 100}.items():
        write_table(folder / f"{table}.csv", rows, rng)

    pretraining = "--context 128 --window-bp 160 --overlap-bp 16 --steps 4 --batch-size 8 --validation-windows 16"
    run_verb("train", f"debug --out run {pretraining}", folder)
    tables = "--train train.csv --dev dev.csv --test test.csv"
    run_verb("probe", f"run {tables} --heads tuned --poolings mean --seeds 0 --out probes", folder)

    with (folder / "probes/table.tsv").open() as file:
        for row in csv.DictReader(file, delimiter="\t"):
            print(f"{row['head']} on {row['features']}: test MCC {float(row['test_mcc']):.3f}")

    task = nucel.read_task(*(folder / f"{part}.csv" for part in ("train", "dev", "test")))
    probe = nucel.fit_probe(folder / "run", task, head="knn", layer=1)
    print(f"class probabilities of the motif alone: {probe.predict([MOTIF])[0]}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
