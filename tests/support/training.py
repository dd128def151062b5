"""The smallest settings of the trainer, and how two runs are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from nucel import train
from nucel.runs.directory import RunDirectory

SETTINGS = {
    "context": 64, "window-bp": 80, "overlap-bp": 16, "batch-size": 4, "micro-batch": 2, "steps": 10, "lr": 0.003,
    "warmup-steps": 3, "validate-every": 3, "validation-windows": 6, "save-every": 4, "log-every": 2, "device": "cpu",
    "model.generator.layers": 1, "model.generator.width": 32, "model.generator.heads": 1,
    "model.generator.intermediate": 32, "model.discriminator.layers": 2, "model.discriminator.width": 32,
    "model.discriminator.heads": 1, "model.discriminator.intermediate": 32,
}  # fmt: skip
TINY = [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))]
REPOSITORY = Path(__file__).parents[2]


def train_in_process(*words: str) -> dict[str, Any]:
    """What `benchmarks.experiments.training.train` does, without the seconds that another Python needs to start."""
    assert train.main(list(words)) == 0
    return RunDirectory(Path(words[words.index("--out") + 1])).read_summary()


def state_of(run: Path) -> dict:
    """All that a checkpoint holds, flat."""
    newest = sorted((run / "checkpoints").iterdir())[-1]
    state = {
        f"{n}.{k}": v
        for n in ("generator", "discriminator")
        for k, v in load_file(newest / n / "model.safetensors").items()
    }
    trainer = torch.load(newest / "trainer.pt", weights_only=True)
    for number, moments in trainer["optimizer"]["state"].items():
        state |= {f"optimizer.{number}.{name}": value for name, value in moments.items()}
    return {**state, "step": torch.tensor(trainer["step"])}


def assert_same_state(first: Path, second: Path) -> None:
    one, other = state_of(first), state_of(second)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
