"""The command line of pre-training: the fields of `TrainConfig`, in the groups that ``--help`` shows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from tyro.conf import OmitArgPrefixes

from ..genome.windows import WindowOptions
from ..model.config import ElectraConfig
from .config import TrainConfig
from .options import (
    InputOptions,
    MachineOptions,
    ObjectiveOptions,
    OptimizerOptions,
    OutputOptions,
    PrecisionOptions,
    ReadingOptions,
    RunOptions,
)


@dataclass(frozen=True)
class DataFlags(ReadingOptions, InputOptions):
    """The genome, what of it is kept for validation, and how it is read."""


@dataclass(frozen=True)
class ComputeFlags(MachineOptions, PrecisionOptions):
    """Device, precision, memory and threads; only the precision changes what is trained."""


@dataclass(frozen=True)
class TrainFlags:
    """A field for each group. Every field of `TrainConfig` is in one of them.

    Raises:
        ConfigError: the settings cannot work together.
    """

    data: OmitArgPrefixes[DataFlags] = field(default_factory=DataFlags)
    windows: OmitArgPrefixes[WindowOptions] = field(default_factory=WindowOptions)
    objective: OmitArgPrefixes[ObjectiveOptions] = field(default_factory=ObjectiveOptions)
    training: OmitArgPrefixes[OptimizerOptions] = field(default_factory=OptimizerOptions)
    run: OmitArgPrefixes[RunOptions] = field(default_factory=RunOptions)
    output: OmitArgPrefixes[OutputOptions] = field(default_factory=OutputOptions)
    compute: OmitArgPrefixes[ComputeFlags] = field(default_factory=ComputeFlags)
    model: ElectraConfig = field(default_factory=ElectraConfig)

    def __post_init__(self) -> None:
        self.config()  # refuses here what a command line cannot mean, so that it is said like a misspelt flag

    @classmethod
    def of(cls, config: TrainConfig) -> TrainFlags:
        """The same settings, in groups."""

        groups = {
            name: type(group)(**{setting: getattr(config, setting) for setting in _names(group)})
            for name, group in cls()._groups().items()
        }
        return cls(model=config.model, **groups)

    def config(self) -> TrainConfig:
        """The same settings, without the groups."""
        settings = {name: getattr(group, name) for group in self._groups().values() for name in _names(group)}
        return TrainConfig(model=self.model, **settings)

    def _groups(self) -> dict[str, Any]:
        """All but the model's settings, which are nested in a `TrainConfig` too."""
        return {name: getattr(self, name) for name in _names(self) if name != "model"}


def _names(options: Any) -> list[str]:
    return [one.name for one in dataclasses.fields(options)]
