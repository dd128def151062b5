"""A trainer.pt that was crafted, with sums that are right: named and skipped, never loaded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.checkpoints import (
    CPU,
    advance,
    begin,
    equal,
    of_step,
    tensors_of,
)

from nucel.pretraining.config import Recipe
from nucel.runs import checkpoint
from nucel.runtime import files


def edit(change: Callable[[dict], object]) -> Callable[[dict], dict]:
    def edited(saved: dict) -> dict:
        change(saved)
        return saved

    return edited


def edit_moment(name: str, value: Callable[[torch.Tensor], object]) -> Callable[[dict], dict]:
    """Replace one moment of parameter 3."""

    def change(saved: dict) -> None:
        moments = saved["optimizer"]["state"][3]
        moments[name] = value(moments[name])

    return edit(change)


CRAFTED: dict[str, tuple[Callable[[dict], object], str]] = {
    "a list": (lambda saved: [saved], "trainer.pt must hold step, optimizer, scaler, run, versions"),
    "no optimizer": (edit(lambda saved: saved.pop("optimizer")), "trainer.pt must hold step, optimizer"),
    "step is text": (edit(lambda saved: saved.update(step="3")), "step must be of type int"),
    "no moments": (edit(lambda saved: saved["optimizer"].pop("state")), "must hold state and param_groups"),
    "too many": (edit(lambda saved: saved["optimizer"]["state"].update({999: {}})), "has no parameter 999, only"),
    "a name": (edit(lambda saved: saved["optimizer"]["state"].update({"x": {}})), "has no parameter 'x', only"),
    "a moment missing": (edit(lambda saved: saved["optimizer"]["state"][3].pop("exp_avg")), "must hold step, exp_avg"),
    "not a tensor": (edit_moment("exp_avg", lambda _: None), "exp_avg must be a dense tensor on cpu"),
    "larger": (edit_moment("exp_avg", lambda x: torch.zeros(999, 999)), "exp_avg has shape (999, 999), must be"),
    "smaller": (edit_moment("exp_avg_sq", lambda x: x[:1].clone()), "exp_avg_sq has shape"),
    "half": (edit_moment("exp_avg", lambda x: x.half()), "exp_avg has dtype torch.float16, must be torch.float32"),
    "one value for all": (edit_moment("exp_avg", lambda x: torch.zeros(()).expand(x.shape)), "exp_avg has strides"),
    "sparse": (edit_moment("exp_avg", lambda x: x.to_sparse()), "exp_avg must be a dense tensor"),
    "without memory": (edit_moment("exp_avg", lambda x: x.to("meta")), "exp_avg must be a dense tensor on cpu"),
    "steps": (edit_moment("step", lambda _: torch.zeros(7)), "step has shape (7,), must be ()"),
    "step nan": (edit_moment("step", lambda _: torch.tensor(torch.nan)), "step is nan after 3 steps"),
    "scaler": (edit(lambda saved: saved["scaler"].update(scale=1.0)), "scaler must hold nothing"),
    "no recipe": (edit(lambda saved: saved["run"].pop("recipe")), "run: the description has no recipe"),
    "run is empty": (edit(lambda saved: saved.update(run={})), "run: the description has no recipe"),
    "versions": (edit(lambda saved: saved.update(versions=3)), "versions must be of type dict"),
}


@pytest.mark.parametrize("kind", CRAFTED)
def test_a_crafted_checkpoint_with_right_sums_is_named_and_skipped(kind, run, trained):
    """It used to end in a KeyError, or in a fused step that wrote beyond the end of a moment."""
    craft, reason = CRAFTED[kind]
    path = of_step(run, 3) / "trainer.pt"
    torch.save(craft(torch.load(path, weights_only=True)), path)
    (of_step(run, 3) / "SHA256SUMS").unlink()
    files.write_sums(of_step(run, 3))
    training = begin()
    restored = checkpoint.restore(run, training, CPU)
    assert restored.step == 2 and equal(tensors_of(training), trained[1][2])
    assert reason in restored.warnings[0]
    advance(training)
    assert equal(tensors_of(training), trained[1][3])


def test_settings_of_a_crafted_checkpoint_s_groups_are_not_taken(run, trained):
    path = of_step(run, 3) / "trainer.pt"
    saved = torch.load(path, weights_only=True)
    saved["optimizer"]["param_groups"] = [{"params": [0], "lr": "fast"}]
    torch.save(saved, path)
    (of_step(run, 3) / "SHA256SUMS").unlink()
    files.write_sums(of_step(run, 3))
    training = begin()
    assert checkpoint.restore(run, training, CPU) == (3, ())
    assert equal(tensors_of(training), trained[1][3])
    assert [group["lr"] for group in training.optimizer.param_groups] == [Recipe().lr] * 2


@pytest.mark.parametrize("content", [b"", b"\x80\x02.", b"PK\x03\x04", b"cos\nsystem\n(S'false'\ntR."])
def test_a_trainer_pt_that_torch_did_not_write_is_named_and_skipped(run, content):
    (of_step(run, 3) / "trainer.pt").write_bytes(content)
    (of_step(run, 3) / "SHA256SUMS").unlink()
    files.write_sums(of_step(run, 3))
    restored = checkpoint.restore(run, begin(), CPU)
    assert restored.step == 2 and "trainer.pt cannot be read by torch" in restored.warnings[0]
