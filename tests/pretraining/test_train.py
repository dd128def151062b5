"""The trainer as a user meets it: its command line, its run directory, its refusals."""

from __future__ import annotations

import gzip
import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

import nucel
from nucel.genome import demo
from nucel.genome.fasta import Genome
from nucel.objectives.electra import Electra
from nucel.pretraining.config import PRESETS, Recipe, TrainConfig
from nucel.pretraining.meter import Meter
from nucel.pretraining.setup import describe, windows_of
from nucel.pretraining.step import Batch, Guard, learning_rate, make_optimizer, train_step
from nucel.runs import log
from nucel.runs.checkpoint import TrainState
from nucel.runs.directory import RunDirectory
from nucel.runtime import files
from nucel.runtime.device import Precision
from nucel.runtime.errors import ConfigError
from nucel.train import main

_SETTINGS = {
    "context": 64, "window-bp": 80, "overlap-bp": 16, "batch-size": 4, "micro-batch": 2, "steps": 10, "lr": 0.003,
    "warmup-steps": 3, "validate-every": 3, "validation-windows": 6, "save-every": 4, "log-every": 2, "device": "cpu",
    "model.generator.layers": 1, "model.generator.width": 32, "model.generator.heads": 1,
    "model.generator.intermediate": 32, "model.discriminator.layers": 2, "model.discriminator.width": 32,
    "model.discriminator.heads": 1, "model.discriminator.intermediate": 32,
}  # fmt: skip
TINY = [word for name, value in _SETTINGS.items() for word in (f"--{name}", str(value))]
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def genome(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("genome") / "genome.fa"
    demo.write_demo_genome(path, seed=3)
    return path


@pytest.fixture
def run(genome, tmp_path, capsys):
    """Calls main with the tiny model; returns the exit code and, where it succeeded, the summary."""

    def call(*arguments, out=tmp_path / "run", genome=genome):
        words = [*TINY, "--genome", str(genome), *([] if out is None else ["--out", str(out)]), *map(str, arguments)]
        code = main(words)
        stdout = capsys.readouterr().out
        return code, json.loads(stdout.splitlines()[-1]) if code == 0 else stdout

    return call


def state_of(run: Path) -> dict:
    """All that a checkpoint holds, flat."""
    newest = sorted((run / "checkpoints").iterdir())[-1]
    state = {
        f"{n}.{k}": v
        for n in ("generator", "discriminator")
        for k, v in load_file(newest / n / "model.safetensors").items()
    }
    trainer = torch.load(newest / "trainer.pt", weights_only=True)
    for number, moments in trainer["optimizer"]["state"].items():
        state |= {f"optimizer.{number}.{name}": value for name, value in moments.items()}
    return {**state, "step": torch.tensor(trainer["step"])}


def assert_same_state(first: Path, second: Path) -> None:
    one, other = state_of(first), state_of(second)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


# ---- a run -----------------------------------------------------------------------------------------------------------


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
    assert "cpu's own: attention; PyTorch reference: rtd_loss (no fused kernel" in captured.err
    assert "blocks not compiled" in captured.err
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


# ---- refusals --------------------------------------------------------------------------------------------------------


def fasta(*records: tuple[str, str], width=60) -> bytes:
    lines = []
    for name, bases in records:
        lines += [f">{name}", *(bases[i : i + width] for i in range(0, len(bases), width))]
    return ("\n".join(lines) + "\n").encode()


BAD_GENOMES = {
    "not FASTA": (b"chr1\t100\n" * 50, "no FASTA record begins here"),
    "empty": (b"", "is empty"),
    "protein": (fasta(("p", "MKVLEFPQILHWYRDE" * 30)), "looks like protein"),
    "ragged": (b">chr1\n" + b"ACGT" * 15 + b"\n" + b"AC\n" + b"ACGT" * 15 + b"\n", "not a regular FASTA"),
    "duplicate": (fasta(("chr1", "ACGT" * 60), ("chr1", "ACGA" * 60)), "two records are named 'chr1'"),
    "short": (fasta(("chr1", "ACGT" * 10)), "no contig is long enough"),
    "truncated": (gzip.compress(fasta(("chr1", "ACGTTGCA" * 4000)))[:-40], "damaged or incomplete gzip"),
}


@pytest.mark.parametrize("kind", BAD_GENOMES)
def test_a_genome_that_cannot_be_used_is_refused(kind, tmp_path, capsys):
    content, message = BAD_GENOMES[kind]
    path = tmp_path / "genome.fa"
    path.write_bytes(content)
    assert main([*TINY, "--genome", str(path), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert not (tmp_path / "run").exists()
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".") or p.suffix == ".tmp"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--genome", "nowhere.fa"], "there is no such FASTA file"),
        (["--hold-out", "chrX"], "there is no contig 'chrX'"),
        (["--device", "tpu"], "--device tpu cannot be used"),
        (["--resume", "auto"], "--resume auto needs --out"),
        (["--resume", "nowhere"], "there is no run in that directory"),
        (["--extend-steps", "3", "--resume", "auto", "--out", "runs/new"], "is at step 0 of 10"),
        (["--hold-out", "demo1", "demo2", "demo3"], "leaves none to train on"),
    ],
)
def test_arguments_that_cannot_work_are_refused(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*TINY, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["huge"], "Unrecognized options: huge"),
        (["--frobnicate", "3"], "Unrecognized options: --frobnicate"),
        (["--steps", "many"], "many"),
        (["--steps", "0"], "steps must be at least 1, got 0"),
        (["--dtype", "fp8"], "fp8"),
    ],
)
def test_unknown_words_on_the_command_line_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_resuming_with_another_recipe_or_genome_is_refused(run, tmp_path, capsys):
    out = tmp_path / "run"
    run("--stop-after", 4)
    before = contents(out)
    words = [*TINY, "--out", str(out), "--resume", "auto"]
    other = tmp_path / "other.fa"
    demo.write_demo_genome(other, seed=4)
    genome = json.loads((out / "run.json").read_text())["genome"]["files"][0]
    for arguments, messages in (
        (["--genome", genome, "--lr", "0.1"], ["lr: the run has 0.003, given is 0.1"]),
        (["--genome", genome, "--model.mask-rate", "0.3"], ["model.mask_rate: the run has 0.15, given is 0.3"]),
        (["--genome", str(other)], ["genome: the run's is", "has other content"]),
    ):
        assert main([*words, *arguments]) == 2
        error = capsys.readouterr().err
        assert all(
            message in error for message in [*messages, "It was started by: python -m nucel.train", "Go on with"]
        )
        assert contents(out) == before


def test_an_occupied_or_impossible_directory_is_refused(run, tmp_path, capsys):
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "thesis.tex").write_text("work of years")
    for resume in ([], ["--resume", "auto"]):
        assert run(*resume, out=occupied)[0] == 2
    assert [p.name for p in occupied.iterdir()] == ["thesis.tex"]
    assert run(out=occupied / "thesis.tex")[0] == 2
    assert run(out=occupied / "thesis.tex" / "run")[0] == 2


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="nothing is read-only for the superuser")
def test_a_read_only_directory_is_refused(run, tmp_path):
    tmp_path.chmod(0o555)
    assert run()[0] == 2


def test_too_small_a_disk_is_refused_before_training(run, tmp_path, capsys, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("nucel.runs.checkpoint.shutil.disk_usage", lambda path: usage)
    assert run()[0] == 2
    assert not (tmp_path / "run").exists()


def test_a_disk_that_fills_up_ends_the_run_with_its_last_checkpoint_intact(genome, tmp_path):
    """A limit on file size fails a write in the middle as a full disk does."""
    out = tmp_path / "run"
    words = [*TINY, "--genome", str(genome), "--out", str(out), "--resume", "auto"]
    program = (
        "import resource, sys; from nucel.train import main\n"
        "limit = int(sys.argv[1]); resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
        "sys.exit(main(sys.argv[2:]))"
    )

    def call(limit, *more):
        command = [sys.executable, "-c", program, str(limit), *words, *more]
        return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)

    assert call(-1, "--stop-after", "4").returncode == 0
    before = contents(out / "checkpoints")
    result = call(20_000)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "error: the checkpoint of step 8 could not be written" in result.stderr
    assert f"The last good checkpoint is {out / 'checkpoints' / 'step-00000004'}" in result.stderr
    assert contents(out / "checkpoints") == before
    assert call(-1).returncode == 0


def test_a_damaged_checkpoint_is_named_and_the_run_continued_from_the_one_before(run, genome, tmp_path, capsys):
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    run(out=whole)
    run(out=damaged)
    words = [*TINY, "--genome", str(genome), "--out", str(damaged), "--resume", "auto"]
    trainer = damaged / "checkpoints" / "step-00000010" / "trainer.pt"
    trainer.write_bytes(trainer.read_bytes()[:1000])
    assert main(words) == 0
    assert f"{trainer.parent} is skipped: trainer.pt is not what was written" in capsys.readouterr().err
    assert trainer.parent.with_name("step-00000010.damaged").exists()
    shutil.rmtree(trainer.parent.with_name("step-00000010.damaged"))
    assert_same_state(whole, damaged)

    for path in damaged.glob("checkpoints/*/trainer.pt"):
        path.unlink()
    before = contents(damaged)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert all(f"{name} is skipped: trainer.pt is missing" in error for name in ("step-00000008", "step-00000010"))
    assert contents(damaged) == before


def test_a_recipe_is_described_field_by_field():
    """Whatever decides the result is compared on resume: no field of Recipe may be left out of run.json."""

    class Opened:
        paths, fingerprint, contigs, lengths = (Path("a.fa"),), "0", ("a",), np.array([9])

    config = replace(PRESETS["debug"](), dtype="auto")
    setup = SimpleNamespace(
        genome=Opened, train_windows=(), held_windows=(), precision=Precision(torch.device("cpu"), torch.float32)
    )
    described = describe(config, setup, "x").recipe
    assert described.keys() == Recipe.__dataclass_fields__.keys()
    assert described["dtype"] == "fp32"


def test_a_recipe_stored_by_an_earlier_version_has_the_same_keys():
    """Runs made before this one must still resume: a key that is gone, new or renamed would be a difference."""
    stored = (
        "context window_bp overlap_bp max_unknown contigs keep_bed drop_bed max_masked masked_weight genome_weights "
        "model objective hold_out hold_out_fraction reverse_complement steps batch_size lr betas adam_eps weight_decay "
        "warmup_steps decay max_grad_norm dtype seed"
    )
    assert list(Recipe.__dataclass_fields__) == [*stored.split(), "init_from"]
    assert Recipe().init_from is None  # what is null is no difference to what is missing


def test_options_choose_the_windows(tmp_path):
    """Contigs, regions, repeats and weights of the recipe reach the windows, and what is held out is not weighted."""
    texts = {"a": [("c1", "ACGTTGCAAC" * 200), ("c2", "acgttgcaac" * 200)], "b": [("d1", "ACGTTGCAAC" * 100)]}
    for name, records in texts.items():
        (tmp_path / f"{name}.fa").write_bytes(fasta(*records))
    (tmp_path / "drop.bed").write_text("c1\t0\t1000\n")
    config = TrainConfig(
        genome=(tmp_path / "a.fa", tmp_path / "b.fa"), context=51, window_bp=50, overlap_bp=0, hold_out=("d?",),
        hold_out_fraction=0.1, contigs=("c*", "d*"), drop_bed=str(tmp_path / "drop.bed"), max_masked=0.5,
        masked_weight=0.5, genome_weights=(2, 1),
    )  # fmt: skip
    genome = Genome(config.genome)
    train, held = windows_of(config, genome)
    assert set(train.contig.tolist()) == {0, 1} and 2 in held.contig
    assert train.start_bp[train.contig == 0].min() >= 1000
    ratio = train.weight[train.contig == 1][0] / train.weight[train.contig == 0][0]
    assert ratio == 0.5 and set(held.weight.tolist()) <= {0.5, 1.0}
    with pytest.raises(ConfigError, match="one for each --genome, got 1 for 2"):
        replace(config, genome_weights=(1,))
    with pytest.raises(ConfigError, match="max_masked must lie"):
        replace(config, max_masked=1.5)
