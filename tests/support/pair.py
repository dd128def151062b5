"""A tiny pair as a run leaves it, with heads that are far from 0, so that scores differ from variant to variant."""

from __future__ import annotations

from pathlib import Path

import torch

from nucel.model import hub
from nucel.model.config import ElectraConfig
from nucel.model.networks import Discriminator, Generator
from nucel.objectives.electra import Electra
from nucel.objectives.mlm import MaskedLM
from nucel.runs.directory import GenomeDescription, RunDescription, RunDirectory, WindowCounts

from .tiny import TINY

RATES = {"mask_rate": 0.2, "temperature": 1.3}
"""Unlike the defaults, so that a score that ignored them would show."""


def enliven(network: Generator | Discriminator, seed: int) -> None:
    """Draw the head's weights large enough to matter."""
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.startswith(("classifier", "decoder", "head.dense")):
                weight.normal_(0, 0.4, generator=draws)


def tiny_pair(context: int = 64) -> Electra:
    pair = Electra(ElectraConfig(generator=TINY, discriminator=TINY, tie_embeddings=False, **RATES), context=context)
    pair.initialize(0)
    enliven(pair.generator, 1)
    enliven(pair.discriminator, 2)
    return pair.eval()


def save_pair(directory: Path, pair: Electra) -> Path:
    """A run directory: both networks and run.json."""
    directory.mkdir(parents=True)
    hub.save(pair.discriminator, directory / "discriminator")
    hub.save(pair.generator, directory / "generator")
    recipe = {
        "batch_size": 8, "context": pair.discriminator.model.context, "steps": 1, "objective": "electra",
        "model": {"mask_rate": pair.config.mask_rate, "temperature": pair.config.temperature},
    }  # fmt: skip
    genome = GenomeDescription(["genome.fa"], "0" * 64, 1, 1000)
    description = RunDescription(recipe, genome, WindowCounts(1, 1), "python -m nucel.train", {})
    RunDirectory(directory).write_description(description)
    return directory


def save_masked_lm(directory: Path, context: int = 64) -> Path:
    """The run directory of a masked language model."""
    model = MaskedLM(ElectraConfig(generator=TINY, discriminator=TINY, tie_embeddings=False), context=context)
    enliven(model.initialize(3).masked_lm, 4)
    directory.mkdir(parents=True)
    hub.save(model.masked_lm, directory / "masked_lm")
    return directory
