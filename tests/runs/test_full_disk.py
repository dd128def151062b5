"""A disk that fills up while a checkpoint is written leaves the last one, and says so."""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.checkpoints import (
    CPU,
    advance,
    begin,
    contents,
    of_step,
    steps_of,
)

from nucel.runs import checkpoint
from nucel.runtime.errors import CheckpointError


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["trainer.pt", "SHA256SUMS", "model.safetensors", "config.json"])
def test_a_full_disk_leaves_the_last_checkpoint_and_says_so(run, trained, monkeypatch, name):
    """A file of the new checkpoint is /dev/full, whose every write fails as on a full disk."""
    training = begin()
    checkpoint.restore(run, training, CPU)
    advance(training)
    before = contents(run.path)
    real = builtins.open, Path.open

    def full(path, *arguments, open, **options):
        writing = "w" in (arguments[0] if arguments else options.get("mode", "r"))
        return open("/dev/full" if writing and Path(path).name == name else path, *arguments, **options)

    monkeypatch.setattr(builtins, "open", lambda path, *a, **o: full(path, *a, open=real[0], **o))
    monkeypatch.setattr(Path, "open", lambda path, *a, **o: full(path, *a, open=real[0], **o))
    with pytest.raises(CheckpointError) as error:
        checkpoint.save(run, 4, training, keep=1)
    monkeypatch.undo()
    message = str(error.value)
    assert "the checkpoint of step 4 could not be written" in message and "No space left on device" in message
    assert "It needs 0.0 MiB" in message and f"The last good checkpoint is {of_step(run, 3)}" in message
    assert f"go on with: python -m nucel.train --resume {run}" in message
    assert contents(run.path) == before
    checkpoint.save(run, 4, training, keep=1)
    assert steps_of(run) == ["step-00000004"]


class Filling(io.BytesIO):
    """A file on a disk that has room for 20 kB."""

    def write(self, data) -> int:
        if self.tell() + len(data) > 20_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


def test_a_disk_that_fills_up_in_the_middle_of_a_file():
    """torch then finds its archive inconsistent, and raises an error about that in place of the first."""
    with pytest.raises(OSError, match="No space left on device"):
        checkpoint._save_state({"moments": torch.zeros(100_000)}, Filling())


@pytest.mark.parametrize("first", [False, True])
def test_a_full_disk_while_the_weights_are_published(run, monkeypatch, first):
    """The checkpoint is whole by then: the run's own copy stays the old one, and the next start makes it new."""
    training = begin()
    checkpoint.restore(run, training, CPU)
    advance(training)
    if first:
        shutil.rmtree(run.path / "discriminator")
    before = contents(run.path / "discriminator")

    def full(source, target):
        Path(target).write_bytes(Path(source).read_bytes()[:50])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "copyfile", full)
        message = "the copy of the newest weights could not be written to .*: No space left on device"
        with pytest.raises(CheckpointError, match=message):
            checkpoint.save(run, 4, training, keep=2)
    assert contents(run.path / "discriminator") == before and not list(run.path.rglob("*.tmp"))
    assert checkpoint.restore(run, begin(), CPU) == (4, ())
    checkpoint.rewind(run, 4)
    assert contents(run.path / "discriminator") == contents(of_step(run, 4) / "discriminator") != before


_FULL_DISK = """
import os, subprocess, sys, threading, time
from pathlib import Path
from nucel.train import main
disk, words = Path(sys.argv[1]), sys.argv[2:]
if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", disk], capture_output=True).returncode:
    sys.exit(77)

def fill():
    while not (disk / "run" / "checkpoints" / "step-00000002").exists():
        time.sleep(1e-3)
    with open(disk / "filler", "wb", buffering=0) as file:
        while file.write(bytes(1 << 12)):
            pass

threading.excepthook = lambda error: None  # the disk is full
threading.Thread(target=fill, daemon=True).start()
codes = [main([*words, "--out", str(disk / "run"), "--steps", "200", "--save-every", "2"])]
left = sorted(path.name for path in disk.rglob("*") if path.suffix == ".tmp")
(disk / "filler").unlink()
codes.append(main([*words, "--out", str(disk / "run"), "--steps", "200", "--stop-after", "30"]))
print("ended", codes, left)
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs util-linux")
def test_a_trainer_on_a_disk_that_others_fill_stops_and_continues_when_there_is_room(tmp_path):
    """A small file system of its own, in a namespace of its own."""
    settings = {
        "context": 32, "window-bp": 40, "overlap-bp": 8, "batch-size": 4, "device": "cpu", "resume": "auto",
        "validation-windows": 4, "log-every": 100, "model.generator.width": 16, "model.generator.heads": 1,
        "model.discriminator.width": 32, "model.discriminator.heads": 1,
    }  # fmt: skip
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", _FULL_DISK, str(tmp_path)]
    result = subprocess.run([*command, *words], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    if result.returncode == 77 or "unshare" in result.stderr:
        pytest.skip("no namespaces here")
    assert result.stdout.splitlines()[-1] == "ended [2, 0] []", result.stderr
    assert "No space left on device" in result.stderr and "MiB are free" in result.stderr
    assert "The last good checkpoint is" in result.stderr and "Traceback" not in result.stderr
    assert "continuing after step" in result.stderr and "skipped" not in result.stderr


def test_room_is_asked_for_what_is_not_there_yet(run, monkeypatch):
    electra = begin().model
    weights = 4 * sum(p.numel() for p in electra.parameters())
    for keep, copies in ((1, 4), (3, 4), (4, 7)):  # of the weights: three for each checkpoint, and the published ones
        for free in (copies * weights - 1, copies * weights):
            monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path, n=free: type("Usage", (), {"free": n}))
            refused = pytest.raises(CheckpointError, match="its checkpoints need")
            with refused if free < copies * weights else contextlib.nullcontext():
                checkpoint.require_space(run, electra, keep)
