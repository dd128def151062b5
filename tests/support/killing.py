"""Runs of the trainer that are killed, each in a process forked from one that has torch loaded: no 4 s for a start."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate", "os.chmod", "os.utime"}


def die_before(change: int, folder: Path) -> None:
    """Let this process be killed just before it changes something in a folder for the n-th time, counted from 0.

    Python tells its audit hooks of all that makes, opens, renames or removes files, whatever code does it.
    """
    left = [change]

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            if not flags & (os.O_WRONLY | os.O_RDWR):
                return
        elif event in _CHANGES:
            path = arguments[0]
        else:
            return
        # What is removed as a tree is named relative to an open folder.
        if isinstance(path, int) or not os.path.isabs(path) or os.fspath(path).startswith(str(folder)):
            left[0] -= 1
            if left[0] < 0:
                signal.raise_signal(signal.SIGKILL)

    sys.addaudithook(hook)


class Trainer:
    """Starts runs, one at a time; the process they are forked from ends with the `with` block.

    Args:
        words: those of a short run, which is carried out first so that all is loaded.
    """

    def __init__(self, words: list[str]) -> None:
        command = [sys.executable, __file__, *words]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        self.server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.communicate()

    def __call__(self, words: list[str], run: Path, log: Path, **kill: float) -> int:
        """A run's exit code, or minus the signal that ended it. It prints to `log`, and is killed as `_run` says."""
        asked = {"words": words, "run": str(run), "log": str(log), **kill}
        print(json.dumps(asked), file=self.server.stdin, flush=True)
        return json.loads(self.server.stdout.readline())


def _run(
    words: list[str], run: str, log: str, seconds: float | None = None, saving: bool = False, change: int | None = None
) -> int:
    """Run the trainer, and kill it some seconds after its start, or after it is first seen writing a checkpoint; or
    before its n-th change to the directory `run`."""
    child = os.fork()
    if child == 0:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        if change is not None:
            die_before(change, Path(run))
        try:
            code = main([*words, "--out", run])
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        os._exit(code)
    start = time.perf_counter()
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if saving and any(name.endswith(".tmp") for name in _names_in(Path(run, "checkpoints"))):
            start, saving = time.perf_counter(), False
        if seconds is not None and not saving and time.perf_counter() - start >= seconds:
            os.kill(child, signal.SIGKILL)
        time.sleep(2e-4)


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


if __name__ == "__main__":
    import torch

    from nucel.train import main

    torch.set_num_threads(1)
    # A short run loads what each would load at its first use.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        main([*sys.argv[1:], "--steps", "1", "--out", f"{folder}/run"])
    for line in sys.stdin:
        print(json.dumps(_run(**json.loads(line))), flush=True)
