"""The configuration of a run as run.json keeps it, so that a resume needs to name nothing but the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..model.config import ElectraConfig, EncoderConfig
from ..runs.description import RunDescription
from ..runs.directory import RunDirectory
from ..runtime.device import Precision
from ..runtime.errors import CheckpointError
from ..runtime.files import sha256
from .config import Recipe, TrainConfig

_BEDS = ("keep_bed", "drop_bed")
_SETTINGS = (
    *_BEDS, "genome", "micro_batch", "compile", "max_skipped", "device", "threads", "validate_every",
    "validation_windows", "save_every", "keep", "log_every", "track",
)  # fmt: skip
"""What run.json keeps beside the recipe. Left out is what belongs to a session: where it writes, where it stops."""


def recipe_of(config: TrainConfig, precision: Precision) -> dict[str, Any]:
    """The recipe as run.json holds it: by name, regions by their content, and the dtype that `auto` stands for."""
    recipe = {field.name: getattr(config, field.name) for field in dataclasses.fields(Recipe)}
    recipe["model"] = dataclasses.asdict(config.model)
    # A region's file may change its content, and a path its meaning.
    for bed in _BEDS:
        if path := recipe[bed]:
            recipe[bed] = sha256(Path(path))
    if path := recipe["init_from"]:
        recipe["init_from"] = str(path.absolute())
    recipe["dtype"] = precision.dtype_name
    if config.objective != "mae":
        recipe["model"]["decoder"] = None
    for settings, added in ((recipe, _ADDED), (recipe["model"], _ADDED_TO_MODEL)):
        settings.update({name: None for name, default in added.items() if settings[name] == default})
    return recipe


_ADDED: dict[str, Any] = {"window": "tile", "drop_gaps": False}
_ADDED_TO_MODEL: dict[str, Any] = {"mask_span": 1}
"""Settings that earlier versions did not have, with the values that change nothing. They are stored as null then, which
is no difference to a key that is missing: older runs are the same runs."""


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """The settings as run.json holds them; files by their absolute paths."""
    settings = {name: getattr(config, name) for name in _SETTINGS}
    settings["genome"] = [str(path.absolute()) for path in config.genome]
    for bed in _BEDS:
        settings[bed] = settings[bed] and str(Path(settings[bed]).absolute())
    return settings


def stored_config(run: RunDirectory) -> TrainConfig:
    """The configuration that a run was started with, to be resumed.

    Raises:
        CheckpointError: run.json is missing, damaged, or of another version whose settings this one does not have.
    """
    description = run.read_description()
    try:
        # JSON has lists where the configuration has tuples.
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in (description.recipe | _settings(description, run)).items()
        }
        values = _without_null(values, _ADDED)
        values["genome"] = tuple(map(Path, values["genome"]))
        values["model"] = _model(description.recipe["model"])
        if path := values.get("init_from"):
            values["init_from"] = Path(path)
        return TrainConfig(**values, out=run.path)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{run} does not tell its settings ({error}); repeat the command that started it, with --resume auto: "
            f"{description.command}"
        ) from None


def extended(config: TrainConfig) -> TrainConfig:
    """With the steps of --extend-steps among its steps."""
    if config.extend_steps is None:
        return config
    return dataclasses.replace(config, steps=config.steps + config.extend_steps, extend_steps=None)


def _model(sizes: dict[str, Any]) -> ElectraConfig:
    sizes = _without_null(sizes, ("decoder", *_ADDED_TO_MODEL))
    networks = ["generator", "discriminator", *(["decoder"] if "decoder" in sizes else [])]
    encoders = {name: EncoderConfig(**sizes[name]) for name in networks}
    return ElectraConfig(**(sizes | encoders))


def _without_null(settings: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Without those of the named settings that are null, which stands for their default."""
    return {name: value for name, value in settings.items() if value is not None or name not in names}


def _settings(description: RunDescription, run: RunDirectory) -> dict[str, Any]:
    """Of runs of earlier versions only the genome is known."""
    if description.settings:
        return {name: value for name, value in description.settings.items() if name in _SETTINGS}
    return {"genome": [] if is_demo(description, run) else description.genome.files}


def is_demo(description: RunDescription, run: RunDirectory) -> bool:
    """Whether a run is trained on the demo genome, which lies in its own directory."""
    if description.settings:
        return not description.settings.get("genome")
    return [Path(file).name for file in description.genome.files] == [run.demo_genome.name]
