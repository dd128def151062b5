"""Efficiency: a run's cost is its counted operations times the windows it has seen, also after a resume."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path

import pytest
from support.tiny_run import MODEL, write_genome

from nucel import plot, train
from nucel.objectives.electra import Electra
from nucel.objectives.mlm import MaskedLM
from nucel.pretraining.cost import training_flops
from nucel.pretraining.stored import stored_config
from nucel.runs.directory import RunDirectory
from nucel.suites import efficiency as module
from nucel.suites.efficiency import PF_DAY, Cost, Point, at_equal_flops, published_points, read_scores, run_points

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """The same run in one session and in two, and its masked LM."""
    folder = tmp_path_factory.mktemp("runs")
    genome = write_genome(folder / "a.fa")
    words = [*MODEL, "--steps", "8", "--genome", str(genome)]
    found = {name: folder / name for name in ("whole", "resumed", "mlm")}
    assert train.main([*words, "--out", str(found["whole"])]) == 0
    assert train.main([*words, "--out", str(found["resumed"]), "--stop-after", "3"]) == 0
    assert train.main(["--resume", str(found["resumed"])]) == 0
    assert train.main([*words, "--out", str(found["mlm"]), "--objective", "mlm"]) == 0
    return found


@pytest.fixture
def call(tmp_path, capsys):
    def run(*words):
        status = plot.main(["efficiency", *map(str, words), "--out", str(tmp_path / "e.svg")])
        captured = capsys.readouterr()
        return status, json.loads(captured.out.splitlines()[-1]) if status == 0 else None, captured.err

    return run


def rows(tmp_path) -> list[dict[str, str]]:
    return list(csv.DictReader((tmp_path / "e.tsv").read_text().splitlines(), delimiter="\t"))


@pytest.mark.parametrize(("name", "kind"), [("whole", Electra), ("resumed", Electra), ("mlm", MaskedLM)])
def test_the_cost_is_counted_operations_times_windows_seen(runs, name, kind):
    config = stored_config(RunDirectory(runs[name]))
    figure = "generator_loss" if name == "mlm" else "rtd_auroc"
    points = run_points(runs[name], None, figure)
    assert [point.step for point in points] == [3] * (name == "resumed") + [4, 8]  # where it stopped, it validated too
    for point in points:
        windows = point.step * config.batch_size
        expected = training_flops(kind, config.model, config.context) * windows
        assert point.counted_pf_days * PF_DAY == pytest.approx(expected, rel=1e-12)
        assert point.tokens == windows * config.context


def test_a_resumed_run_costs_what_a_whole_one_does(runs):
    whole, resumed = (
        {point.step: (point.tokens, point.counted_pf_days, point.score) for point in points}
        for points in (run_points(runs[name], None, "rtd_auroc") for name in ("whole", "resumed"))
    )
    assert {step: resumed[step] for step in whole} == whole


def test_gpu_time_is_time_times_peak(runs):
    run = RunDirectory(runs["whole"])
    cost = Cost.of(stored_config(run))
    lines = [
        {"split": "train", "step": step, "tokens_per_s": speed} for step, speed in ((2, 100.0), (4, 50.0))
    ]  # the first two steps at 100, the next two at 50 tokens/s
    tokens = cost.windows_per_step * cost.context
    assert module._seconds(lines, cost, 3) == pytest.approx(2 * tokens / 100 + tokens / 50)
    assert module._seconds(lines, cost, 6) == pytest.approx(2 * tokens / 100 + 4 * tokens / 50)
    assert math.isnan(module._seconds([], cost, 3))
    slow, fast = (run_points(run.path, None, "rtd_auroc", peak)[-1].gpu_pf_days for peak in (1.0, 8.0))
    assert fast == pytest.approx(8 * slow) and slow > 0
    assert math.isnan(run_points(run.path, None, "rtd_auroc")[-1].gpu_pf_days)


def test_published_costs_are_days_times_peak():
    points = {point.name: point for point in published_points()}
    assert points["NucEL (93M)"].counted_pf_days == pytest.approx(1.41e11 * 701e6 / PF_DAY, rel=0.01)
    assert points["DNABERT-2 (117M)"].gpu_pf_days == pytest.approx(14 * 8 * 0.1076, rel=0.01)
    assert points["NT-2500M-multi"].gpu_pf_days == pytest.approx(28 * 128 * 0.312, rel=0.01)
    assert points["NucEL (93M)"].score == pytest.approx((67.64 + 87.10 + 75.13 + 90.30) / 4, abs=0.005)
    assert points["NT-500M-human"].score == pytest.approx((50.82 + 85.51 + 66.54 + 79.71) / 4, abs=0.01)
    for point in points.values():
        both = (point.counted_pf_days, point.gpu_pf_days)
        assert any(map(math.isnan, both)) and ("recalled" in point.source) == (not math.isnan(both[1]))


def test_scores_of_checkpoints_stand_beside_published_models(runs, call, tmp_path):
    table = tmp_path / "scores.tsv"
    table.write_text("run\tstep\tscore\nwhole\t4\t40\nwhole\t8\t50\nmlm\t4\t30\nmlm\t8\t45\n")
    status, summary, err = call(runs["whole"], runs["mlm"], "--scores", table, "--peak-tflops", "312")
    assert status == 0 and summary["points"] == 4 and summary["published"] == 5
    assert "counted petaflop/s-days: whole 5" in err or "counted petaflop/s-days: whole 4" in err
    found = rows(tmp_path)
    assert [row["name"] for row in found[:4]] == ["whole", "whole", "mlm", "mlm"]
    assert all(float(row["gpu_pf_days"]) > 0 for row in found[:4])
    nucel = next(row for row in found if row["name"] == "NucEL (93M)")
    assert nucel["gpu_pf_days"] == "" and nucel["counted_pf_days"] == "1.14"
    picture = (tmp_path / "e.svg").read_text()
    assert "GPU time x peak" in picture and "counted operations" in picture and "tokens" in picture


def test_a_run_s_own_figure_is_not_mixed_with_published_scores(runs, call, tmp_path):
    status, summary, err = call(runs["whole"])
    assert status == 0 and summary["published"] == 0 and "published models are left out" in err
    assert all(row["source"].startswith("run ") for row in rows(tmp_path))
    assert call()[1]["published"] == 5


def test_equal_cost_is_compared_on_both_curves():
    def curve(*values) -> list[Point]:
        return [Point("x", 1, 1.0, days, math.nan, score, 1.0, "") for days, score in values]

    days, one, other = at_equal_flops(curve((1, 10), (100, 30)), curve((2, 5), (10, 9)))
    assert days == pytest.approx(10) and one == pytest.approx(20) and other == pytest.approx(9)
    assert at_equal_flops(curve((1, 10), (2, 30)), curve((3, 5), (10, 9))) is None


def test_what_cannot_be_drawn_is_refused(runs, call, tmp_path):
    table = tmp_path / "scores.tsv"
    table.write_text("run\tstep\tscore\nother\t4\t40\n")
    status, _, err = call(runs["whole"], "--scores", table)
    assert status == 2 and "has no run whole; it has other" in err
    table.write_text("run\tstep\tscore\nother\tx\t40\n")
    with pytest.raises(ValueError, match=r"scores.tsv, line 2: step and score must be numbers"):
        read_scores(table)
    table.write_text("run\tscore\n")
    with pytest.raises(ValueError, match=r"has no column step"):
        read_scores(table)
    status, _, err = call(runs["mlm"], "--figure", "rtd_auroc")
    assert status == 2 and "has no held-out rtd_auroc; it has " in err
    status, _, err = call(tmp_path)
    assert status == 2 and not (tmp_path / "e.svg").exists()


def test_a_run_that_began_with_other_weights_says_so(runs, capsys, tmp_path):
    copy = shutil.copytree(runs["whole"], tmp_path / "copy")
    description = json.loads((copy / "run.json").read_text())
    description["recipe"]["init_from"] = "/runs/before"
    (copy / "run.json").write_text(json.dumps(description))
    run_points(copy, None, "rtd_auroc")
    assert "/runs/before, whose cost is not in its points" in capsys.readouterr().err.replace("\n", " ")
