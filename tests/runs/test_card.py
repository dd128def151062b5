"""Cards: their own lines load what they describe, with transformers and with NucEL, and the hub can read their head."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from nucel.runs import card, log
from nucel.runs.directory import RunDirectory
from nucel.runtime import errors
from nucel.train import main

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.interop
huggingface_hub = pytest.importorskip("huggingface_hub")

_SETTINGS = {
    "context": 32, "window-bp": 40, "overlap-bp": 8, "batch-size": 4, "steps": 4, "lr": 0.003, "validate-every": 2,
    "validation-windows": 6, "save-every": 3, "device": "cpu", "model.generator.width": 16,
    "model.generator.heads": 1, "model.discriminator.width": 32, "model.discriminator.heads": 1,
}  # fmt: skip
WORDS = [word for name, value in _SETTINGS.items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("private") / "demo"
    assert main([*WORDS, f"--out={run}"]) == 0
    return run


def code_of(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize(("place", "width", "head"), [(".", 32, "logits"), ("discriminator", 32, "logits"),
                                                      ("generator", 16, "probabilities")])  # fmt: skip
def test_the_lines_of_a_card_load_the_model(run, tmp_path, monkeypatch, place, width, head):
    folder = shutil.copytree(run, tmp_path / "downloaded") / place
    if place != ".":  # as someone has it who fetched this folder alone
        folder = shutil.move(folder, tmp_path / "alone")
        shutil.rmtree(tmp_path / "downloaded")
    monkeypatch.chdir(folder)
    theirs, with_head, ours = code_of(Path("README.md").read_text())
    namespace: dict = {}
    exec(theirs, namespace)
    hidden = namespace["hidden"]
    assert f"(1, 9, {width}): [CLS]" in theirs and hidden.shape == (1, 9, width)
    exec(with_head, namespace)
    if head == "logits":
        assert "(1, 9, 2)" in with_head and namespace["logits"].shape == (1, 9, 2)
    else:
        assert "(4,)" in with_head and namespace["probabilities"].sum() == pytest.approx(1)
    own: dict = {}
    exec(ours, own)
    assert f"(1, {width})" in ours and own["vectors"].shape == (1, width)
    torch.testing.assert_close(torch.from_numpy(own["vectors"]), hidden[:, 1:].mean(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("place", "task"), [(".", "feature-extraction"), ("discriminator", "feature-extraction"),
                                             ("generator", "fill-mask")])  # fmt: skip
def test_the_hub_reads_the_head_of_a_card(run, place, task):
    data = huggingface_hub.ModelCard.load(run / place / "README.md").data
    assert data.library_name == "transformers" and data.pipeline_tag == task
    assert {"dna", "electra", "modernbert"} <= set(data.tags) and data.license is None


@pytest.mark.parametrize(("place", "tasks"), [
    (".", ["token-classification", "feature-extraction", "fill-mask", "feature-extraction"]),
    ("discriminator", ["token-classification", "feature-extraction"]),
    ("generator", ["fill-mask", "feature-extraction"]),
])  # fmt: skip
def test_a_card_says_which_folder_is_for_which_pipeline(run, tmp_path, monkeypatch, place, tasks):
    """Each line of Python runs as it stands, and gives what the card says."""
    monkeypatch.chdir(shutil.copytree(run, tmp_path / "downloaded") / place)
    lines = re.findall(r"^\| `\w+/` \| `(pipeline\(.*\))` \| .* \|$", Path("README.md").read_text(), re.MULTILINE)
    assert [line.split('"')[1] for line in lines] == tasks
    for task, line in zip(tasks, lines, strict=True):
        answer = eval(line, {"pipeline": transformers.pipeline})
        if task == "fill-mask":
            assert sorted(entry["token_str"] for entry in answer) == list("ACGT")
        elif task == "token-classification":
            assert {entry["entity"] for entry in answer} <= {"replaced", "original"} and len(answer) == 8
        else:
            assert len(answer[0]) == 9


def rows_of(text: str) -> dict[str, list[str]]:
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return {name.strip(): [cell.strip() for cell in cells] for name, *cells in rows}


def test_a_card_says_what_was_trained_on_what(run):
    text = (run / "README.md").read_text()
    rows = rows_of(text)
    described, summary = json.loads((run / "run.json").read_text()), json.loads((run / "summary.json").read_text())
    assert rows["genome"] == ["`demo.fa`: 3 contig(s), 0.40 Mb"]
    assert described["genome"]["fingerprint"] in rows["fingerprint"][0]
    train, held_out = described["windows"]["train"], described["windows"]["held_out"]
    assert rows["windows"] == [f"{train:,} to train on, {held_out:,} held out"]
    assert rows["these weights"] == rows["schedule"] == [f"4 steps, 512 tokens, {16 / train:.3g} epochs"]
    assert f"torch {torch.__version__}" in rows["made with"][0]
    assert rows["rtd_blind"][0] == f"{summary['val_rtd_blind']:.4f}"
    low, high = summary["val_rtd_auroc_low"], summary["val_rtd_auroc_high"]
    assert rows["rtd_auroc"][0].endswith(f"bootstrapped windows: {low:.4f} to {high:.4f})")
    assert f"On 6 of {held_out:,} held-out windows, after 4 steps" in text
    assert json.loads(re.search(r"```json\n(.*?)```", text, re.DOTALL)[1]) == described["recipe"]
    assert "python -m nucel.train --context 32" in text and "--out=demo\n" in text
    present = {path.name for path in run.iterdir()} - {"README.md", "demo.fa"}
    named = {name for cell in rows for name in re.findall(r"`([\w.]+)/?`", cell)}
    assert present <= named


def test_the_manual_of_run_directories_names_all_that_a_run_leaves(run):
    manual = (Path(__file__).parents[2] / "docs" / "runs.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w.]+)/?`", manual.split("## Resuming")[0]))
    assert {path.name for path in run.iterdir()} - {"checkpoints"} <= named
    assert {path.name for path in (run / "checkpoints" / "step-00000004").iterdir()} <= named


def test_what_others_keep_in_a_run_directory_is_left_alone(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    mine = copy / "finetuned"
    mine.mkdir()
    (mine / "config.json").write_text("{}")
    card.write(RunDirectory(copy))
    assert [path.name for path in mine.iterdir()] == ["config.json"]
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(errors.CheckpointError, match="has no checkpoint yet"):
        card.write(RunDirectory(copy))


def test_a_card_names_no_folder_of_the_machine_it_was_written_on(run):
    for path in run.rglob("README.md"):
        assert str(run.parent) not in path.read_text() and run.parent.name not in path.read_text()
    assert str(run.parent) in (run / "run.json").read_text()  # there they are kept


def test_a_card_is_that_of_the_newest_checkpoint_before_the_run_has_ended(run, tmp_path):
    """As a kill leaves it: trained past the checkpoint and validated before it, with no summary of that validation."""
    copy = shutil.copytree(run, tmp_path / "killed")
    shutil.rmtree(copy / "checkpoints" / "step-00000004")
    lines = [line for line in log.read_metrics(RunDirectory(copy)) if line["step"] < 4]
    (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    card.write(RunDirectory(copy))
    text = (copy / "README.md").read_text()
    assert rows_of(text)["these weights"][0].startswith("3 steps, 384 tokens")
    assert "after 2 steps" in text and "bootstrapped" not in text
    (copy / "metrics.jsonl").write_text("")
    card.write(RunDirectory(copy))
    assert "There has been no validation yet" in (copy / "README.md").read_text()
    assert not list(copy.rglob("*.tmp"))


def test_a_masked_language_model_has_a_card_without_a_discriminator(tmp_path, monkeypatch):
    run = tmp_path / "control"
    assert main([*WORDS, "--objective", "mlm", "--out", str(run)]) == 0
    text, rows = (run / "README.md").read_text(), rows_of((run / "README.md").read_text())
    assert "## Use `masked_lm/`" in text and "pipeline_tag: fill-mask" in text and "discriminator/" not in text
    assert "masked_lm_loss" in rows and "rtd_auroc" not in rows and "`masked_lm/`" in rows
    without_command = re.sub(r"```sh\n.*?```", "", text, flags=re.DOTALL)  # its words are the user's
    assert "generator" not in without_command
    monkeypatch.chdir(run)
    namespace: dict = {}
    for lines in code_of(text):
        exec(lines, namespace)
    assert namespace["hidden"].shape == (1, 9, 32) and namespace["vectors"].shape == (1, 32)
    assert namespace["probabilities"].sum() == pytest.approx(1)


def test_skipped_steps_are_told(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    assert "skipped steps" not in rows_of((copy / "README.md").read_text())
    log.append_metrics(RunDirectory(copy), {"step": 4, "split": "train", "skipped_steps": 3})
    card.write(RunDirectory(copy))
    assert rows_of((copy / "README.md").read_text())["skipped steps"][0].startswith("3, whose loss")
