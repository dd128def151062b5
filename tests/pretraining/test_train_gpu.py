"""The training step on a GPU: same draws as on a CPU, same losses to rounding, and no wait for the device."""

from __future__ import annotations

import pytest
import torch

from nucel.model.compiled import compile_blocks
from nucel.objectives.electra import Electra, propose
from nucel.objectives.masking import mask
from nucel.pretraining.config import PRESETS
from nucel.pretraining.cost import window_bytes
from nucel.pretraining.meter import Meter
from nucel.pretraining.step import Batch, Guard, make_optimizer, train_step
from nucel.runs.state import TrainState
from nucel.runtime.device import Precision
from nucel.train import main

pytestmark = pytest.mark.gpu


def windows(batch=8, positions=256):
    tokens = torch.randint(11, 15, (batch, positions), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    tokens[:, 0] = 2
    return tokens


def test_masks_and_proposals_are_those_of_the_cpu():
    tokens, rows = windows(), torch.arange(8) + 10**12
    here, there = mask(tokens, 0.15, 7, rows), mask(tokens.cuda(), 0.15, 7, rows.cuda())
    for cpu, gpu in zip(here, there, strict=True):
        assert torch.equal(cpu, gpu.cpu())
    logits = torch.randn(*here.positions.shape, 27, generator=torch.Generator().manual_seed(1))
    cpu = propose(logits, 1.0, 7, rows, here.positions)
    gpu = propose(logits.cuda(), 1.0, 7, rows.cuda(), there.positions).cpu()
    # Two candidates within rounding of each other may fall either way.
    assert (cpu != gpu).float().mean() < 1e-3


def test_losses_are_those_of_the_cpu():
    electra = Electra(PRESETS["debug"]().model).initialize(0)
    rows = torch.arange(8)
    expected = electra(windows(), 0, rows)
    found = electra.cuda()(windows().cuda(), 0, rows.cuda())
    torch.testing.assert_close(found.proposed.loss.cpu(), expected.proposed.loss, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(found.rtd_loss.cpu(), expected.rtd_loss, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_step_never_waits_for_the_device(dtype):
    config = PRESETS["debug"]()
    precision = Precision(torch.device("cuda"), dtype)
    electra = Electra(config.model).initialize(0).cuda()
    state = TrainState(electra, make_optimizer(electra, config), precision.gradient_scaler())
    tokens, meter, guard = windows().cuda(), Meter(electra), Guard(precision.device)
    rows = torch.arange(len(tokens)).cuda()

    def step(number):
        train_step(state, Batch(number, tokens, rows + number * len(tokens)), config, precision, 4, meter, guard)

    step(0)  # compiles kernels and allocates the optimizer's state
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.tensor(value).isfinite() for value in meter.read().values())


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_the_trainer_runs_and_resumes(tmp_path, dtype, capsys):
    words = ["debug", "--steps", "12", "--dtype", dtype, "--device", "cuda", "--out", str(tmp_path / "run")]
    words += ["--resume", "auto", "--validate-every", "6", "--save-every", "6", "--warmup-steps", "2"]
    assert main([*words, "--stop-after", "6"]) == 0
    assert main(words) == 0
    assert '"step": 12' in capsys.readouterr().out.splitlines()[-1]


class Trainer:
    """A preset's pair on the GPU in bf16, with all that its steps need."""

    def __init__(self, preset, compiled):
        self.config, self.precision = PRESETS[preset](), Precision(torch.device("cuda"), torch.bfloat16)
        self.model = Electra(self.config.model).initialize(0).cuda()
        if compiled:
            compile_blocks(self.model)
        self.state = TrainState(self.model, make_optimizer(self.model, self.config), self.precision.gradient_scaler())
        self.meter, self.guard = Meter(self.model), Guard(self.precision.device)

    def step(self, number, tokens):
        rows = number * len(tokens) + torch.arange(len(tokens), device=tokens.device)
        batch = Batch(number, tokens, rows)
        train_step(self.state, batch, self.config, self.precision, len(tokens), self.meter, self.guard)
        return self.meter.read()


def test_compiled_and_eager_training_agree_over_50_steps():
    eager, compiled = Trainer("debug", compiled=False), Trainer("debug", compiled=True)
    tokens = windows().cuda()
    for step in range(50):
        expected, found = eager.step(step, tokens), compiled.step(step, tokens)
        for name in ("generator_loss", "rtd_loss"):
            assert found[name] == pytest.approx(expected[name], rel=2e-2), (step, name)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_step_takes_the_memory_that_is_planned(compiled):
    trainer = Trainer("small", compiled)
    tokens = windows(batch=128, positions=512).cuda()
    trainer.step(0, tokens)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    trainer.step(1, tokens)
    taken = torch.cuda.max_memory_allocated() - before
    planned = 128 * window_bytes(trainer.config.model, 512, torch.bfloat16, compiled)
    assert 0.6 * planned < taken < 1.05 * planned + 4 * sum(p.numel() for p in trainer.model.parameters())
