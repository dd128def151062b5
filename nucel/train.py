"""Pre-train on a genome or on barcodes: ``python -m nucel.train [PRESET] --genome FILE... --out DIR``.

Examples:
    python -m nucel.train
    python -m nucel.train small --genome ecoli.fa.gz --dtype bf16 --out runs/ecoli
    python -m nucel.train small --genome ecoli.fa.gz --dry-run
    python -m nucel.train --resume runs/ecoli
    python -m nucel.train barcode-small --genome barcodes.fa --out runs/barcodes
    torchrun --nproc-per-node 8 -m nucel.train base --genome hg38.fa --out runs/hg38 --resume auto
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import tyro

from .pretraining.config import PRESETS, TrainConfig
from .pretraining.estimate import estimate
from .pretraining.flags import TrainFlags
from .pretraining.stored import stored_config
from .pretraining.trainer import train
from .runs.directory import RunDirectory
from .runtime import cli, distributed
from .runtime.errors import CheckpointError, TrainingError

INTERRUPTED = 75
"""Exit status of a run that a signal ended after a checkpoint: EX_TEMPFAIL, "run it again"."""


def main(arguments: list[str] | None = None) -> int:
    """Command line: parse, train, say how it went, print the summary as one JSON object on the last line of stdout."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command = cli.command_line("train", arguments)
    arguments = cli.shared_flags(arguments)
    try:
        config = parse(arguments)
    except ValueError as error:
        return cli.fail(error)
    with distributed.world() as ranks:

        def fail(error: Exception | str, status: int = 2) -> int:
            return cli.fail(f"rank {ranks.rank}: {error}" if ranks.rank else error, status)

        try:
            result = estimate(config, ranks) if config.dry_run else train(config, command, ranks)
            ranks.wait()  # rank 0 has most to do at the end, and torchrun ends it if another leaves in disorder
        except (ValueError, OSError) as error:
            return fail(error)
        except TrainingError as error:
            return fail(error, status=1)
        except RuntimeError as error:
            if ranks.size == 1 or not distributed.is_lost_connection(error):
                raise
            return fail(f"lost another rank; start the same command again, with --resume auto ({error})", status=1)
    if ranks.is_main:
        cli.finish(result)
    return INTERRUPTED if result.summary.get("interrupted") else 0


def parse(arguments: list[str]) -> TrainConfig:
    """The configuration that a command line asks for.

    What is not given comes from the preset that is named, else from the run that is resumed, else from debug. The
    genome of a run that is resumed need never be repeated.

    Raises:
        ConfigError, CheckpointError: settings that cannot work, or a run that does not tell its own.
    """
    stored = None if _HELP & set(arguments) else _resumed(arguments)
    presets = {name: (preset.__doc__ or "", preset()) for name, preset in PRESETS.items()}
    if arguments and (not arguments[0].startswith("-") or arguments[0] in _HELP):
        if stored:
            presets = {name: (text, replace(config, genome=stored.genome)) for name, (text, config) in presets.items()}
    else:
        if stored:
            presets = {"debug": ("the run's own settings", stored)}
        arguments = ["debug", *arguments]
    with cli.help_with_examples("train", arguments):
        flags = tyro.extras.overridable_config_cli(
            {name: (text, TrainFlags.of(config)) for name, (text, config) in presets.items()},
            prog="python -m nucel.train",
            description="Pre-train on a genome or on barcodes. Without a preset's name, debug is taken.\n\n"
            + cli.SHARED_FLAGS,
            args=arguments,
        )
    return flags.config()


_HELP = {"-h", "--help"}


def _resumed(arguments: list[str]) -> TrainConfig | None:
    """What a run that the command line continues was started with; what is wrong with the words is said later.

    Raises:
        CheckpointError: `--resume RUN`, and the run does not tell its settings. `--resume auto` can do without.
    """
    words = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    words.add_argument("--resume", nargs="?")
    words.add_argument("--out", nargs="?")
    given, _ = words.parse_known_args(arguments)
    directory = given.out if given.resume == "auto" else given.resume
    if not directory or not (run := RunDirectory(Path(directory))).describes_run():
        return None
    try:
        return stored_config(run)
    except CheckpointError:
        if given.resume == "auto":
            return None
        raise


if __name__ == "__main__":
    sys.exit(main())
