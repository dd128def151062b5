"""Training that is killed again and again, at random moments, ends with the bits of training that was not.

NUCEL_KILLS=50 is the long form.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.killing import Trainer

import nucel
from nucel.runs import log
from nucel.runs.directory import RunDirectory
from nucel.runtime import files

_KILLS = int(os.environ.get("NUCEL_KILLS", "10"))
_STEPS = 8
_NETWORK = {"layers": 1, "width": 16, "heads": 1, "intermediate": 16}
_SETTINGS = {
    "context": 32, "window-bp": 40, "overlap-bp": 8, "batch-size": 4, "steps": _STEPS, "lr": 0.003, "warmup-steps": 3,
    "validate-every": 3, "validation-windows": 4, "save-every": 1, "log-every": 1, "device": "cpu", "threads": 1,
    "resume": "auto",
    **{f"model.{name}.{key}": value for name in ("generator", "discriminator") for key, value in _NETWORK.items()},
}  # fmt: skip
WORDS = [word for name, value in _SETTINGS.items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def trainer() -> Iterator[Trainer]:
    with Trainer(WORDS) as trainer:
        yield trainer


@pytest.fixture(scope="module")
def undisturbed(trainer, tmp_path_factory) -> tuple[Path, float]:
    """A run that nothing interrupts, and the seconds it takes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    start = time.perf_counter()
    assert trainer(WORDS, folder / "run", folder / "log") == 0, (folder / "log").read_text()
    return folder / "run", time.perf_counter() - start


PAIR = ("generator", "discriminator")


def assert_readable(run: Path, networks: tuple[str, ...] = PAIR) -> None:
    """Whoever looks into a run directory at this moment, in which a trainer was just killed, finds nothing half."""
    for path in (run / "checkpoints").glob("step-????????"):
        assert files.damage(path, ("trainer.pt", f"{networks[0]}/model.safetensors")) == []
        assert torch.load(path / "trainer.pt", weights_only=True)["step"] == int(path.name[5:])
    if (run / networks[-1]).exists():
        nucel.load(run)
    for name in ("run.json", "summary.json"):
        if (run / name).exists():
            json.loads((run / name).read_text())
    if (run / "metrics.jsonl").exists():
        *whole, last = (run / "metrics.jsonl").read_text().split("\n")
        assert len(log.read_metrics(RunDirectory(run))) == len(whole)  # what follows the last newline was cut
        assert all(json.loads(line)["step"] <= _STEPS for line in whole) and not last.endswith("}")
    for card in run.rglob("README.md"):
        end = "|\n" if card.parent == run else "```\n"
        assert card.read_text().startswith("---\n") and card.read_text().endswith(end)


def assert_same_end(run: Path, undisturbed: Path, networks: tuple[str, ...] = PAIR) -> None:
    names = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) for folder in (run, undisturbed)]
    assert names[0] == names[1]  # no leftover either
    newest = [folder / "checkpoints" / f"step-{_STEPS:08d}" for folder in (run, undisturbed)]
    for network in networks:
        weights = [load_file(folder / network / "model.safetensors") for folder in (*newest, run)]
        assert weights[0].keys() == weights[1].keys() == weights[2].keys()
        assert all(torch.equal(w[name], weights[0][name]) for name in weights[0] for w in weights)
    saved = [torch.load(folder / "trainer.pt", weights_only=True) for folder in newest]
    helpers = [trainer.get("helpers", {}) for trainer in saved]
    for name, weights in helpers[0].items():
        assert all(torch.equal(value, helpers[1][name][key]) for key, value in weights.items())
    states = [trainer["optimizer"]["state"] for trainer in saved]
    for number, moments in states[0].items():
        assert all(torch.equal(value, states[1][number][name]) for name, value in moments.items())
    untimed = [[{**line, "tokens_per_s": 0} for line in log.read_metrics(RunDirectory(f))] for f in (run, undisturbed)]
    assert untimed[0] == untimed[1]


def test_killed_runs_end_with_the_weights_of_an_undisturbed_one(trainer, undisturbed, tmp_path):
    """Killed at random times, while saving, and before a random change to the directory; each time resumed."""
    expected, seconds = undisturbed
    draws = random.Random(0)
    kills = runs = while_saving = 0
    while kills < _KILLS:
        runs += 1
        run, log = tmp_path / f"run{runs}", tmp_path / f"log{runs}"
        code = -signal.SIGKILL
        while code != 0:
            kill = draws.choice((
                {"seconds": draws.uniform(0, seconds / 2)},
                {"seconds": draws.uniform(0, seconds / _STEPS / 4), "saving": True},
                {"change": draws.randrange(20 * _STEPS)},
            ))  # fmt: skip
            code = trainer(WORDS, run, log, **(kill if kills < _KILLS else {}))
            assert code in (0, -signal.SIGKILL), log.read_text()
            kills += code != 0
            while_saving += any((run / "checkpoints").glob("*.tmp"))
            assert_readable(run)
        assert_same_end(run, expected)
    assert while_saving
    print(f"{kills} kills of {runs} runs, {while_saving} of them while a checkpoint was written or deleted")


def test_a_start_that_is_killed_at_any_moment_can_be_made_again(trainer, undisturbed, tmp_path):
    """Before each change up to the first checkpoint: the directory is made, locked, given a genome, described."""
    few = (1, 4, 6, 60)  # empty; with a half genome; with a genome and half a description; with a checkpoint
    for change in itertools.count() if _KILLS > 10 else few:
        run, log = tmp_path / f"run{change}", tmp_path / f"log{change}"
        assert trainer(WORDS, run, log, change=change) == -signal.SIGKILL
        assert_readable(run)
        begun = RunDirectory(run).has_checkpoint()
        assert trainer(WORDS, run, log) == 0, log.read_text()
        assert_same_end(run, undisturbed[0])
        if begun:
            break
    else:
        pytest.fail("no kill was after the first checkpoint")


def test_an_autoencoder_that_is_killed_ends_with_the_weights_of_both_its_halves(trainer, tmp_path):
    """Its decoder is in no model directory, and must be the one that the encoder was trained with."""
    sizes = [word for key, value in _NETWORK.items() for word in (f"--model.decoder.{key}", str(value))]
    words = [*WORDS, *sizes, "--objective", "mae", "--model.mask-rate", "0.5", "--model.mask-span", "3"]
    undisturbed, run, log = tmp_path / "undisturbed", tmp_path / "run", tmp_path / "log"
    assert trainer(words, undisturbed, log) == 0, log.read_text()
    for change in (30, 45, 60, 75) * (_KILLS // 10):
        assert trainer(words, run, log, change=change) in (0, -signal.SIGKILL)
        assert_readable(run, ("encoder",))
    assert trainer(words, run, log) == 0, log.read_text()
    assert_same_end(run, undisturbed, ("encoder",))
