"""Commands of the documentation, run as they stand but for a shorter training of a smaller network."""

from __future__ import annotations

import importlib
import shlex

SHORT = {
    "train": (
        "--steps 2 --batch-size 4 --validation-windows 4 --context 64 --window-bp 80 --overlap-bp 16 --warmup-steps 1 "
        "--model.generator.layers 1 --model.discriminator.layers 2 --model.discriminator.width 32 "
        "--model.discriminator.heads 1 --model.discriminator.intermediate 32 --device cpu"
    ),
    "finetune": "--epochs 1 --seeds 0 --device cpu",
}
"""What a test adds to a verb's flags."""


def run_line(line: str) -> None:
    """Run a verb in this process."""
    words = shlex.split(line, comments=True)
    assert words[:2] == ["python", "-m"]
    verb = words[2].removeprefix("nucel.")
    module = importlib.import_module(f"nucel.{verb}" + (".__main__" if verb in ("embed", "genome") else ""))
    assert module.main([*words[3:], *SHORT.get(verb, "").split()]) == 0, line
