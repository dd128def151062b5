"""Pre-train a NucEL pair on a genome: ``python -m nucel.train [debug|small|base] --genome FILE... --out DIR``."""

from __future__ import annotations

import json
import shlex
import sys

import tyro

from .genome import GenomeError
from .pretraining.config import PRESETS
from .pretraining.estimate import estimate
from .pretraining.trainer import train
from .runtime import distributed
from .runtime.cli import console
from .runtime.distributed import ALONE, World
from .runtime.errors import CheckpointError, ConfigError, HubError, TrainingError

INTERRUPTED = 75
"""Exit status of a run that a signal ended after a checkpoint: EX_TEMPFAIL, "run it again"."""


def main(arguments: list[str] | None = None) -> int:
    """Command line: parse, train, print the summary as one JSON object on the last line of stdout."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "-m", "nucel.train", *arguments])
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
        return _fail(error, ALONE)
    with distributed.world() as place:
        try:
            summary = estimate(config, place) if config.dry_run else train(config, command, place)
            place.wait()  # rank 0 has most to do at the end, and torchrun ends it if another leaves in disorder
        except (ConfigError, GenomeError, CheckpointError, HubError, OSError) as error:
            return _fail(error, place)
        except TrainingError as error:
            return _fail(error, place, status=1)
        except RuntimeError as error:
            if place.size == 1 or not distributed.is_lost_connection(error):
                raise
            return _fail(f"lost another rank; go on with --resume auto ({error})", place, status=1)
    if place.speaks:
        print(json.dumps(summary))
    return INTERRUPTED if summary.get("interrupted") else 0


def _fail(error: Exception | str, place: World, status: int = 2) -> int:
    rank = "" if place.speaks else f"rank {place.rank}: "
    console.print(f"{rank}error: {error}", style="red", soft_wrap=True, markup=False)
    return status


if __name__ == "__main__":
    sys.exit(main())
