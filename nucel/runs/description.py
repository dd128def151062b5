"""What run.json holds of a run: all that decides its result, and what a resume needs besides."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from ..runtime.files import differences


@dataclass(frozen=True)
class GenomeDescription:
    """The genome that a run is trained on."""

    files: list[str]
    fingerprint: str
    """SHA-256 of the uncompressed FASTA."""
    contigs: int
    length_bp: int


@dataclass(frozen=True)
class WindowCounts:
    """How many windows a run trains on, and how many it is validated on."""

    train: int
    held_out: int


@dataclass(frozen=True)
class RunDescription:
    """What run.json holds: all that decides a run's result, and what it was made with."""

    recipe: dict[str, Any]
    """Every setting that decides the result, by its name; `model` holds the networks' sizes."""
    genome: GenomeDescription
    windows: WindowCounts
    command: str
    """The command line that started the run."""
    versions: dict[str, str | None]
    settings: dict[str, Any] = field(default_factory=dict)
    """How and on which files the run is carried out, for a resume that names nothing but the run."""
    extended_from: list[int] = field(default_factory=list)
    """The numbers of steps after which a finished run was trained on, oldest first; `recipe` has the present number."""
    initial_weights: dict[str, Any] = field(default_factory=dict)
    """SHA-256 of the weights that each network started from, where these were not drawn."""

    @property
    def batch_size(self) -> int:
        return self.recipe["batch_size"]

    @property
    def context(self) -> int:
        return self.recipe["context"]

    @property
    def steps(self) -> int:
        return self.recipe["steps"]

    @property
    def objective(self) -> str:
        return self.recipe["objective"]

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: Any) -> RunDescription:
        """Raises:
        ValueError: this is not a run's description; says what is missing or of a wrong type.
        """
        fields = _fields(cls, content, "the description")
        fields["genome"] = GenomeDescription(**_fields(GenomeDescription, fields["genome"], "genome"))
        fields["windows"] = WindowCounts(**_fields(WindowCounts, fields["windows"], "windows"))
        description = cls(**fields)
        for name, kind in _RECIPE.items():
            if not isinstance(description.recipe.get(name), kind):
                raise ValueError(f"recipe.{name} must be {kind.__name__}, got {description.recipe.get(name)!r}")
        return description

    def differences(self, recipe: dict[str, Any], genome: GenomeDescription) -> list[str]:
        """What tells this run from another: each setting of the recipe, and the genome's content."""
        lines = differences(self.recipe, recipe)
        if self.genome.fingerprint != genome.fingerprint:
            lines.append(
                f"genome: the run's is {', '.join(self.genome.files)}, {', '.join(genome.files)} has other content"
            )
        return lines

    def extended(self, steps: int) -> RunDescription:
        """The description of this finished run, now to be trained for so many more steps."""
        recipe = {**self.recipe, "steps": self.steps + steps}
        return dataclasses.replace(self, recipe=recipe, extended_from=[*self.extended_from, self.steps])

    def without_extensions(self, steps: int) -> RunDescription:
        """As it was when the run had so many steps, if it ever had."""
        if steps not in self.extended_from:
            return self
        return dataclasses.replace(self, recipe={**self.recipe, "steps": steps})


_RECIPE = {"batch_size": int, "context": int, "steps": int, "objective": str, "model": dict}
"""What the files of a run read from its recipe."""
_JSON_TYPES = {"list[str]": list, "list[int]": list, "str": str, "int": int}


def _fields(kind: type, content: Any, name: str) -> dict[str, Any]:
    """A dataclass's fields from a JSON object, which may hold other keys and lack those that have a default."""
    if not isinstance(content, dict):
        raise ValueError(f"{name} must be a JSON object")
    values = {}
    for one in dataclasses.fields(kind):
        if one.name not in content:
            if one.default_factory is dataclasses.MISSING:
                raise ValueError(f"{name} has no {one.name}")
            continue
        values[one.name] = content[one.name]
        expected = _JSON_TYPES.get(str(one.type), dict)
        if not isinstance(values[one.name], expected):
            raise ValueError(f"{name}: {one.name} must be {expected.__name__}, got {values[one.name]!r:.60}")
    return values
