"""The trainer as a user meets it: its command line, its run directory, its refusals."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.training import REPOSITORY, TINY, assert_same_state
from torch.utils._python_dispatch import TorchDispatchMode

import nucel
from nucel.genome import demo
from nucel.objectives.electra import Electra
from nucel.pretraining.config import PRESETS, Recipe
from nucel.pretraining.meter import Meter
from nucel.pretraining.step import Batch, Guard, learning_rate, make_optimizer, train_step
from nucel.runs import log
from nucel.runs.directory import RunDirectory
from nucel.runs.state import TrainState
from nucel.runtime import files
from nucel.runtime.device import Precision
from nucel.train import main


def test_a_run_leaves_what_it_promises(run, tmp_path):
    code, summary = run()
    assert code == 0
    promised = "step tokens tokens_per_s val_generator_loss val_rtd_loss val_rtd_blind val_rtd_auroc out"
    assert set(promised.split()) <= summary.keys()
    assert summary["step"] == 10 and summary["tokens"] == 10 * 4 * 64 and summary["tokens_per_s"] > 0
    assert summary["val_rtd_auroc_low"] <= summary["val_rtd_auroc"] <= summary["val_rtd_auroc_high"]

    folder = Path(summary["out"])
    assert [p.name for p in sorted((folder / "checkpoints").iterdir())] == ["step-00000008", "step-00000010"]
    lines = log.read_metrics(RunDirectory(folder))
    assert [x["step"] for x in lines if x["split"] == "train"] == [2, 4, 6, 8, 10]
    assert [x["step"] for x in lines if x["split"] == "validation"] == [3, 6, 9, 10]
    assert lines[-1]["rtd_auroc"] == pytest.approx(summary["val_rtd_auroc"], abs=1e-6)
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert not [path for path in folder.rglob("*") if path.suffix == ".tmp"]

    encoder = nucel.load(folder)
    newest = load_file(folder / "checkpoints" / "step-00000010" / "discriminator" / "model.safetensors")
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, newest["model." + name])


@pytest.mark.interop
def test_transformers_loads_a_run(run):
    transformers = pytest.importorskip("transformers")
    folder = Path(run()[1]["out"])
    tokens = torch.tensor([[2, *nucel.encode("ACGTNACGTTTGA" * 4)]])
    with torch.no_grad():
        theirs = transformers.AutoModel.from_pretrained(folder / "discriminator")(input_ids=tokens).last_hidden_state
        torch.testing.assert_close(nucel.load(folder)(tokens), theirs, rtol=1e-4, atol=1e-5)
    assert transformers.AutoModelForMaskedLM.from_pretrained(folder / "generator").config.hidden_size == 32


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_ten_steps_equal_five_a_stop_a_resume_and_five_more(run, tmp_path, dtype):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    _, expected = run("--dtype", dtype, out=whole)
    _, stopped = run("--dtype", dtype, "--stop-after", 5, "--resume", "auto", out=parts)
    assert stopped["step"] == 5
    _, resumed = run("--dtype", dtype, "--resume", "auto", out=parts)
    assert_same_state(whole, parts)

    untimed = [
        [{k: v for k, v in x.items() if k != "tokens_per_s"} for x in log.read_metrics(RunDirectory(p))]
        for p in (whole, parts)
    ]
    regular = [[x for x in lines if x["step"] != 5] for lines in untimed]  # the stop adds lines of its own
    assert regular[0][:1] == regular[1][:1] and regular[0][-4:] == regular[1][-4:]
    for name in ("step", "tokens", "val_generator_loss", "val_rtd_loss", "val_rtd_auroc"):
        assert resumed[name] == expected[name]


def test_a_run_that_died_between_checkpoints_repeats_its_steps(run, tmp_path):
    whole, died = tmp_path / "whole", tmp_path / "died"
    run(out=whole)
    run(out=died)
    newest = died / "checkpoints" / "step-00000010"
    newest.rename(files.temporary_name(newest))  # as a kill while saving leaves it
    with open(died / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 11, "spl')
    code, summary = run("--resume", died, out=None)
    assert code == 0 and summary["step"] == 10
    assert_same_state(whole, died)
    steps = [[line["step"] for line in log.read_metrics(RunDirectory(path))] for path in (died, whole)]
    assert steps[0] == steps[1]
    assert not list((died / "checkpoints").glob("*.tmp"))


def test_resuming_a_finished_run_repeats_its_summary(run, tmp_path):
    _, first = run()
    code, second = run("--resume", "auto")
    assert code == 0
    same = [name for name in first if name != "tokens_per_s"]
    assert {name: second[name] for name in same} == {name: first[name] for name in same}


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_low_precision_trains_with_fp32_weights(run, tmp_path, dtype):
    code, summary = run("--dtype", dtype)
    assert code == 0 and math.isfinite(summary["val_rtd_loss"])
    weights = load_file(tmp_path / "run" / "discriminator" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_micro_batches_change_nothing_but_rounding():
    config = PRESETS["debug"]()
    tokens = torch.randint(11, 15, (8, 64), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    tokens[:, 0] = 2
    results = []
    for micro_batch in (8, 4, 1):
        electra = Electra(config.model).initialize(0)
        precision = Precision(torch.device("cpu"), torch.float32)
        gradients = {}
        state = TrainState(electra, make_optimizer(electra, config), precision.gradient_scaler())
        for name, parameter in electra.named_parameters():
            parameter.register_post_accumulate_grad_hook(lambda p, n=name, g=gradients: g.update({n: p.grad.clone()}))
        meter, guard = Meter(electra), Guard(precision.device)
        train_step(state, Batch(0, tokens, torch.arange(8)), config, precision, micro_batch, meter, guard)
        results.append((meter.read(), gradients))
    for figures, gradients in results[1:]:
        assert figures == pytest.approx(results[0][0], rel=1e-4, abs=1e-4)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, results[0][1][name], rtol=1e-3, atol=1e-4)


class NoHostSynchronisation(TorchDispatchMode):
    """Fails on whatever would make the host wait for a device: reading a value, or a shape that depends on one."""

    FORBIDDEN = frozenset({
        "_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "bincount",
        "_unique", "_unique2", "unique_dim", "unique_consecutive", "repeat_interleave",
    })  # fmt: skip

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indexed_by_mask = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        assert name not in self.FORBIDDEN and not indexed_by_mask, f"{name} synchronises"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_never_waits_for_the_device(dtype):
    config = PRESETS["debug"]()
    precision = Precision(torch.device("cpu"), dtype)
    electra = Electra(config.model).initialize(0)
    state = TrainState(electra, make_optimizer(electra, config), precision.gradient_scaler())
    tokens, meter, guard = torch.randint(11, 15, (4, 64)).to(torch.uint8), Meter(electra), Guard(precision.device)
    with NoHostSynchronisation():
        for step in range(2):
            batch = Batch(step, tokens, 4 * step + torch.arange(4))
            train_step(state, batch, config, precision, 2, meter, guard)
        with pytest.raises(AssertionError, match="synchronises"):
            meter.read()


def test_weight_decay_reaches_matrices_only():
    electra = Electra(PRESETS["debug"]().model)
    decayed, free = make_optimizer(electra, Recipe(weight_decay=0.1)).param_groups
    assert decayed["weight_decay"] == 0.1 and free["weight_decay"] == 0
    assert all(p.ndim >= 2 for p in decayed["params"]) and all(p.ndim < 2 for p in free["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(list(electra.parameters()))


@pytest.mark.parametrize(
    ("decay", "middle", "end"),
    [("constant", 1.0, 1.0), ("linear", 0.5, 0.0), ("cosine", 0.5, 0.0)],
)
def test_schedule_warms_up_and_decays(decay, middle, end):
    recipe = Recipe(lr=2.0, steps=1010, warmup_steps=10, decay=decay)
    rates = [learning_rate(recipe, step) for step in range(1011)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert rates[10] == 2 and rates[510] == pytest.approx(2 * middle) and rates[1010] == pytest.approx(2 * end)


def test_without_a_preset_or_a_genome_the_debug_model_trains_on_a_demo_genome(tmp_path, capsys):
    assert main([*TINY, "--steps", "2", "--out", str(tmp_path / "run")]) == 0
    captured = capsys.readouterr()
    assert "generating a demo genome" in captured.err
    assert "cpu's own: attention, rtd_loss; blocks not compiled" in captured.err
    assert json.loads(captured.out.splitlines()[-1])["step"] == 2
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert described["recipe"]["model"]["discriminator"]["global_every"] == 3
    assert described["recipe"]["decay"] == PRESETS["debug"]().decay


def test_the_demo_genome_is_a_function_of_its_seed(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        demo.write_demo_genome(tmp_path / name, seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c
    letters = set(b"".join(line for line in a.splitlines() if not line.startswith(b">")).decode())
    assert letters == set("ACGTacgtN")


def test_a_demo_genome_is_whole_or_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_contig", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        demo.write_demo_genome(tmp_path / "demo.fa")
    assert RunDirectory(tmp_path).is_unused() and not (tmp_path / "demo.fa").exists()


def test_the_debug_preset_learns_the_demo_genome(tmp_path):
    """A third of the README's first run: already better than a constant guess, and than the genome's composition."""
    words = ["--steps", "150", "--validate-every", "150", "--out", str(tmp_path / "run")]
    result = subprocess.run(
        [sys.executable, "-m", "nucel.train", *words], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    summary = json.loads(result.stdout.splitlines()[-1])
    assert summary["val_rtd_loss"] < summary["val_rtd_blind"]
    assert "It has learned: on held-out windows the discriminator's loss is" in result.stderr
    assert summary["val_rtd_auroc"] > 0.6 and summary["val_rtd_auroc_low"] > 0.5
    assert summary["val_generator_loss"] < 1.372 - 0.2  # order-0 entropy of the demo genome, nats
