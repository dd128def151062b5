"""The command line of pre-training: the fields of `TrainConfig`, in the groups that ``--help`` shows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, TypeVar

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

Group = TypeVar("Group")


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

        def group(kind: type[Group]) -> Group:
            return kind(**{name: getattr(config, name) for name in _names(kind)})

        return cls(
            data=group(DataFlags),
            windows=group(WindowOptions),
            objective=group(ObjectiveOptions),
            training=group(OptimizerOptions),
            run=group(RunOptions),
            output=group(OutputOptions),
            compute=group(ComputeFlags),
            model=config.model,
        )

    def config(self) -> TrainConfig:
        """The same settings, without the groups."""
        groups = (self.data, self.windows, self.objective, self.training, self.run, self.output, self.compute)
        settings = {name: getattr(group, name) for group in groups for name in _names(type(group))}
        return TrainConfig(model=self.model, **settings)


def _names(kind: type[Any]) -> list[str]:
    return [one.name for one in dataclasses.fields(kind)]
