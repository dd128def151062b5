"""The suite: its tasks, its methods, going on where it stopped, and its table."""

from __future__ import annotations

import csv
import fnmatch
import json
import shutil

import pytest
import torch
from support.tiny import TINY, save_tiny_model, write_task

from nucel.model import hub
from nucel.model.networks import Generator, initialize
from nucel.runtime.errors import ConfigError, TrainingError
from nucel.suite import main
from nucel.suites import methods, runner
from nucel.suites.results import markdown, published, summarize, tsv
from nucel.tasks.folders import find_tasks

pytest.importorskip("sklearn")

QUICK = ("--epochs", "1", "--lr", "5e-3", "--warmup-steps", "2", "--seeds", "0", "1")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A run as far as the suite sees it: a discriminator, and a generator as the MLM-only control."""
    folder = tmp_path_factory.mktemp("run")
    save_tiny_model(folder / "discriminator", seed=5)
    generator = Generator(TINY)
    initialize(generator, torch.Generator().manual_seed(6))
    hub.save(generator, folder / "generator")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("gue")
    for name in ("tf/0", "mouse/2"):
        write_task(root / name, train=48, dev=16, test=24)
    return root


@pytest.fixture
def run(folder, model, tmp_path, capsys, monkeypatch):
    """Calls main; returns the exit code, the summary or None, and what stood on stderr."""
    monkeypatch.setattr(methods, "_CNN_FIT", methods.FitOptions(epochs=2, lr=1e-3, warmup_steps=0, decay="plateau"))

    def call(*arguments, folders=(folder,), models=(f"pretrained={model}",), out=tmp_path / "out"):
        words = [*map(str, folders), "--out", str(out), *(["--models", *models] if models else []), *QUICK]
        code = main([*words, *map(str, arguments)])
        captured = capsys.readouterr()
        return code, json.loads(captured.out.splitlines()[-1]) if code == 0 else None, captured.err

    return call


def results_of(out) -> dict[str, dict]:
    root = out / "results"
    return {
        path.relative_to(root).as_posix(): json.loads(path.read_text()) for path in sorted(root.rglob("seed-*.json"))
    }


def test_every_method_is_trained_on_every_task_with_every_seed(run, model, tmp_path):
    code, summary, _ = run(models=(f"pretrained={model}", f"mlm={model}/generator"))
    assert code == 0 and summary["tasks"] == 2 and summary["fits"] == 2 * 4 * 2
    found = results_of(tmp_path / "out")
    names = ("pretrained", "mlm", "from scratch", "one-hot CNN")
    expected = {f"{t}/{n}/seed-{s}.json" for t in ("tf/0", "mouse/2") for n in names for s in (0, 1)}
    assert set(found) == expected
    for name, result in found.items():
        assert {"test_mcc", "test_auroc", "dev_loss", "seconds", "steps_per_s", "parameters"} <= result.keys()
        predictions = (tmp_path / "out" / "results" / name).with_suffix(".tsv").read_text().splitlines()
        assert len(predictions) == 1 + result["test"] == 25
    encoders = [found[f"tf/0/{name}/seed-0.json"] for name in names[:3]]
    weights = [result["settings"].get("weights") for result in encoders]
    assert len(set(weights)) == 3 and weights[2] is None
    assert len({result["parameters"] for result in encoders}) == 1

    table = (tmp_path / "out" / "table.md").read_text()
    header = "| task | train / dev / test | leaked | majority | pretrained | mlm | from scratch | one-hot CNN | "
    assert table.startswith(f"{header}NucEL (93M) |")
    assert "| tf/0 | 48 / 16 / 24 | 0 + 0 | 0." in table and "0.676 (TF-H)" in table and "0.706 (TF-M)" in table
    lines = list(csv.DictReader((tmp_path / "out" / "table.tsv").read_text().splitlines(), delimiter="\t"))
    assert len(lines) == 8 and {line["seeds"] for line in lines} == {"2"}


def test_what_is_done_is_not_done_again(run, tmp_path, monkeypatch):
    assert run()[1]["fits"] == 12
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "results").rglob("*.json")}
    table = (tmp_path / "out" / "table.md").read_text()
    assert run()[1]["fits"] == 0
    (tmp_path / "out" / "results" / "tf/0" / "one-hot CNN" / "seed-1.json").unlink()
    assert run()[1]["fits"] == 1
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "results").rglob("*.json")}
    assert before.keys() == after.keys() and sum(before[path] != after[path] for path in before) == 1
    again = (tmp_path / "out" / "table.md").read_text()
    assert again.splitlines()[:4] == table.splitlines()[:4]  # the times below may differ


def test_a_suite_that_died_goes_on(run, tmp_path, monkeypatch):
    whole = run(out=tmp_path / "whole")[1]
    fit, calls = runner.fit, []

    def die(*arguments):
        calls.append(arguments)
        if len(calls) == 6:
            raise TrainingError("power cut")
        return fit(*arguments)

    monkeypatch.setattr(runner, "fit", die)
    code, _, stderr = run()
    assert code == 2 and "power cut" in stderr and len(results_of(tmp_path / "out")) == 5
    assert run()[1]["fits"] == whole["fits"] - 5
    one, other = (results_of(tmp_path / name) for name in ("out", "whole"))
    assert one.keys() == other.keys()
    for name in one:
        assert one[name]["test_mcc"] == other[name]["test_mcc"] and one[name]["dev_loss"] == other[name]["dev_loss"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--lr", "1e-3"), r"fit.lr: the run has 0.005, given is 0.001"),
        (("--max-train", "20"), "task: the run has"),
        (("--classifier-pooling", "mean"), "classifier_pooling: the run has cls, given is mean"),
    ],
)
def test_results_of_other_settings_are_refused(run, folder, tmp_path, arguments, message):
    assert run("--no-cnn", folders=(folder / "tf",))[0] == 0
    before = results_of(tmp_path / "out")
    code, _, stderr = run("--no-cnn", *arguments, folders=(folder / "tf",))
    assert code == 2 and message in stderr and "is of another fit" in stderr
    assert results_of(tmp_path / "out") == before


def test_results_of_another_model_are_refused(run, model, folder):
    options = ("--no-cnn", "--no-scratch")
    assert run(*options, folders=(folder / "tf",))[0] == 0
    other = (f"pretrained={model}/generator",)
    code, _, stderr = run(*options, models=other, folders=(folder / "tf",))
    assert code == 2 and "weights: the run has" in stderr


def test_scratch_may_have_a_learning_rate_of_its_own(run, folder, tmp_path):
    assert run("--no-cnn", "--scratch-lr", "1e-2", folders=(folder / "tf" / "0",))[0] == 0
    found = results_of(tmp_path / "out")
    rates = {result["method"]: result["settings"]["fit"]["lr"] for result in found.values()}
    assert rates == {"pretrained": 5e-3, "from scratch": 1e-2}
    assert {result["task"] for result in found.values()} == {"0"}


def test_the_cnn_may_run_alone(run, tmp_path):
    code, summary, _ = run(models=())
    assert code == 0 and summary["fits"] == 4
    assert (
        "| task | train / dev / test | leaked | majority | one-hot CNN |" in (tmp_path / "out" / "table.md").read_text()
    )


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_sequences_longer_than_a_model_s_context_are_refused(run, folder, tmp_path):
    short = save_tiny_model(tmp_path / "short", context=40)
    options = {"models": (f"short={short}",), "folders": (folder / "tf",)}
    code, _, stderr = run("--no-cnn", "--no-scratch", **options)
    assert code == 2 and "bases are more than the context of 40 tokens holds" in stderr
    assert run("--no-cnn", "--no-scratch", "--context", "64", **options)[0] == 0


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (("pretrained",), "--models are NAME=MODEL, got 'pretrained'"),
        (("=x",), "--models are NAME=MODEL"),
        (("a/b=x",), "--models are NAME=MODEL"),
        (("one-hot CNN={model}",), "names of --models must differ"),
        (("a={model}", "a={model}/generator"), "names of --models must differ"),
        (("a=nowhere",), "holds no config.json"),
    ],
)
def test_bad_models_are_refused(run, model, tmp_path, models, message):
    code, _, stderr = run(models=[word.format(model=model) for word in models])
    assert code == 2 and message in stderr and not (tmp_path / "out").exists()


def test_tasks_are_found_by_their_tables(folder, tmp_path):
    assert list(find_tasks((folder,))) == ["mouse/2", "tf/0"]
    assert list(find_tasks((folder / "tf", folder / "mouse" / "2"))) == ["0", "2"]
    with pytest.raises(ConfigError, match="two tasks are named 0"):
        find_tasks((folder / "tf", folder / "tf" / "0"))
    with pytest.raises(ConfigError, match="is not a folder of tasks"):
        find_tasks((folder / "none",))
    with pytest.raises(ConfigError, match=r"no folder below .* holds tables"):
        find_tasks((tmp_path,))
    part = shutil.copytree(folder / "tf" / "0", tmp_path / "part")
    (part / "dev.csv").unlink()
    with pytest.raises(ConfigError, match=r"part must hold one table dev .*, has 0"):
        find_tasks((tmp_path,))
    (part / "dev.csv").write_text("")
    (part / "dev.tsv").write_text("")
    with pytest.raises(ConfigError, match=r"part must hold one table dev .*, has 2"):
        find_tasks((tmp_path,))


# ---- the table -------------------------------------------------------------------------------------------------------


def result(task, method, seed, mcc, **changes):
    figures = {"test_mcc": mcc, "test_auroc": 0.5, "seconds": 10.0, "steps": 30, "steps_per_s": 3.0}
    sizes = {"train": 4000, "dev": 100, "test": 200, "leaked": 1, "leaked_reverse": 2, "leaked_dev": 0}
    settings = {"fit": {"lr": 1e-3, "epochs": 3, "batch_size": 32}, "dtype": "fp32"}
    return {
        "task": task, "method": method, "seed": seed, "kind": "classification", "parameters": 2_000_000,
        "device": "cpu", **figures, **sizes, "settings": settings, **changes,
    }  # fmt: skip


RESULTS = [
    result("tf/0", "a", 0, 0.5), result("tf/0", "a", 1, 0.7), result("tf/0", "b", 0, 0.3), result("tf/0", "b", 1, 0.4),
    result("virus/covid", "a", 0, 0.2), result("virus/covid", "b", 0, 0.4),
]  # fmt: skip


def test_the_table_shows_means_deviations_and_the_best():
    table = markdown(summarize(RESULTS, ["a", "b"]))
    first, second = table.splitlines()[2:4]
    assert first.startswith(
        "| tf/0 | 4,000 / 100 / 200 | 1 + 2 |  | **0.600 ± 0.141** | 0.350 ± 0.071 | 0.676 (TF-H) |"
    )
    assert second.startswith("| virus/covid | 4,000 / 100 / 200 | 1 + 2 |  | 0.200 | **0.400** | 0.703 (CVC, f1) |")
    assert "| mean |  |  |  | 0.400 | 0.375 |" in table
    assert "over 1 to 2 seed(s)" in table and "NucEL paper, Table 1" in table
    assert "| a | 2.00 M | 0.001 | 3 | 32 | 30 | 10 | cpu fp32 |" in table
    expected = (
        "- a against b: the higher mean on 1 of 2 tasks; every seed above every seed of the other on 1, below on 1;"
    )
    assert expected in table and "mean difference +0.025." in table


def test_methods_stand_in_the_order_they_are_given():
    for order in (["a", "b"], ["b", "a"]):
        assert f"| majority | {order[0]} | {order[1]} |" in markdown(summarize(RESULTS, order))


def test_a_task_that_is_not_done_leaves_a_gap():
    table = markdown(summarize([*RESULTS, result("x", "a", 0, 0.1)], ["a", "b"]))
    assert "| x | 4,000 / 100 / 200 | 1 + 2 |  | **0.100** |  |" in table
    assert "against" not in table  # comparisons are over all tasks


def test_regression_is_marked():
    numbers = {"kind": "regression", "test_pearson": 0.8}
    rows = summarize([result("x", "a", 0, None, **numbers)], ["a"])
    assert "| x (pearson) | 4,000 / 100 / 200 | 1 + 2 |  | **0.800** |" in markdown(rows)
    (line,) = csv.DictReader(tsv(rows).splitlines(), delimiter="\t")
    assert line["test_pearson"] == "0.8" and line["lr"] == "0.001" and line["test_mcc"] == "nan"


def mean_of(lines, model: str, names: str = "*") -> float:
    values = [float(line.value) for line in lines if line.model == model and fnmatch.fnmatchcase(line.tasks, names)]
    return sum(values) / len(values)


def test_published_figures_name_their_source():
    lines = [line for line in published() if line.group]
    assert {line.model for line in lines} == {"NucEL (93M)", "DNABERT-2 (117M)", "NT-2500M-multi"}
    assert all(0 < float(line.value) < 1 and "Table" in line.source for line in lines)
    groups = {line.group for line in lines}
    assert len(lines) == 3 * len(groups) == 21
    for task, group in (("tf/2", "TF-H"), ("prom/prom_core_all", "CPD"), ("prom/prom_300_tata", "PD")):
        assert {line.group for line in lines if fnmatch.fnmatchcase(task, line.tasks)} == {group}
    for suite in ("tables", "Genomic Benchmarks", "NT, revised"):
        for line in published(suite):
            assert line.source and 0 < float(line.value) < 1
            assert ("recalled" in line.model) == ("recalled" in line.source)
    assert published("NT, first version") == []


def test_published_figures_have_the_means_that_were_published_with_them():
    gue = published()
    of_groups = {(line.model, line.group): float(line.value) for line in gue if line.group}
    names = {"TF-H": "*tf/*", "TF-M": "*mouse/*", "PD": "*prom_300_*", "CPD": "*prom_core_*", "EMP": "*EMP/*"}
    for short, whole in (("DNABERT-2", "DNABERT-2 (117M)"), ("NT-2500M-multi", "NT-2500M-multi")):
        for group, pattern in names.items():
            mean = mean_of(gue, f"{short}, by task (recalled)", pattern)
            assert mean == pytest.approx(of_groups[whole, group], abs=1.1e-4)
    assert mean_of([x for x in gue if x.group], "NucEL (93M)") == pytest.approx(0.7516, abs=1e-4)
    averages = {"NucEL (93M)": 0.899, "NT2-100M": 0.890, "Caduceus-Ph": 0.882, "Caduceus-PS": 0.880, "HyenaDNA": 0.863}
    for model, average in averages.items():
        assert mean_of(published("Genomic Benchmarks"), model) == pytest.approx(average, abs=6e-4)
    nt = published("NT, revised")
    # The paper's averages of its other columns are up to 0.005 away from the means of their rows.
    assert mean_of(nt, "NucEL (93M)") == pytest.approx(0.664, abs=6e-4)
    assert len(nt) == 4 * 18


def test_published_figures_of_a_task_stand_beside_ours():
    rows = summarize([result("human_ocr_ensembl", "a", 0, 0.1, suite="Genomic Benchmarks", metric="accuracy",
                             test_accuracy=0.8, majority=0.512)], ["a"])  # fmt: skip
    table = markdown(rows)
    assert "| human_ocr_ensembl (accuracy) | 4,000 / 100 / 200 | 1 + 2 | 0.512 | **0.800** | 0.794 | 0.783 |" in table
    rows = summarize([result("nt/H3K4me1", "a", 0, 0.1, suite="NT, revised", metric="mcc")], ["a"])
    assert "| **0.100** | 0.480 | 0.490 | 0.468 | 0.485 |" in markdown(rows)
    rows = summarize([result("H3K4me1", "a", 0, 0.1, suite="NT, first version", metric="mcc")], ["a"])
    assert "Published" not in markdown(rows)
