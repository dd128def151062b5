"""Models and their controls on a folder of tasks: ``python -m nucel.suite FOLDER... --out DIR --models NAME=MODEL...``.

``python -m nucel.suite barcodes FOLDER...`` evaluates embeddings of DNA barcodes, ``python -m nucel.suite biotypes
FILE...`` those of genes. A folder of tasks with such a name is ``./barcodes``.

A task is a folder with tables train, dev and test (.csv or .tsv, also .gz), named by its path below FOLDER: tf/0. On
each task are trained, with every seed, the models that are given, the first of them from scratch (no pre-training), and
a CNN on one-hot bases.

    DIR/results/TASK/METHOD/seed-0.json   settings, metrics, times; a fit that has one is not done again
    DIR/results/TASK/METHOD/seed-0.tsv    its predictions for the test table
    DIR/table.md, DIR/table.tsv           all results, beside the published ones; written anew after each task

The last line on stdout is one JSON object.

Examples:
    python -m nucel.suite gue --models pretrained=runs/human mlm=runs/mlm --out results
    python -m nucel.suite gue --models pretrained=runs/human --max-train 3000 --seeds 0 1 2 --out results
"""

from __future__ import annotations

import sys

from .runtime import cli
from .suites.barcodes import BarcodesConfig, barcodes
from .suites.biotypes import BiotypesConfig, biotypes
from .suites.runner import SuiteConfig, run_suite


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing of the suite as the command line says; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["barcodes"]:
        return cli.run("suite barcodes", BarcodesConfig, barcodes, words[1:])
    if words[:1] == ["biotypes"]:
        return cli.run("suite biotypes", BiotypesConfig, biotypes, words[1:])
    return cli.run("suite", SuiteConfig, run_suite, words)


if __name__ == "__main__":
    sys.exit(main())
