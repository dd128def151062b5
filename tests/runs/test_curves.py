"""Pictures of runs: what is drawn, of one and of several, of whole and of unfinished ones."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from nucel.plot import main
from nucel.runs.curves import _PANELS, _draw_panel, _read, plot_run
from nucel.runs.directory import RunDirectory

matplotlib = pytest.importorskip("matplotlib")
from matplotlib.figure import Figure  # noqa: E402

RECIPE = {"batch_size": 4, "context": 64, "steps": 400, "objective": "electra", "model": {}}
GENOME = {"files": ["ecoli.fa"], "fingerprint": "0", "contigs": 1, "length_bp": 1000}


def line(step: int, split: str, rtd: bool = True) -> dict:
    loss = 1.4 + 2 / step + (0.05 if split == "validation" else 0)
    figures = {"generator_loss": loss}
    if rtd:
        figures |= {"rtd_loss": 0.3 + 0.1 / step, "rtd_blind": 0.31, "rtd_auroc": 0.5 + 0.1 * (1 - 1 / step)}
    if split == "train":
        figures |= {"tokens_per_s": 1000.0 + step}
    return {"step": step, "split": split, **figures}


def write_run(folder: Path, steps: int = 400, rtd: bool = True, validate_every: int = 100, batch_size: int = 4) -> Path:
    folder.mkdir(parents=True)
    description = {
        "recipe": {**RECIPE, "batch_size": batch_size},
        "genome": GENOME,
        "windows": {"train": 9, "held_out": 1},
        "command": "python -m nucel.train",
        "versions": {},
    }
    (folder / "run.json").write_text(json.dumps(description))
    lines = [line(step, "train", rtd) for step in range(2, steps + 1, 2)]
    lines += [line(step, "validation", rtd) for step in range(validate_every, steps + 1, validate_every)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    return folder


def texts_of(svg: Path) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg.read_text())


TITLES = ["Masked bases", "Replaced bases: loss", "Replaced bases: ranking", "Throughput"]


@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_one_run(ending, magic, tmp_path, capsys):
    run, out = write_run(tmp_path / "ecoli"), tmp_path / f"picture.{ending}"
    assert main([str(run), "--out", str(out)]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": str(out), "runs": [str(run)]}
    assert out.read_bytes().startswith(magic)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ecoli", out.name]


def test_the_default_picture_is_the_run_s_loss_png(tmp_path):
    run = write_run(tmp_path / "ecoli")
    assert main([str(run)]) == 0
    first = (run / "loss.png").read_bytes()
    plot_run(RunDirectory(run))  # as the trainer does
    assert first.startswith(b"\x89PNG") and len((run / "loss.png").read_bytes()) == len(first)


def test_several_runs_are_named_and_keep_their_colours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [write_run(tmp_path / name) for name in ("small/ecoli", "large/ecoli", "yeast")]
    assert main([*map(str, runs), "--out", "three.svg"]) == 0
    texts = texts_of(tmp_path / "three.svg")
    assert {"small/ecoli", "large/ecoli", "optimizer steps", "constant guess", "training", "held out"} <= set(texts)
    assert [text for text in texts if text in TITLES] == TITLES
    colours = ("#0072b2", "#d55e00", "#009e73")
    assert all(colour in (tmp_path / "three.svg").read_text().lower() for colour in colours)
    assert main([*map(str, runs)]) == 0
    assert (tmp_path / "runs.png").exists()


def test_runs_without_a_discriminator_have_no_empty_panels(tmp_path):
    alone, beside = write_run(tmp_path / "mlm", rtd=False), write_run(tmp_path / "electra")
    assert main([str(alone), "--out", str(tmp_path / "one.svg")]) == 0
    assert [text for text in texts_of(tmp_path / "one.svg") if text in TITLES] == ["Masked bases", "Throughput"]
    assert main([str(alone), str(beside), "--out", str(tmp_path / "two.svg")]) == 0
    assert [text for text in texts_of(tmp_path / "two.svg") if text in TITLES] == TITLES


def test_a_run_in_progress_is_drawn_as_far_as_it_has_come(tmp_path):
    run = write_run(tmp_path / "young", steps=6)
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "split": "tr')
    assert main([str(run), "--out", str(tmp_path / "young.svg")]) == 0
    texts = texts_of(tmp_path / "young.svg")
    assert "training" in texts and "held out" not in texts and "constant guess" in texts


def test_undefined_figures_leave_gaps(tmp_path):
    run = write_run(tmp_path / "run", steps=20, validate_every=5)
    with open(run / "metrics.jsonl", "a") as file:
        empty = dict.fromkeys(("generator_loss", "rtd_loss", "rtd_blind", "rtd_auroc"))
        file.write(json.dumps({"step": 25, "split": "validation", **empty}) + "\n")
    assert main([str(run), "--out", str(tmp_path / "gap.png")]) == 0
    _, y = _read(run, "run", 0, "steps").curve("validation", "rtd_auroc")
    assert np.isnan(y).tolist() == [False] * 4 + [True]


@pytest.mark.parametrize(("x", "scale"), [("steps", 1), ("tokens", 4 * 64)])
def test_the_lines_are_those_of_metrics_jsonl(tmp_path, x, scale):
    run = _read(write_run(tmp_path / "run"), "run", 0, x)
    for panel in _PANELS:
        axes = Figure().subplots()
        _draw_panel(axes, panel, [run])
        drawn = axes.get_lines()
        (training,) = (curve for curve in drawn if len(curve.get_xdata()) == 100)  # two lines for each of its points
        steps = np.arange(3, 400, 4)
        assert training.get_xdata() == pytest.approx(steps * scale)
        means = [(line(s - 1, "train")[panel.figure] + line(s + 1, "train")[panel.figure]) / 2 for s in steps]
        assert training.get_ydata() == pytest.approx(means)
        if panel.figure != "tokens_per_s":
            (held,) = (curve for curve in drawn if curve.get_marker() == "o")
            steps = (100, 200, 300, 400)
            assert held.get_xdata() == pytest.approx([step * scale for step in steps])
            assert held.get_ydata() == pytest.approx([line(step, "validation")[panel.figure] for step in steps])
        low, high = axes.get_ylim()
        assert low <= min(training.get_ydata()) and high < 2 * max(training.get_ydata()[50:])
        levels = [curve.get_ydata()[0] for curve in drawn if len(curve.get_xdata()) == 2]
        assert levels == ([panel.level[0]] if panel.level else [])
    assert _PANELS[0].level[0] == math.log(4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give at least one run directory"),
        (["nowhere"], "nowhere is not a run directory"),
        (["empty"], "nothing to draw yet: its metrics.jsonl is empty"),
        (["begun"], "nothing to draw yet"),
        (["whole", "nowhere"], "nowhere is not a run directory"),
        (["whole", "--out", "picture.gif"], "must end with .png, .svg, .pdf, got picture.gif"),
        (["whole", "--out", "no/such/folder.png"], "there is no folder no/such"),
        (["odd"], "its metrics.jsonl has no figure that is drawn"),
        (["lost", "--x", "tokens"], "run.json cannot be read"),
    ],
)
def test_what_cannot_be_drawn_is_refused(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("whole", "empty", "begun", "odd", "lost"):
        write_run(tmp_path / name, steps=4)
    (tmp_path / "empty" / "metrics.jsonl").write_text("")
    (tmp_path / "begun" / "metrics.jsonl").unlink()
    (tmp_path / "odd" / "metrics.jsonl").write_text('{"step": 1, "split": "train", "lr": 0.1}\n')
    (tmp_path / "lost" / "run.json").unlink()
    before = sorted(tmp_path.rglob("*"))
    assert main(words) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert sorted(tmp_path.rglob("*")) == before


def test_without_matplotlib_it_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([str(write_run(tmp_path / "run"))]) == 2
    assert "pip install 'nucel[plots]'" in capsys.readouterr().err
