"""Pre-train a NucEL pair on a genome: ``python -m nucel.train [debug|small|base] --genome FILE... --out DIR``."""

from __future__ import annotations

import json
import sys

import tyro

from .pretraining.config import PRESETS
from .pretraining.estimate import estimate
from .pretraining.trainer import train
from .runtime import cli, distributed
from .runtime.errors import ConfigError, TrainingError

INTERRUPTED = 75
"""Exit status of a run that a signal ended after a checkpoint: EX_TEMPFAIL, "run it again"."""


def main(arguments: list[str] | None = None) -> int:
    """Command line: parse, train, print the summary as one JSON object on the last line of stdout."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command = cli.command_line("train", arguments)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = ["debug", *arguments]
    presets = {name: (preset.__doc__ or "", preset()) for name, preset in PRESETS.items()}
    try:
        config = tyro.extras.overridable_config_cli(
            presets,
            prog="python -m nucel.train",
            description="Pre-train a NucEL pair on a genome. Without a preset's name, debug is taken.",
            args=arguments,
        )
    except ConfigError as error:
        return cli.fail(error)
    with distributed.world() as ranks:

        def fail(error: Exception | str, status: int = 2) -> int:
            return cli.fail(f"rank {ranks.rank}: {error}" if ranks.rank else error, status)

        try:
            summary = estimate(config, ranks) if config.dry_run else train(config, command, ranks)
            ranks.wait()  # rank 0 has most to do at the end, and torchrun ends it if another leaves in disorder
        except (ValueError, OSError) as error:
            return fail(error)
        except TrainingError as error:
            return fail(error, status=1)
        except RuntimeError as error:
            if ranks.size == 1 or not distributed.is_lost_connection(error):
                raise
            return fail(f"lost another rank; go on with --resume auto ({error})", status=1)
    if ranks.is_main:
        print(json.dumps(summary))
    return INTERRUPTED if summary.get("interrupted") else 0


if __name__ == "__main__":
    sys.exit(main())
