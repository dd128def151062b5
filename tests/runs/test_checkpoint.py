"""A run directory through damage, full disks, kills and second writers."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.checkpoints import (
    CPU,
    DESCRIPTION,
    RECIPE,
    advance,
    begin,
    contents,
    cut,
    equal,
    of_step,
    steps_of,
    tensors_of,
)

from nucel.runs import checkpoint, log
from nucel.runs.directory import RunDirectory
from nucel.runtime import environment
from nucel.runtime.errors import CheckpointError


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 4
    path.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "trainer cut": (lambda c: cut(c / "trainer.pt"), "trainer.pt is not what was written"),
    "trainer empty": (lambda c: (c / "trainer.pt").write_bytes(b""), "trainer.pt is not what was written"),
    "trainer's bit": (lambda c: flip_a_bit(c / "trainer.pt"), "trainer.pt is not what was written"),
    "trainer missing": (lambda c: (c / "trainer.pt").unlink(), "trainer.pt is missing"),
    "weights cut": (lambda c: cut(c / "generator/model.safetensors"), "generator/model.safetensors is not what"),
    "weights' bit": (lambda c: flip_a_bit(c / "discriminator/model.safetensors"), "discriminator/model.safetensors is"),
    "weights missing": (lambda c: (c / "discriminator/model.safetensors").unlink(), "model.safetensors is missing"),
    "network missing": (lambda c: shutil.rmtree(c / "generator"), "generator/config.json is missing"),
    "config edited": (lambda c: (c / "generator/config.json").write_text("{}"), "generator/config.json is not what"),
    "sums missing": (lambda c: (c / "SHA256SUMS").unlink(), "SHA256SUMS cannot be read"),
    "sums cut": (lambda c: cut(c / "SHA256SUMS"), "SHA256SUMS is not a list"),
    "sums cut after a line": (lambda c: os.truncate(c / "SHA256SUMS", 91), "SHA256SUMS does not list trainer.pt"),
    "sums damaged": (lambda c: (c / "SHA256SUMS").write_bytes(b"\xff\x00 what\n"), "SHA256SUMS is not a list"),
    "all missing": (lambda c: [shutil.rmtree(c), c.mkdir()], "SHA256SUMS cannot be read"),
    "another step": (lambda c: [shutil.rmtree(c), shutil.copytree(c.with_name("step-00000001"), c)], "it holds step 1"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(kind, run, trained):
    damage, reason = DAMAGES[kind]
    damage(of_step(run, 3))
    before, damaged = contents(run.path), contents(of_step(run, 3))
    training = begin()
    restored = checkpoint.restore(run, training, CPU)
    assert restored.step == 2 and equal(tensors_of(training), trained[1][2])
    (warning,) = restored.warnings
    assert str(of_step(run, 3)) in warning and reason in warning
    assert contents(run.path) == before

    checkpoint.rewind(run, 2)
    assert steps_of(run) == ["step-00000001", "step-00000002", "step-00000003.damaged"]
    assert contents(run.path / "checkpoints" / "step-00000003.damaged") == damaged
    assert [line["step"] for line in log.read_metrics(run)] == [1, 2]
    published = load_file(run.path / "discriminator" / "model.safetensors")
    assert torch.equal(published["classifier.weight"][1:], trained[1][2]["discriminator.classifier.weight"])

    advance(training)
    checkpoint.save(run, 3, training, keep=2)
    assert checkpoint.restore(run, begin(), CPU) == (3, ())
    assert equal(tensors_of(training), trained[1][3])
    assert steps_of(run) == ["step-00000002", "step-00000003", "step-00000003.damaged"]


def test_checkpoints_are_skipped_until_one_is_intact(run, trained):
    for step in (2, 3):
        cut(of_step(run, step) / "trainer.pt")
    training = begin()
    restored = checkpoint.restore(run, training, CPU)
    assert restored.step == 1 and equal(tensors_of(training), trained[1][1])
    assert [f"step-0000000{n}" in warning for n, warning in zip((3, 2), restored.warnings, strict=True)] == [True, True]


def test_without_an_intact_checkpoint_all_are_named_and_nothing_is_loaded_or_deleted(run):
    for step, name in ((1, "trainer.pt"), (2, "SHA256SUMS"), (3, "generator/model.safetensors")):
        (of_step(run, step) / name).unlink()
    before, training = contents(run.path), begin()
    state = tensors_of(training)
    with pytest.raises(CheckpointError) as error:
        checkpoint.restore(run, training, CPU)
    assert all(f"step-0000000{step} is skipped: " in str(error.value) for step in (1, 2, 3))
    assert equal(tensors_of(training), state) and contents(run.path) == before


@pytest.mark.parametrize(
    ("key", "value"),
    [("recipe", {**RECIPE, "lr": 0.2}), ("genome", replace(DESCRIPTION.genome, files=["b.fa"], fingerprint="1"))],
)
def test_a_checkpoint_of_another_run_is_not_continued(run, tmp_path, key, value):
    other, training = RunDirectory(tmp_path / "other"), begin()
    other.path.mkdir()
    other.write_description(replace(DESCRIPTION, **{key: value}))
    advance(training)
    shutil.copytree(checkpoint.save(other, 4, training, keep=1), of_step(run, 4))
    restored = checkpoint.restore(run, begin(), CPU)
    assert restored.step == 3 and "step-00000004 is skipped: it is of another run" in restored.warnings[0]


def test_a_kept_checkpoint_is_never_a_damaged_one(run):
    """With --keep 1, a damaged checkpoint with a higher number must not push out the intact one."""
    cut(of_step(run, 3) / "trainer.pt")
    training = begin()
    checkpoint.rewind(run, checkpoint.restore(run, training, CPU).step)
    cut(of_step(run, 2) / "trainer.pt")  # while the run goes on: the step is written anew all the same
    checkpoint.save(run, 2, training, keep=1)
    assert checkpoint.restore(run, begin(), CPU) == (2, ())
    assert steps_of(run) == ["step-00000002", "step-00000002.damaged", "step-00000003.damaged"]


def test_a_step_is_saved_once(run):
    before = contents(run.path / "checkpoints")
    training = begin()
    checkpoint.restore(run, training, CPU)
    checkpoint.save(run, 3, training, keep=3)
    assert contents(run.path / "checkpoints") == before


def test_a_checkpoint_says_what_it_is_of(run):
    state = torch.load(of_step(run, 3) / "trainer.pt", weights_only=True)
    assert state["run"] == DESCRIPTION.as_json() and state["step"] == 3
    assert state["versions"]["torch"] == torch.__version__ and state["versions"]["gpu"] is None


def test_other_versions_are_announced(run, monkeypatch):
    changed = {**environment.versions(CPU), "torch": "9.9"}
    monkeypatch.setattr(checkpoint, "versions", lambda device: changed)
    restored = checkpoint.restore(run, begin(), CPU)
    assert restored.step == 3
    assert f"torch: the run has {torch.__version__}, given is 9.9" in restored.warnings[0]


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs coreutils")
def test_sha256sum_checks_a_checkpoint(run):
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    assert subprocess.run(command, cwd=of_step(run, 3), capture_output=True).returncode == 0
    assert len((of_step(run, 3) / "SHA256SUMS").read_text().splitlines()) == 9
    flip_a_bit(of_step(run, 3) / "trainer.pt")
    assert subprocess.run(command, cwd=of_step(run, 3), capture_output=True).returncode == 1


def test_what_is_published_can_be_edited_without_harm_to_a_checkpoint(run):
    training = begin()
    checkpoint.restore(run, training, CPU)
    advance(training)
    shutil.rmtree(run.path / "generator")  # one folder is published anew, one replaced
    checkpoint.save(run, 4, training, keep=1)
    for network in ("generator", "discriminator"):
        for file in (run.path / network).iterdir():
            with open(file, "r+b") as opened:  # in place, as a hard link would pass on
                opened.write(b"\0" * 100)
    assert checkpoint.restore(run, begin(), CPU) == (4, ())
