"""What a run derives from its description and its checkpoints never stops a resume, whatever became of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import tiny_run

from nucel.runs import log
from nucel.runs.directory import RunDirectory
from nucel.train import main


@pytest.fixture(scope="module")
def genome(tmp_path_factory) -> Path:
    return tiny_run.write_genome(tmp_path_factory.mktemp("genome") / "a.fa")


def train(run: Path, genome: Path, *words: str) -> int:
    settings = ("--steps", "8", "--log-every", "2", "--save-every", "4", "--resume", "auto")
    return main([*tiny_run.MODEL, *settings, "--genome", str(genome), "--out", str(run), *words])


@pytest.fixture(scope="module")
def stopped(genome, tmp_path_factory) -> Path:
    """A run of 8 steps that was stopped after 6; the derived files are there."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    assert train(run, genome, "--stop-after", "6") == 0
    return run


@pytest.fixture(scope="module")
def finished(stopped, genome, tmp_path_factory) -> Path:
    run = shutil.copytree(stopped, tmp_path_factory.mktemp("finished") / "run")
    assert train(run, genome) == 0
    return run


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda run: (run / name).write_bytes(content)


def cut_the_last_line(run: Path) -> None:
    path = run / "metrics.jsonl"
    os.truncate(path, path.stat().st_size - 20)


def append(run: Path, content: bytes) -> None:
    with open(run / "metrics.jsonl", "ab") as file:
        file.write(content)


DAMAGES: dict[str, tuple[Callable[[Path], object], str | None]] = {
    "summary cut": (write("summary.json", b'{"step": 6, "tok'), "summary.json is damaged"),
    "summary empty": (write("summary.json", b""), "summary.json is damaged"),
    "summary not text": (write("summary.json", b"\xff\x00\xfe"), "summary.json is damaged"),
    "summary a list": (write("summary.json", b"[1, 2]"), "summary.json is damaged"),
    "summary nested": (write("summary.json", b"[" * 100_000), "summary.json is damaged"),
    "summary of text": (
        write("summary.json", b'{"step": 8, "val_windows": "many", "val_rtd_auroc_low": "low"}'),
        None,  # only programs wrote numbers there; nothing tells that these are wrong
    ),
    "metrics cut": (cut_the_last_line, "metrics.jsonl has 1 damaged line(s)"),
    "metrics not text": (lambda run: append(run, b"\xff\xfe\n\x00\n"), "metrics.jsonl has 2 damaged line(s)"),
    "metrics a number": (lambda run: append(run, b"12\nnull\n"), "metrics.jsonl has 2 damaged line(s)"),
    "metrics no step": (lambda run: append(run, b'{"split": "train"}\n'), "metrics.jsonl has 1 damaged line(s)"),
    "metrics of text": (
        lambda run: append(run, b'{"step": 4, "split": "train", "skipped_steps": "x"}\n'),
        "metrics.jsonl has 1 damaged line(s)",
    ),
    "metrics null": (lambda run: append(run, b'{"step": 4, "split": "train", "skipped_steps": null}\n'), None),
    "metrics long number": (lambda run: append(run, b"1" * 5000 + b"\n"), "metrics.jsonl has 1 damaged line(s)"),
    "metrics lost": (lambda run: (run / "metrics.jsonl").unlink(), None),
    "summary lost": (lambda run: (run / "summary.json").unlink(), None),
    "card": (write("README.md", b"\xff\x00"), None),
    "curves": (write("loss.png", b"\x89PN"), None),
    "published": (write("discriminator/config.json", b"{"), None),
}


ENDED = ("summary cut", "metrics cut", "metrics lost", "curves")
"""Resumed at its end, a run draws and writes from what is there."""


@pytest.mark.parametrize(
    ("state", "kind"), [*(("stopped", kind) for kind in DAMAGES), *(("finished", kind) for kind in ENDED)]
)
def test_damage_of_a_derived_file_is_announced_and_mended_by_a_resume(kind, state, genome, tmp_path, capsys, request):
    run = shutil.copytree(request.getfixturevalue(state), tmp_path / "run")
    damage, announced = DAMAGES[kind]
    damage(run)
    capsys.readouterr()
    assert train(run, genome) == 0
    output = capsys.readouterr()
    told = " ".join(output.err.split())
    assert ("damaged" in told) == bool(announced) and (announced or "") in told
    assert json.loads((run / "summary.json").read_text()) == json.loads(output.out.splitlines()[-1])
    assert log.parse_metrics(RunDirectory(run))[1] == 0
    assert (run / "README.md").read_text().startswith("---\n")
    assert len((run / "loss.png").read_bytes()) > 1000
    json.loads((run / "discriminator" / "config.json").read_text())


def test_readers_of_a_run_in_progress_pass_over_damaged_files(finished, tmp_path):
    """The plot verb and the card do not wait for a resume to mend them."""
    from nucel.plot import main as plot
    from nucel.runs import card

    run = shutil.copytree(finished, tmp_path / "run")
    write("summary.json", b"{")(run)
    cut_the_last_line(run)
    append(run, b"\xff")
    card.write(RunDirectory(run))
    assert "bootstrapped" not in (run / "README.md").read_text()
    assert plot([str(run)]) == 0
