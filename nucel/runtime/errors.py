"""The errors that we raise on purpose; each message says what was given, what is allowed and what to do."""

from __future__ import annotations


class NucelError(Exception):
    """The root of all errors that NucEL raises on purpose."""


class ConfigError(NucelError, ValueError):
    """A setting that cannot work, or that does not fit the run it is used with."""


class GenomeError(NucelError, ValueError):
    """The content of an input file, or what is left of it, cannot be used. The message says what to do."""


class InputError(NucelError, ValueError):
    """A file of sequences that cannot be used; says where it is wrong and what is allowed."""


class HubError(NucelError, ValueError):
    """A directory that holds no model we can load; says which file and what is wrong."""


class CheckpointError(NucelError, ValueError):
    """A run directory that cannot be used as asked; says what is in it and what to do."""


class TrainingError(NucelError, RuntimeError):
    """Pre-training or fine-tuning that cannot go on; says why, what is safe, and what to change."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)
