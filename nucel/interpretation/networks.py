"""What a model's directory holds, and so what it can be asked: `load_pair`, `load_networks`.

| directory | networks |
|---|---|
| a run of the pair | encoder, discriminator, generator |
| `discriminator/` alone | encoder, discriminator |
| `generator/`, or a run of the masked LM | encoder, generator |
| a bare encoder, as the published NucEL weights, or a run of the masked autoencoder | encoder |
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..model import hub
from ..model.config import ElectraConfig
from ..model.encoder import Encoder
from ..model.networks import Discriminator, Generator, initialize
from ..objectives.electra import Electra
from ..runs.directory import RunDirectory
from ..runtime.errors import CheckpointError, HubError

MASKED_LM, TOKEN_CLASSIFICATION = "ModernBertForMaskedLM", "ModernBertForTokenClassification"


def load_pair(path: str | os.PathLike[str]) -> Electra:
    """Generator and discriminator of a run, ready for inference; `config` has the run's mask rate and temperature.

    Args:
        path: a run directory of `python -m nucel.train`, with `generator/`, `discriminator/` and `run.json`.

    Raises:
        HubError: it is not the run of a pair, or its weights are missing or damaged.
        CheckpointError: run.json is missing or damaged.
    """
    directory = Path(path)
    if missing := [name for name in ("discriminator", "generator") if not (directory / name).is_dir()]:
        raise HubError(f"{directory} holds no {' and no '.join(missing)}; give the run directory of a pair")
    recipe = RunDirectory(directory).read_description().recipe["model"]
    generator = hub.load_generator(directory / "generator")
    discriminator = hub.load_discriminator(directory / "discriminator")
    try:
        config = ElectraConfig(
            generator=generator.model.config,
            discriminator=discriminator.model.config,
            mask_rate=float(recipe["mask_rate"]),
            temperature=float(recipe["temperature"]),
            tie_embeddings=generator.tied,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{directory / 'run.json'} states no usable mask rate and temperature: {error}") from None
    return Electra(config, generator, discriminator).eval()


@dataclass(frozen=True, eq=False)
class Networks:
    """The networks that scores are computed from; None for those that the directory lacks.

    Attributes:
        encoder: gives hidden states; part of the discriminator where there is one, else of the generator.
        discriminator: gives z, the logit that a token is the original.
        generator: gives p and q, the masked model's distributions; a masked LM stands here too.
        mask_rate, temperature: of the run, for what needs both halves of a pair; None outside a pair.
        name: of the directory, for messages.
        fingerprint: SHA-256 of the weights' files.
    """

    encoder: Encoder | None = None
    discriminator: Discriminator | None = None
    generator: Generator | None = None
    mask_rate: float | None = None
    temperature: float | None = None
    name: str = "the model"
    fingerprint: str | None = None

    @property
    def context(self) -> int | None:
        """Tokens of the windows that the networks were trained on, [CLS] included, where that is known."""
        return None if self.encoder is None else self.encoder.context

    @property
    def kind(self) -> str:
        """What there is, in words."""
        if self.discriminator is not None and self.generator is not None:
            return "a pair"
        if self.discriminator is not None:
            return "a discriminator alone"
        return "a bare encoder" if self.generator is None else "a masked language model"

    def _modules(self) -> list[nn.Module]:
        return [part for part in (self.encoder, self.discriminator, self.generator) if isinstance(part, nn.Module)]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        weights = (weight for module in self._modules() for weight in module.parameters())
        return next((weight.device for weight in weights), torch.device("cpu"))

    def to(self, device: torch.device) -> Networks:
        """Move all networks, in place; returns self."""
        for module in self._modules():
            module.to(device)
        return self

    @classmethod
    def of(cls, model: Electra | Discriminator | Generator | Encoder, **about: str) -> Networks:
        """From networks in memory; `about` is a name and a fingerprint."""
        if isinstance(model, Electra):
            rates: dict[str, Any] = {"mask_rate": model.config.mask_rate, "temperature": model.config.temperature}
            encoder = model.discriminator.model
            return cls(encoder, model.discriminator, model.generator, **rates, **about)  # type: ignore[arg-type]
        if isinstance(model, Discriminator):
            return cls(encoder=model.model, discriminator=model, **about)  # type: ignore[arg-type]
        if isinstance(model, Generator):
            return cls(encoder=model.model, generator=model, **about)  # type: ignore[arg-type]
        return cls(encoder=model, **about)  # type: ignore[arg-type]

    def untrained(self, seed: int = 0) -> Networks:
        """The same networks with weights drawn anew from a seed: the control that shows what training adds."""
        draws = torch.Generator().manual_seed(seed)
        discriminator = generator = None
        if self.discriminator is not None:
            discriminator = Discriminator(self.discriminator.model.config, self.context)
        if self.generator is not None:
            generator = Generator(self.generator.model.config, self.generator.tied, self.context)
        for network in (discriminator, generator):
            if network is not None:
                initialize(network, draws)
        holder: Discriminator | Generator | None = discriminator or generator
        if holder is None:
            if self.encoder is None:
                raise HubError(f"{self.name} holds no network")
            holder = Discriminator(self.encoder.config, self.context)  # of a bare encoder
            initialize(holder, draws)
        for network in (holder, generator):
            if network is not None:
                network.eval().to(self.device)
        return Networks(
            holder.model, discriminator, generator, self.mask_rate, self.temperature, f"{self.name}, untrained"
        )


def load_networks(path: str | os.PathLike[str]) -> Networks:
    """All networks of a directory, ready for inference on the CPU.

    Raises:
        HubError: no such directory, another architecture or alphabet, missing or damaged weights.
        CheckpointError: the run.json of a pair is missing or damaged.
    """
    directory = Path(path)
    parts = [directory / name for name in ("discriminator", "generator") if (directory / name).is_dir()]
    if len(parts) == 2:
        return Networks.of(load_pair(directory), name=str(path), fingerprint=_fingerprint(*parts))
    folder = next((f for f in (directory / "masked_lm", directory / "encoder", *parts) if f.is_dir()), directory)
    architectures = hub.read_architectures(folder)
    load: dict[str, Callable[[Path], Any]] = {
        MASKED_LM: hub.load_generator, TOKEN_CLASSIFICATION: hub.load_discriminator,
    }  # fmt: skip
    network = next((load[name](folder) for name in architectures if name in load), None)
    return Networks.of(network or hub.load(folder), name=str(path), fingerprint=_fingerprint(folder))


def _fingerprint(*folders: Path) -> str:
    digest = hashlib.sha256()
    for folder in folders:
        with open(folder / "model.safetensors", "rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()
