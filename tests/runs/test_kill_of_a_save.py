"""A kill or a power cut at any moment of a save or a resume leaves the old checkpoint or the new."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.checkpoints import (
    CPU,
    DESCRIPTION,
    advance,
    begin,
    contents,
    copy_of,
    cut,
    equal,
    of_step,
    steps_of,
    tensors_of,
)
from support.killing import die_before

import nucel
from nucel.runs import checkpoint, log
from nucel.runs.directory import RunDirectory
from nucel.runtime import files


def killed_at(moment: int, run: RunDirectory, work: Callable[[], object]) -> bool:
    """Does the work in a forked process that is killed before its n-th change to the directory; False if it ended."""
    child = os.fork()
    if child == 0:
        die_before(moment, run.path)
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.fixture
def without_fsync(monkeypatch):
    """A kill loses nothing that the system holds: flushing would only take time here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def assert_readable(run: RunDirectory, states: dict[int, dict]) -> int:
    """All that a reader may come upon is whole; returns the step that a resume would continue after."""
    for path in (run.path / "checkpoints").glob("step-????????"):
        assert files.damage(path, ("trainer.pt",)) == []
    training = begin()
    step, warnings = checkpoint.restore(run, training, CPU)
    assert warnings == () and equal(tensors_of(training), states[step])
    for name in ("discriminator", "generator"):
        weights = load_file(run.path / name / "model.safetensors")
        if name == "discriminator":  # its directory has a row for "replaced" before the one that is trained
            weights |= {key: weights[key][1:] for key in ("classifier.weight", "classifier.bias")}
        assert any(all(torch.equal(weights[k], s[f"{name}.{k}"]) for k in weights) for s in states.values())
    nucel.load(run.path)
    log.read_metrics(run)
    return step


def test_a_kill_at_any_moment_of_a_save_leaves_the_old_checkpoint_or_the_new(run, trained, tmp_path, without_fsync):
    training = begin()
    checkpoint.restore(run, training, CPU)
    advance(training)
    states = {3: trained[1][3], 4: tensors_of(training)}
    for step in (1, 2):
        shutil.rmtree(of_step(run, step))
    steps = []
    for moment in itertools.count():
        work = copy_of(run, tmp_path / "killed")
        killed = killed_at(moment, work, lambda work=work: checkpoint.save(work, 4, training, keep=1))
        steps.append(assert_readable(work, states))
        checkpoint.rewind(work, steps[-1])
        checkpoint.save(work, 4, training, keep=1)
        assert steps_of(work) == ["step-00000004"] and files.damage(of_step(work, 4)) == []
        assert contents(work.path / "generator") == contents(of_step(work, 4) / "generator")
        assert not list(work.path.rglob("*.tmp"))
        shutil.rmtree(work.path)
        if not killed:
            break
    assert steps == sorted(steps) and set(steps) == {3, 4} and len(steps) > 30


def test_a_kill_at_any_moment_of_a_resume_changes_nothing_of_it(run, trained, tmp_path, without_fsync):
    cut(of_step(run, 3) / "trainer.pt")
    files.temporary_name(of_step(run, 4)).mkdir()
    for moment in itertools.count():
        work = copy_of(run, tmp_path / "killed")
        killed = killed_at(moment, work, lambda work=work: checkpoint.rewind(work, 2))
        training = begin()
        step, _ = checkpoint.restore(work, training, CPU)
        assert step == 2 and equal(tensors_of(training), trained[1][2])
        nucel.load(work.path)
        checkpoint.rewind(work, 2)
        assert steps_of(work) == ["step-00000001", "step-00000002", "step-00000003.damaged"]
        assert_readable(work, trained[1])
        shutil.rmtree(work.path)
        if not killed:
            break
    assert moment > 6


def test_a_kill_at_any_moment_of_the_first_save_leaves_no_half_model(trained, tmp_path, without_fsync):
    training = begin()
    advance(training)
    states_seen = set()
    for moment in itertools.count():
        work = RunDirectory(tmp_path / "killed")
        work.path.mkdir()
        work.write_description(DESCRIPTION)
        killed = killed_at(moment, work, lambda work=work: checkpoint.save(work, 1, training, keep=1))
        states_seen.add((work.has_checkpoint(), (work.path / "discriminator").exists()))
        if (work.path / "discriminator").exists():
            nucel.load(work.path)
        if work.has_checkpoint():
            assert checkpoint.restore(work, begin(), CPU) == (1, ())
        checkpoint.rewind(work, work.newest_step())
        checkpoint.save(work, 1, training, keep=1)
        assert_readable(work, trained[1])
        assert not list(work.path.rglob("*.tmp"))
        shutil.rmtree(work.path)
        if not killed:
            break
    assert states_seen == {(False, False), (True, False), (True, True)}


def test_a_power_cut_finds_on_the_disk_what_a_name_promises(run, monkeypatch):
    """Before a rename all files below it have been flushed since they were written, after it the folder is."""
    training = begin()
    checkpoint.restore(run, training, CPU)
    advance(training)
    flushed: dict[int, int] = {}  # inode: its last change when it was flushed
    owed = set()  # folders whose names are not on the disk yet
    renamed = []

    def fsync(descriptor):
        status = os.fstat(descriptor)
        flushed[status.st_ino] = status.st_mtime_ns
        owed.discard(status.st_ino)
        real["fsync"](descriptor)

    def rename(source, target, real):
        source, target = Path(source), Path(target)
        if ".tmp" in source.name:
            assert not owed, "another rename still waits for its folder"
            for path in [source, *source.rglob("*")]:
                assert flushed.get(path.stat().st_ino) == path.stat().st_mtime_ns, f"{path} was not flushed"
        real(source, target)
        owed.add(target.parent.stat().st_ino)
        renamed.append(target.name)

    def remove(path, *, real, **options):
        assert not owed, "something is removed before its successor is on the disk"
        real(path, **options)

    real = {name: getattr(os, name) for name in ("fsync", "rename", "replace", "unlink")}
    monkeypatch.setattr(os, "fsync", fsync)
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, lambda source, target, n=name: rename(source, target, real[n]))
    monkeypatch.setattr(os, "unlink", lambda path, **options: remove(path, real=real["unlink"], **options))
    shutil.rmtree(run.path / "generator")  # so that one folder is published anew, and one replaced
    checkpoint.save(run, 4, training, keep=1)
    cut(of_step(run, 4) / "trainer.pt")
    checkpoint.save(run, 4, training, keep=1)
    checkpoint.rewind(run, 4)
    assert not owed and {"step-00000004", "generator", "model.safetensors", "metrics.jsonl"} <= set(renamed)
