"""Several ranks: the same run as one, and what becomes of them when something goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.tiny_run import MODEL, write_genome
from torch import distributed

from nucel.runs import log
from nucel.runs.directory import RunDirectory

pytestmark = pytest.mark.skipif(
    not (distributed.is_available() and distributed.is_gloo_available()), reason="torch without gloo"
)
REPOSITORY = Path(__file__).parents[2]
TINY = [*MODEL, "--steps", "8", "--log-every", "1", "--save-every", "4"]


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    return write_genome(tmp_path_factory.mktemp("genome") / "genome.fa")


def command(ranks, *words):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    return [sys.executable, *launcher, "-m", "nucel.train", *TINY, *words]


def environment():
    # pytest may run from anywhere, and torchrun starts Python anew.
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def train(ranks, genome, out, *words):
    done = subprocess.run(
        command(ranks, "--genome", str(genome), "--out", str(out), *words),
        capture_output=True, text=True, env=environment(), timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def training_lines(run):
    return [line for line in log.read_metrics(RunDirectory(run)) if line["split"] == "train"]


def weights(run):
    return {f"{kind}.{k}": v for kind in ("generator", "discriminator")
            for k, v in load_file(run / kind / "model.safetensors").items()}  # fmt: skip


@pytest.fixture(scope="module")
def alone(genome, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "run"
    train(1, genome, out)
    return out


@pytest.fixture(scope="module")
def two(genome, tmp_path_factory):
    out = tmp_path_factory.mktemp("two") / "run"
    summary, stderr = train(2, genome, out)
    return out, summary, stderr


def assert_same_run(run, other, rtol):
    """The same losses at every step, and the same weights, within rounding."""
    lines, others = training_lines(run), training_lines(other)
    assert [line["step"] for line in lines] == [line["step"] for line in others] == list(range(1, 9))
    for line, expected in zip(lines, others, strict=True):
        for name in ("generator_loss", "rtd_loss", "replaced_fraction"):
            assert line[name] == pytest.approx(expected[name], rel=rtol), (line["step"], name)
    for name, tensor in weights(run).items():
        torch.testing.assert_close(tensor, weights(other)[name], rtol=0, atol=2e-4, msg=name)


def test_two_ranks_have_the_losses_of_one(alone, two):
    run, summary, stderr = two
    assert_same_run(run, alone, rtol=1e-4)
    assert summary["step"] == 8 and summary["tokens"] == 8 * 8 * 64
    assert "2 ranks" in stderr and stderr.count("held-out generator loss") == 2, "one rank speaks"


def test_compiled_blocks_run_on_two_ranks(alone, genome, tmp_path):
    train(2, genome, tmp_path / "run", "--compile", "on")
    assert_same_run(tmp_path / "run", alone, rtol=1e-3)


def test_a_run_goes_on_with_another_number_of_ranks_and_back(alone, genome, tmp_path):
    run = tmp_path / "run"
    train(2, genome, run, "--stop-after", "3")
    train(1, genome, run, "--stop-after", "6", "--resume", "auto", "--micro-batch", "4")
    train(2, genome, run, "--resume", "auto")
    assert_same_run(run, alone, rtol=1e-4)


def test_ranks_must_divide_the_batch(genome, tmp_path):
    done = subprocess.run(
        command(2, "--genome", str(genome), "--out", str(tmp_path / "run"), "--batch-size", "9"),
        capture_output=True, text=True, env=environment(), timeout=300,
    )  # fmt: skip
    assert done.returncode != 0 and "multiple of their number: got 9 for 2 ranks" in done.stderr
    assert not (tmp_path / "run").exists()


def start(ranks, genome, out, *words):
    process = subprocess.Popen(
        command(ranks, "--genome", str(genome), "--out", str(out), "--steps", "100000", *words),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True,
    )  # fmt: skip
    for _ in range(600):
        if len(training_lines(out)) >= 3:
            return process
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError("the run does not get going")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_after_its_step_with_a_checkpoint_and_a_status_of_its_own(genome, tmp_path, number):
    process = start(1, genome, tmp_path / "run")
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 75, stderr
    summary = json.loads(stdout.splitlines()[-1])
    assert summary["interrupted"] and summary["step"] == training_lines(tmp_path / "run")[-1]["step"]
    assert (tmp_path / "run" / "checkpoints" / f"step-{summary['step']:08d}").is_dir()
    assert f"{number.name}: saved step {summary['step']}" in stderr and "Traceback" not in stderr


def ranks_of(launcher):
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(launcher.pid)], capture_output=True, text=True, check=True
    )
    return [int(pid) for pid in listed.stdout.split()]


def test_a_signal_to_one_rank_ends_all_of_them_after_the_same_step(genome, tmp_path):
    run = tmp_path / "run"
    process = start(2, genome, run)
    os.kill(ranks_of(process)[-1], signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    step = training_lines(run)[-1]["step"]
    assert f"saved step {step}" in stderr and "Connection closed" not in stderr
    assert (run / "checkpoints" / f"step-{step:08d}").is_dir()
    summary, _ = train(1, genome, run, "--steps", "100000", "--stop-after", str(step + 1), "--resume", "auto")
    assert summary["step"] == step + 1


def test_a_lost_rank_ends_the_run_and_loses_nothing_that_was_saved(genome, tmp_path):
    run = tmp_path / "run"
    process = start(2, genome, run, "--save-every", "2")
    os.kill(ranks_of(process)[-1], signal.SIGKILL)
    _, stderr = process.communicate(timeout=90)
    assert (
        process.returncode not in (0, 75)
        and f"lost another rank; go on with: torchrun --nproc-per-node 2 -m nucel.train --resume {run}" in stderr
    )
    newest = int(sorted((run / "checkpoints").glob("step-????????"))[-1].name[5:])
    summary, _ = train(2, genome, run, "--steps", "100000", "--stop-after", str(newest + 2), "--resume", "auto")
    assert summary["step"] == newest + 2
