"""What a suite trains on every task: the models that are given, and their controls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ..model import hub
from ..model.encoder import Encoder
from ..model.networks import fingerprint
from ..runtime.device import Precision
from ..runtime.errors import ConfigError, require
from ..runtime.files import finite
from ..runtime.version import __version__
from ..tasks import baselines
from ..tasks.classifier import HeadOptions, make_classifier
from ..tasks.fit import FitOptions
from ..tasks.task import Task

FROM_SCRATCH, ONE_HOT_CNN = "from scratch", "one-hot CNN"
_CNN_FIT = FitOptions(
    epochs=100, batch_size=128, lr=1e-3, warmup_steps=0, decay="plateau", weight_decay=0.0, patience=10
)
"""As the paper of the baseline states it; it leaves open the batch and the largest number of epochs."""


class Method(NamedTuple):
    """A way to a trained network: where its weights begin, and how it is trained."""

    name: str
    fit: FitOptions
    identity: dict[str, Any]
    """What tells its results from another's of the same name."""
    context: int | None
    build: Callable[[Task, int], nn.Module]
    """From a task and a seed to a network with the weights that training begins with."""


def parse_models(words: tuple[str, ...], controls: tuple[str, ...] = (FROM_SCRATCH, ONE_HOT_CNN)) -> dict[str, Path]:
    """The models by name, from NAME=MODEL each.

    Raises:
        ConfigError: a model without a name, or a name twice.
    """
    models: dict[str, Path] = {}
    for word in words:
        name, _, path = word.partition("=")
        if not name or not path or "/" in name:
            raise ConfigError(f"--models are NAME=MODEL, got {word!r}")
        if name in models or name in controls:
            raise ConfigError(
                f"names of --models must differ from each other and from those of the controls, "
                f"{', '.join(map(repr, controls))}; got {name!r} again"
            )
        models[name] = Path(path)
    return models


def pretrained(name: str, encoder: Encoder, fit: FitOptions, head: HeadOptions) -> Method:
    """Fine-tuning of an encoder."""
    identity = {"weights": fingerprint(encoder), **_shape(encoder, head)}

    def build(task: Task, seed: int) -> nn.Module:
        return make_classifier(encoder, task.labels, head, seed, from_scratch=False)

    return Method(name, fit, identity, encoder.context, build)


def from_scratch(encoder: Encoder, fit: FitOptions, head: HeadOptions) -> Method:
    """Training of a network of an encoder's shape, with new weights."""

    def build(task: Task, seed: int) -> nn.Module:
        return make_classifier(encoder, task.labels, head, seed, from_scratch=True)

    return Method(FROM_SCRATCH, fit, _shape(encoder, head), encoder.context, build)


def one_hot_cnn(strands: FitOptions) -> Method:
    """The convolutional baseline with the settings of its paper; only what is done with strands is taken over."""
    options = dataclasses.replace(
        _CNN_FIT,
        augment_reverse_complement=strands.augment_reverse_complement,
        average_reverse_complement=strands.average_reverse_complement,
    )

    def build(task: Task, seed: int) -> nn.Module:
        longest = max(len(tokens) for split in task.splits for tokens in split.sequences.tokens)
        network = baselines.OneHotCNN(longest, task.outputs)
        baselines.initialize(network, torch.Generator().manual_seed(seed))
        return network

    return Method(ONE_HOT_CNN, options, {}, None, build)


def load_encoder(directory: Path, context: int | None) -> Encoder:
    """An encoder, with another context where one is given."""
    encoder = hub.load(directory)
    encoder.context = context or encoder.context
    return encoder


def identity_of(
    config: Any, left_out: tuple[str, ...], encoders: dict[str, Encoder], precision: Precision, data: Any
) -> dict[str, Any]:
    """All that the figures of a suite depend on, for `runtime.parts`.

    Args:
        config: the suite's settings, a dataclass.
        left_out: those of them that decide no figure, or that `encoders` and `data` stand for.
        data: digests of what is read.
    """
    settings = {name: value for name, value in finite(dataclasses.asdict(config)).items() if name not in left_out}
    return {
        "version": __version__,
        "settings": settings,
        "models": [[name, fingerprint(encoder)] for name, encoder in encoders.items()],
        "dtype": precision.dtype_name,
        "data": data,
    }


def require_new(out: Path) -> None:
    """Refuse a directory that holds something.

    Raises:
        ConfigError: it names the directory.
    """
    empty = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    require(empty, f"{out} is not an empty directory; choose another --out")


def _shape(encoder: Encoder, head: HeadOptions) -> dict[str, Any]:
    return {"encoder": dataclasses.asdict(encoder.config), **dataclasses.asdict(head)}
