"""A run with checkpoints, for the tests of this folder."""

from __future__ import annotations

import pytest
from support.checkpoints import (
    DESCRIPTION,
    advance,
    begin,
    copy_of,
    tensors_of,
)

from nucel.runs import checkpoint, log
from nucel.runs.directory import RunDirectory


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> tuple[RunDirectory, dict[int, dict]]:
    """A run with checkpoints of steps 1, 2 and 3, and the states that they hold."""
    run = RunDirectory(tmp_path_factory.mktemp("trained") / "run")
    run.path.mkdir()
    run.write_description(DESCRIPTION)
    training, states = begin(), {}
    for step in (1, 2, 3):
        advance(training)
        log.append_metrics(run, {"step": step, "split": "train"})
        checkpoint.save(run, step, training, keep=3)
        states[step] = tensors_of(training)
    return run, states


@pytest.fixture
def run(trained, tmp_path) -> RunDirectory:
    return copy_of(trained[0], tmp_path / "run")
