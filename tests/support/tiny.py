"""Small labelled tables that a small network can learn: class 1 has a TATA box in each dozen of its bases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from nucel.model import hub
from nucel.model.config import EncoderConfig
from nucel.model.encoder import Encoder
from nucel.model.networks import Classifier, Discriminator, initialize

TINY = EncoderConfig(layers=2, width=32, heads=2, intermediate=48, radius=8, init_std=0.1)


def tiny_encoder(seed: int = 0, config: EncoderConfig = TINY) -> Encoder:
    network = Discriminator(config)
    initialize(network, torch.Generator().manual_seed(seed))
    return network.model.eval()


def tiny_classifier(
    labels=("a", "b", "c"),
    pooling="cls",
    linear=True,
    config: EncoderConfig = TINY,
    seed: int = 0,
    context: int | None = None,
) -> Classifier:
    """With a head that is far from 0, so that outputs differ from sequence to sequence."""
    network = Classifier(config, labels, pooling, linear, context)
    draws = torch.Generator().manual_seed(seed)
    initialize(network, draws)
    torch.nn.init.normal_(network.classifier.weight, generator=draws)
    torch.nn.init.normal_(network.classifier.bias, generator=draws)
    return network.eval()


def save_tiny_model(directory: Path, context: int = 64, seed: int = 0) -> Path:
    """A discriminator's directory, as a run leaves it."""
    network = Discriminator(TINY, context)
    initialize(network, torch.Generator().manual_seed(seed))
    hub.save(network, directory)
    return directory


def planted_rows(rows: int, seed: int) -> list[tuple[str, int]]:
    draws = np.random.default_rng(seed)
    found = []
    for _ in range(rows):
        bases = draws.choice(list("ACGT"), int(draws.integers(30, 46)))
        label = int(draws.integers(2))
        for place in range(0, len(bases) - 11, 12) if label else ():
            start = place + int(draws.integers(6))
            bases[start : start + 6] = list("TATAAA")
        found.append(("".join(bases), label))
    return found


def write_table(path: Path, rows: list[tuple[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("sequence,label\n" + "".join(f"{sequence},{label}\n" for sequence, label in rows))
    return path


def write_task(folder: Path, train: int = 320, dev: int = 80, test: int = 120) -> dict[str, Path]:
    sizes = {"train": train, "dev": dev, "test": test}
    return {
        part: write_table(folder / f"{part}.csv", planted_rows(rows, seed))
        for seed, (part, rows) in enumerate(sizes.items())
    }
