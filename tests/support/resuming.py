"""Small runs that are stopped, continued, trained on: their words, and what is compared of them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import torch
from safetensors.torch import load_file

from nucel.train import main
from support.tiny_run import MODEL

WORDS = [*MODEL[1:], "--save-every", "2", "--log-every", "1", "--lr", "0.003", "--betas", "0.8", "0.99"]
"""Without the preset's name."""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_same_weights(one: Path, other: Path, networks=("generator", "discriminator")) -> None:
    for name in networks:
        first, second = (load_file(folder / name / "model.safetensors") for folder in (one, other))
        assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def refused(capsys, *words) -> str:
    assert main(list(map(str, words))) == 2
    return capsys.readouterr().err


def command_in(text: str) -> list[str]:
    """The words after `python -m nucel.train` of the command that a message ends with."""
    (command,) = re.findall(r"python -m nucel\.train (.*)", text)
    return shlex.split(re.split(r"[;,]| or choose", command)[0])
