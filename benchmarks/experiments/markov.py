"""Markov models of a run's own data: the generator's loss is compared with theirs.

    python -m benchmarks.experiments.markov RUN [--genome FILE...]

Fits chains of several orders to the run's training windows (all alike, both strands where the run reads both, add-one
counts) and prints their cross-entropy per base, in nats, on its held-out windows. `python -m nucel.report` shows the
same beside all else that is known of a run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nucel.genome.markov import MOST_BP, cross_entropies
from nucel.runs.directory import RunDirectory
from nucel.runs.log import read_metrics
from nucel.suites.report_run import windows_of_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--genome", nargs="*", type=Path, default=[], help="where the genome is now, if it was moved")
    parser.add_argument("--orders", nargs="*", type=int, default=[0, 2, 5, 8])
    parser.add_argument("--most-bp", type=int, default=MOST_BP, help="bases that are counted at most")
    arguments = parser.parse_args()
    run = RunDirectory(arguments.run)
    train, held_out, both_strands = windows_of_run(run, tuple(arguments.genome))
    print("| model | held-out cross-entropy (nats per base) |\n|---|---|")
    found = cross_entropies(train, held_out, arguments.orders, both_strands, arguments.most_bp)
    for order, value in found.items():
        print(f"| Markov, order {order} | {value:.4f} |")
    last = [line for line in read_metrics(run) if line["split"] == "validation"][-1]
    print(f"| generator, step {last['step']} | {last['generator_loss']:.4f} |")


if __name__ == "__main__":
    main()
