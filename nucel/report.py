"""One page that judges a run: ``python -m nucel.report RUN [--tasks FOLDER...] [--out report.html]``.

Whether pre-training was worth it, in plain words, then all that the data at hand allow: the run's curves beside Markov
models, logos of held-out windows, frozen probes (--tasks), DNA barcodes (--barcodes), biotypes (--biotypes), variants
(--variants), each beside its controls, with intervals, leaks, and the commands that compute the same by hand.

    OUT          one HTML file that fetches nothing
    OUT.parts    what is finished, as JSON, and the tables; the same command goes on with what is missing

The last line on stdout is one JSON object.

Examples:
    python -m nucel.report runs/ecoli
    python -m nucel.report runs/ecoli --tasks tasks --max-rows 2000 --out quick.html
    python -m nucel.report runs/ecoli --tasks tasks --control runs/mlm --variants effects.tsv --genome hg38.fa
"""

from __future__ import annotations

import sys

from .runtime import cli
from .suites.report import ReportConfig, report


def main(arguments: list[str] | None = None) -> int:
    """Judge as the command line says; returns the exit status."""
    typed = cli.command_line("report", arguments)
    return cli.run("report", ReportConfig, lambda config: report(config, typed), arguments)


if __name__ == "__main__":
    sys.exit(main())
