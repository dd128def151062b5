"""What is explained: a number S(x) that a model gives for a sequence x.

| target | S(x) | needs |
|---|---|---|
| `class:K` | logit of class K (of two classes, minus the other's), or the predicted number | a fine-tuned model |
| `originality` | sum over the known bases of z_i, the log-odds that the base is the original | a discriminator |
| `plausibility` | sum over the known bases of ln sigma(z_i), which weighs what looks replaced | a discriminator |
| `site:i` | z_i, i counted from 0 | a discriminator |

Logits, not probabilities: those hardly change where the model is sure. [CLS], padding and unknown bases enter no sum.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..model import hub
from ..model.encoder import Encoder
from ..model.hub_config import SEQUENCE_CLASSIFICATION
from ..model.networks import Classifier, Discriminator, Generator
from ..objectives.electra import Electra
from ..runtime.errors import ConfigError, HubError
from ..runtime.files import sha256
from ..tokenizers.nucleotide import BASES
from .networks import Networks, load_networks

Model = str | os.PathLike[str] | Networks | Electra | Discriminator | Generator | Encoder | Classifier
"""A directory, or networks in memory."""


@dataclass(frozen=True, eq=False)
class Subject:
    """The networks that are asked: those of a run, or a fine-tuned model.

    Attributes:
        networks: discriminator and generator, where there are any; of a fine-tuned model, the encoder alone.
        classifier: the fine-tuned model.
    """

    networks: Networks
    classifier: Classifier | None = None

    @classmethod
    def of(cls, model: Model) -> Subject:
        """From a directory, as `python -m nucel.train` or `python -m nucel.finetune` leaves it, or from networks.

        Raises:
            HubError, CheckpointError: no such directory, or one that cannot be read.
        """
        if isinstance(model, Networks):
            return cls(model)
        if isinstance(model, Classifier):
            return cls(Networks(encoder=model.model, name="the fine-tuned model"), model.eval())
        if isinstance(model, Electra | Discriminator | Generator | Encoder):
            return cls(Networks.of(model.eval()))
        directory = Path(model)
        inner = directory / "model"  # of what fine-tuning leaves
        folder = inner if not (directory / "config.json").exists() and (inner / "config.json").exists() else directory
        if (folder / "config.json").exists() and SEQUENCE_CLASSIFICATION in hub.read_architectures(folder):
            classifier = hub.load_classifier(folder)
            fingerprint = sha256(folder / "model.safetensors")
            return cls(Networks(encoder=classifier.model, name=str(model), fingerprint=fingerprint), classifier)
        return cls(load_networks(directory))

    def to(self, device: torch.device) -> Subject:
        """Move all networks, in place; returns self."""
        self.networks.to(device)
        if self.classifier is not None:
            self.classifier.to(device)
        return self

    @property
    def kind(self) -> str:
        """What there is, in words."""
        return self.networks.kind if self.classifier is None else "a fine-tuned model"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.networks.device

    def discriminator(self, what: str) -> Discriminator:
        """Its discriminator; `what` needs it.

        Raises:
            HubError: there is none.
        """
        if self.networks.discriminator is None:
            raise HubError(f"{self.networks.name} is {self.kind}; {what} needs a discriminator: give a run of a pair")
        return self.networks.discriminator

    def generator(self, what: str) -> Generator:
        """Its generator, or masked language model; `what` needs it.

        Raises:
            HubError: there is none.
        """
        if self.networks.generator is None:
            raise HubError(
                f"{self.networks.name} is {self.kind}; {what} needs a generator: give a run, not a part of it"
            )
        return self.networks.generator

    def rates(self, what: str) -> tuple[float, float]:
        """Mask rate and temperature of the run; `what` needs them.

        Raises:
            HubError: it is not a pair.
        """
        if self.networks.mask_rate is None or self.networks.temperature is None:
            raise HubError(f"{self.networks.name} is {self.kind}; {what} needs the run of a pair")
        return self.networks.mask_rate, self.networks.temperature


class Rows(NamedTuple):
    """Sequences in a network's form."""

    tokens: Tensor
    """uint8 (B, T), [CLS] first, padded on the right."""
    lengths: Tensor | None
    """int32 (B,), real positions of each row; None where no row has padding."""
    sites: Tensor
    """int64 (B,), the base of each row that a target `site:i` is about, without [CLS]; else -1."""


@dataclass(frozen=True, eq=False)
class Target:
    """One number for a sequence.

    Attributes:
        kind: as in the table above.
        number: the class, or the site.
    """

    subject: Subject
    kind: Literal["class", "originality", "plausibility", "site"]
    number: int = -1

    @classmethod
    def parse(cls, text: str | None, subject: Subject) -> Target:
        """From `class:K` (number or name), `originality`, `plausibility` or `site:i`; None chooses.

        Without a text it is `originality` of a discriminator, and of a fine-tuned model the predicted number or the
        second of two classes.

        Raises:
            ConfigError: another text, an unknown class, or more than two classes and none named.
            HubError: a target that the model cannot answer.
        """
        labels = None if subject.classifier is None else subject.classifier.labels
        if text is None:
            if subject.classifier is None:
                text = "originality"
            elif labels is None or len(labels) == 2:
                text = "class:0" if labels is None else "class:1"
            else:
                raise ConfigError(f"say which class --target is about: class:K, K one of {', '.join(labels)}")
        kind, _, which = text.partition(":")
        if kind == "class":
            if subject.classifier is None:
                raise HubError(f"{subject.networks.name} is {subject.kind}; --target {text} needs a fine-tuned model")
            return cls(subject, "class", _class_number(which, labels))
        if kind == "site" and which.isdecimal():
            subject.discriminator(f"--target {text}")
            return cls(subject, "site", int(which))
        if text == "originality" or text == "plausibility":
            subject.discriminator(f"--target {text}")
            return cls(subject, "originality" if text == "originality" else "plausibility")
        raise ConfigError(f"--target must be class:K, originality, plausibility or site:i, got {text!r}")

    @property
    def encoder(self) -> Encoder:
        """The encoder that the number comes from."""
        if self.subject.classifier is not None:
            return self.subject.classifier.model
        return self.subject.discriminator("this target").model

    def score(self, rows: Rows) -> Tensor:
        """S of each row, fp64 (B,), so that differences of sums keep their digits. A gradient flows through it."""
        if self.subject.classifier is not None:
            logits = self.subject.classifier(rows.tokens, rows.lengths).double()
            chosen = logits[:, self.number]
            return chosen - logits[:, 1 - self.number] if logits.shape[1] == 2 else chosen
        z = self.subject.discriminator("this target").logits(rows.tokens, rows.lengths).double()[:, 1:]
        if self.kind == "site":
            return z.gather(1, rows.sites[:, None]).squeeze(1)
        values = F.logsigmoid(z) if self.kind == "plausibility" else z
        return torch.where(known(rows.tokens[:, 1:]), values, 0).sum(1)


def known(tokens: Tensor) -> Tensor:
    """Which tokens are A, C, G or T."""
    return (tokens >= BASES[0]) & (tokens <= BASES[-1])


def _class_number(which: str, labels: tuple[str, ...] | None) -> int:
    names = labels or ("0",)
    if which in names:
        return names.index(which)
    if which.isdecimal() and int(which) < len(names):
        return int(which)
    allowed = f"0 to {len(names) - 1}" if labels is None else f"0 to {len(names) - 1} or one of {', '.join(names)}"
    raise ConfigError(f"--target class:K takes {allowed}, got {which!r}")
