"""One process at a time writes a run directory."""

from __future__ import annotations

import contextlib
import errno
import os
import signal

import pytest
from support.checkpoints import (
    contents,
)

from nucel.runs.directory import RunDirectory
from nucel.runtime import files
from nucel.runtime.errors import CheckpointError
from nucel.train import main


@contextlib.contextmanager
def held_by_another_process(run: RunDirectory):
    """A process that holds the lock until it is killed at the end; yields its id."""
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        with run.locked(lambda message: None):
            os.write(told, b"!")
            signal.pause()
    os.read(ready, 1)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(told)


def test_a_second_writer_is_refused_until_the_first_is_killed(run):
    before = contents(run.path)
    with held_by_another_process(run) as holder:
        for _ in range(2):
            with pytest.raises(CheckpointError, match=f"in use by process {holder} on "), run.locked(print):
                pytest.fail("two hold the lock")
    assert (run.path / "lock").exists()  # as the kill left it
    refused = pytest.raises(CheckpointError, match=f"in use by process {os.getpid()} on ")
    with run.locked(print), refused, run.locked(print):
        pytest.fail("two hold the lock")
    assert contents(run.path) == before


def test_a_second_trainer_is_refused(run, capsys):
    before = contents(run.path)
    with held_by_another_process(run) as holder:
        assert main(["--out", str(run), "--resume", "auto", "--device", "cpu"]) == 2
        assert f"{run} is in use by process {holder} on " in " ".join(capsys.readouterr().err.split())
    (run.path / "lock").unlink()
    assert contents(run.path) == before


def test_the_lock_can_be_taken_again_after_an_error(run):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), run.locked(print):
            raise ZeroDivisionError
    assert not (run.path / "lock").exists()


def test_a_lock_that_was_removed_while_it_was_opened_is_not_taken(run, monkeypatch):
    """Between opening and locking, its holder may remove the file and a third may make and lock a new one."""
    path, opened = run.path / "lock", []
    real = files.fcntl.flock

    def flock(descriptor, operation):
        opened.append(descriptor)
        if len(opened) == 1:
            path.unlink()
        real(descriptor, operation)

    monkeypatch.setattr(files.fcntl, "flock", flock)
    descriptor = files.lock(path)
    assert len(opened) == 2 and os.path.samestat(path.stat(), os.fstat(descriptor))
    os.close(descriptor)


def test_where_there_are_no_locks_the_run_goes_on_and_says_so(run, monkeypatch):
    said = []
    monkeypatch.setattr(files, "fcntl", None)
    with run.locked(said.append):
        pass
    assert f"No lock is taken on {run}: this system has no flock" in said[0]


def test_a_file_system_without_locks_is_announced(run, monkeypatch):
    said = []

    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files.fcntl, "flock", flock)
    with run.locked(said.append):
        pass
    assert "its file system has no locks" in said[0]


def test_a_directory_in_which_no_run_began_is_removed_if_it_was_made_for_it(tmp_path):
    for existed in (False, True):
        run = RunDirectory(tmp_path / f"{existed}")
        if existed:
            run.path.mkdir()
        with pytest.raises(ZeroDivisionError), run.locked(print):
            (run.path / "demo.fa").touch()
            raise ZeroDivisionError
        assert run.path.exists() == existed and run.is_unused()
    (run.path / "thesis.tex").touch()
    assert not run.is_unused()
