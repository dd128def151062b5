"""TensorBoard's events say what metrics.jsonl says, also after a resume."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import pytest

from nucel.runs import log
from nucel.runs.directory import RunDirectory
from nucel.runtime import files
from nucel.train import main

_SETTINGS = {
    "context": 32, "window-bp": 40, "overlap-bp": 8, "batch-size": 4, "steps": 6, "validate-every": 2,
    "validation-windows": 6, "save-every": 2, "log-every": 1, "device": "cpu", "resume": "auto",
    "model.generator.width": 16, "model.generator.heads": 1, "model.discriminator.width": 16,
    "model.discriminator.heads": 1,
}  # fmt: skip
WORDS = [*(word for name, value in _SETTINGS.items() for word in (f"--{name}", str(value))), "--track"]


def scalars_of(run: Path) -> dict[tuple[str, int], list[float]]:
    """What TensorBoard shows: the values of each tag and step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    values: dict[tuple[str, int], list[float]] = {}
    for tag in events.Tags()["scalars"]:
        for scalar in events.Scalars(tag):
            values.setdefault((tag, scalar.step), []).append(scalar.value)
    return values


def expected_of(run: Path) -> dict[tuple[str, int], list[float]]:
    return {
        (f"{name}/{line['split']}", line["step"]): [pytest.approx(value, rel=1e-6)]
        for line in log.read_metrics(RunDirectory(run))
        for name, value in line.items()
        if name not in ("step", "split") and value is not None
    }


def test_events_hold_the_lines_of_metrics_jsonl_and_forget_what_a_resume_repeats(tmp_path):
    pytest.importorskip("tensorboard")
    run = tmp_path / "run"
    assert main([*WORDS, "--out", str(run), "--stop-after", "4"]) == 0
    assert scalars_of(run) == expected_of(run)
    newest = run / "checkpoints" / "step-00000004"
    newest.rename(files.temporary_name(newest))  # as if killed while saving: steps 3 and 4 are repeated
    time.sleep(1.1)  # TensorBoard orders its files by the second they were begun in
    assert main([*WORDS, "--out", str(run)]) == 0
    assert scalars_of(run) == expected_of(run)
    assert {step for _, step in scalars_of(run)} == {1, 2, 3, 4, 5, 6}


def test_undefined_figures_are_left_out(tmp_path):
    pytest.importorskip("tensorboard")
    first, second = {"step": 1, "split": "train", "loss": 2.5}, {"step": 2, "split": "train", "x": 1}
    with log.recording(RunDirectory(tmp_path), 0, tensorboard=True) as record:
        record({**first, "rtd_auroc": float("nan")})
        record(second)
        # written at once, so that a kill loses nothing
        assert scalars_of(tmp_path) == {("loss/train", 1): [2.5], ("x/train", 2): [1.0]}
    assert log.read_metrics(RunDirectory(tmp_path)) == [{**first, "rtd_auroc": None}, second]


def test_without_tensorboard_it_is_refused_before_anything_begins(tmp_path, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "tensorboard" else find(name, *a))
    assert main([*WORDS, "--out", str(tmp_path / "run")]) == 2
    assert "pip install 'nucel[track]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_without_the_flag_nothing_is_written_for_tensorboard(tmp_path):
    with log.recording(RunDirectory(tmp_path), 0, tensorboard=False) as record:
        record({"step": 1, "split": "train", "loss": 2.5})
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
