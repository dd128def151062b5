"""What the fine-tuning experiments need besides the tables of GUE, from the folder of real data.

python -m benchmarks.experiments.finetune_data $NUCEL_DATA OUT

OUT/tasks/splice/    UCI splice junctions (EI, IE, N) as train, dev and test: 80, 10 and 10 % of the distinct
                     sequences, drawn once; a sequence that occurs again is left out
OUT/unlabelled.fa    the sequences of all training tables, each once, for pre-training without labels; one that
                     occurs in a dev or test table, on either strand, is left out
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

from nucel.genome.sequences import read_sequences
from nucel.tasks.folders import find_tasks
from nucel.tokenizers import nucleotide

_SHARES = {"train": 0.8, "dev": 0.1, "test": 0.1}


def split_splice(source: Path, folder: Path) -> dict[str, int]:
    """Write the tables of the splice task; returns their rows, and how many repeats were left out."""
    with open(source, newline="", encoding="utf-8") as file:
        rows = [(row[-1].strip(), row[0].strip()) for row in list(csv.reader(file))[1:] if row]
    first: dict[str, str] = {}
    for sequence, label in rows:
        first.setdefault(sequence, label)
    distinct = list(first.items())
    order = np.random.default_rng(0).permutation(len(distinct))
    cuts = np.cumsum([round(share * len(distinct)) for share in _SHARES.values()])[:-1]
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {}
    for part, chosen in zip(_SHARES, np.split(order, cuts), strict=True):
        lines = ["sequence,label", *(",".join(distinct[i]) for i in chosen)]
        (folder / f"{part}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        sizes[part] = len(chosen)
    return {**sizes, "left_out": len(rows) - len(distinct)}


def write_unlabelled(tasks: dict[str, tuple[Path, Path, Path]], fasta: Path) -> dict[str, int]:
    """Write the training sequences of tasks as FASTA; returns how many, their bases, and how many were left out."""
    kept: dict[bytes, np.ndarray] = {}
    held: set[bytes] = set()
    for train, dev, test in tasks.values():
        for table in (dev, test):
            for tokens in read_sequences(table).tokens:
                held |= {tokens.tobytes(), nucleotide.reverse_complement(tokens).tobytes()}
        kept |= {tokens.tobytes(): tokens for tokens in read_sequences(train).tokens}
    written = [tokens for key, tokens in kept.items() if key not in held]
    with open(fasta, "w", encoding="ascii") as file:
        for i, tokens in enumerate(written):
            file.write(f">s{i}\n{nucleotide.decode(tokens)}\n")
    return {"sequences": len(written), "bases": sum(map(len, written)), "left_out": len(kept) - len(written)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with gue/ and uci/")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    splice = options.out / "tasks" / "splice"
    print("splice:", split_splice(options.data / "uci" / "splice.data.txt", splice))
    tasks = find_tasks((options.data / "gue", options.out / "tasks"))
    print("unlabelled:", write_unlabelled(tasks, options.out / "unlabelled.fa"))


if __name__ == "__main__":
    main()
