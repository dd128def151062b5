"""A run directory through damage, full disks, kills and second writers."""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.killing import die_before

import nucel
from nucel.model.config import ElectraConfig, EncoderConfig
from nucel.objectives.electra import Electra
from nucel.pretraining.config import Recipe
from nucel.pretraining.step import make_optimizer
from nucel.runs import checkpoint, log
from nucel.runs.checkpoint import TrainState
from nucel.runs.description import GenomeDescription, RunDescription, WindowCounts
from nucel.runs.directory import RunDirectory
from nucel.runtime import environment, files
from nucel.runtime.errors import CheckpointError
from nucel.train import main

_TINY = EncoderConfig(layers=1, width=8, heads=1, intermediate=8)
_CPU = torch.device("cpu")
_RECIPE = {"batch_size": 4, "context": 32, "steps": 8, "objective": "electra", "lr": 0.1, "model": {"mask_rate": 0.15}}
_DESCRIPTION = RunDescription(
    recipe=_RECIPE,
    genome=GenomeDescription(files=["a.fa"], fingerprint="0", contigs=1, length_bp=1000),
    windows=WindowCounts(train=9, held_out=1),
    command="python -m nucel.train",
    versions={"torch": torch.__version__},
)


def begin() -> TrainState:
    electra = Electra(ElectraConfig(generator=_TINY, discriminator=_TINY)).initialize(0)
    return TrainState(electra, make_optimizer(electra, Recipe()), torch.amp.GradScaler("cpu", enabled=False))


def advance(training: TrainState) -> None:
    for parameter in training.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    training.optimizer.step()


def tensors_of(training: TrainState) -> dict[str, torch.Tensor]:
    """Copies of the weights and moments."""
    tensors = dict(training.model.state_dict())
    for number, moments in training.optimizer.state_dict()["state"].items():
        tensors |= {f"{number}.{name}": value for name, value in moments.items()}
    return {name: tensor.clone() for name, tensor in tensors.items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> tuple[RunDirectory, dict[int, dict]]:
    """A run with checkpoints of steps 1, 2 and 3, and the states that they hold."""
    run = RunDirectory(tmp_path_factory.mktemp("trained") / "run")
    run.path.mkdir()
    run.write_description(_DESCRIPTION)
    training, states = begin(), {}
    for step in (1, 2, 3):
        advance(training)
        log.append_metrics(run, {"step": step, "split": "train"})
        checkpoint.save(run, step, training, keep=3)
        states[step] = tensors_of(training)
    return run, states


@pytest.fixture
def run(trained, tmp_path) -> RunDirectory:
    return copy_of(trained[0], tmp_path / "run")


def copy_of(run: RunDirectory, target: Path) -> RunDirectory:
    return RunDirectory(shutil.copytree(run.path, target))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def steps_of(run: RunDirectory) -> list[str]:
    return sorted(path.name for path in run.checkpoints_folder.iterdir())


def of_step(run: RunDirectory, step: int) -> Path:
    return run.checkpoint(step)


# ---- damage ----------------------------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 4
    path.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "trainer cut": (lambda c: cut(c / "trainer.pt"), "trainer.pt is not what was written"),
    "trainer empty": (lambda c: (c / "trainer.pt").write_bytes(b""), "trainer.pt is not what was written"),
    "trainer's bit": (lambda c: flip_a_bit(c / "trainer.pt"), "trainer.pt is not what was written"),
    "trainer missing": (lambda c: (c / "trainer.pt").unlink(), "trainer.pt is missing"),
    "weights cut": (lambda c: cut(c / "generator/model.safetensors"), "generator/model.safetensors is not what"),
    "weights' bit": (lambda c: flip_a_bit(c / "discriminator/model.safetensors"), "discriminator/model.safetensors is"),
    "weights missing": (lambda c: (c / "discriminator/model.safetensors").unlink(), "model.safetensors is missing"),
    "network missing": (lambda c: shutil.rmtree(c / "generator"), "generator/config.json is missing"),
    "config edited": (lambda c: (c / "generator/config.json").write_text("{}"), "generator/config.json is not what"),
    "sums missing": (lambda c: (c / "SHA256SUMS").unlink(), "SHA256SUMS cannot be read"),
    "sums cut": (lambda c: cut(c / "SHA256SUMS"), "SHA256SUMS is not a list"),
    "sums cut after a line": (lambda c: os.truncate(c / "SHA256SUMS", 91), "SHA256SUMS does not list trainer.pt"),
    "sums damaged": (lambda c: (c / "SHA256SUMS").write_bytes(b"\xff\x00 what\n"), "SHA256SUMS is not a list"),
    "all missing": (lambda c: [shutil.rmtree(c), c.mkdir()], "SHA256SUMS cannot be read"),
    "another step": (lambda c: [shutil.rmtree(c), shutil.copytree(c.with_name("step-00000001"), c)], "it holds step 1"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(kind, run, trained):
    damage, reason = DAMAGES[kind]
    damage(of_step(run, 3))
    before, damaged = contents(run.path), contents(of_step(run, 3))
    training = begin()
    restored = checkpoint.restore(run, training, _CPU)
    assert restored.step == 2 and equal(tensors_of(training), trained[1][2])
    (warning,) = restored.warnings
    assert str(of_step(run, 3)) in warning and reason in warning
    assert contents(run.path) == before

    checkpoint.rewind(run, 2)
    assert steps_of(run) == ["step-00000001", "step-00000002", "step-00000003.damaged"]
    assert contents(run.path / "checkpoints" / "step-00000003.damaged") == damaged
    assert [line["step"] for line in log.read_metrics(run)] == [1, 2]
    published = load_file(run.path / "discriminator" / "model.safetensors")
    assert torch.equal(published["classifier.weight"][1:], trained[1][2]["discriminator.classifier.weight"])

    advance(training)
    checkpoint.save(run, 3, training, keep=2)
    assert checkpoint.restore(run, begin(), _CPU) == (3, ())
    assert equal(tensors_of(training), trained[1][3])
    assert steps_of(run) == ["step-00000002", "step-00000003", "step-00000003.damaged"]


def test_checkpoints_are_skipped_until_one_is_intact(run, trained):
    for step in (2, 3):
        cut(of_step(run, step) / "trainer.pt")
    training = begin()
    restored = checkpoint.restore(run, training, _CPU)
    assert restored.step == 1 and equal(tensors_of(training), trained[1][1])
    assert [f"step-0000000{n}" in warning for n, warning in zip((3, 2), restored.warnings, strict=True)] == [True, True]


def test_without_an_intact_checkpoint_all_are_named_and_nothing_is_loaded_or_deleted(run):
    for step, name in ((1, "trainer.pt"), (2, "SHA256SUMS"), (3, "generator/model.safetensors")):
        (of_step(run, step) / name).unlink()
    before, training = contents(run.path), begin()
    state = tensors_of(training)
    with pytest.raises(CheckpointError) as error:
        checkpoint.restore(run, training, _CPU)
    assert all(f"step-0000000{step} is skipped: " in str(error.value) for step in (1, 2, 3))
    assert equal(tensors_of(training), state) and contents(run.path) == before


@pytest.mark.parametrize(
    ("key", "value"),
    [("recipe", {**_RECIPE, "lr": 0.2}), ("genome", replace(_DESCRIPTION.genome, files=["b.fa"], fingerprint="1"))],
)
def test_a_checkpoint_of_another_run_is_not_continued(run, tmp_path, key, value):
    other, training = RunDirectory(tmp_path / "other"), begin()
    other.path.mkdir()
    other.write_description(replace(_DESCRIPTION, **{key: value}))
    advance(training)
    shutil.copytree(checkpoint.save(other, 4, training, keep=1), of_step(run, 4))
    restored = checkpoint.restore(run, begin(), _CPU)
    assert restored.step == 3 and "step-00000004 is skipped: it is of another run" in restored.warnings[0]


def test_a_kept_checkpoint_is_never_a_damaged_one(run):
    """With --keep 1, a damaged checkpoint with a higher number must not push out the intact one."""
    cut(of_step(run, 3) / "trainer.pt")
    training = begin()
    checkpoint.rewind(run, checkpoint.restore(run, training, _CPU).step)
    cut(of_step(run, 2) / "trainer.pt")  # while the run goes on: the step is written anew all the same
    checkpoint.save(run, 2, training, keep=1)
    assert checkpoint.restore(run, begin(), _CPU) == (2, ())
    assert steps_of(run) == ["step-00000002", "step-00000002.damaged", "step-00000003.damaged"]


def test_a_step_is_saved_once(run):
    before = contents(run.path / "checkpoints")
    training = begin()
    checkpoint.restore(run, training, _CPU)
    checkpoint.save(run, 3, training, keep=3)
    assert contents(run.path / "checkpoints") == before


def test_a_checkpoint_says_what_it_is_of(run):
    state = torch.load(of_step(run, 3) / "trainer.pt", weights_only=True)
    assert state["run"] == _DESCRIPTION.as_json() and state["step"] == 3
    assert state["versions"]["torch"] == torch.__version__ and state["versions"]["gpu"] is None


def test_other_versions_are_announced(run, monkeypatch):
    changed = {**environment.versions(_CPU), "torch": "9.9"}
    monkeypatch.setattr(checkpoint, "versions", lambda device: changed)
    restored = checkpoint.restore(run, begin(), _CPU)
    assert restored.step == 3
    assert f"torch: the run has {torch.__version__}, given is 9.9" in restored.warnings[0]


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs coreutils")
def test_sha256sum_checks_a_checkpoint(run):
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    assert subprocess.run(command, cwd=of_step(run, 3), capture_output=True).returncode == 0
    assert len((of_step(run, 3) / "SHA256SUMS").read_text().splitlines()) == 9
    flip_a_bit(of_step(run, 3) / "trainer.pt")
    assert subprocess.run(command, cwd=of_step(run, 3), capture_output=True).returncode == 1


def test_what_is_published_can_be_edited_without_harm_to_a_checkpoint(run):
    training = begin()
    checkpoint.restore(run, training, _CPU)
    advance(training)
    shutil.rmtree(run.path / "generator")  # one folder is published anew, one replaced
    checkpoint.save(run, 4, training, keep=1)
    for network in ("generator", "discriminator"):
        for file in (run.path / network).iterdir():
            with open(file, "r+b") as opened:  # in place, as a hard link would pass on
                opened.write(b"\0" * 100)
    assert checkpoint.restore(run, begin(), _CPU) == (4, ())


# ---- a trainer.pt that was crafted -----------------------------------------------------------------------------------


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
    restored = checkpoint.restore(run, training, _CPU)
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
    assert checkpoint.restore(run, training, _CPU) == (3, ())
    assert equal(tensors_of(training), trained[1][3])
    assert [group["lr"] for group in training.optimizer.param_groups] == [Recipe().lr] * 2


@pytest.mark.parametrize("content", [b"", b"\x80\x02.", b"PK\x03\x04", b"cos\nsystem\n(S'false'\ntR."])
def test_a_trainer_pt_that_torch_did_not_write_is_named_and_skipped(run, content):
    (of_step(run, 3) / "trainer.pt").write_bytes(content)
    (of_step(run, 3) / "SHA256SUMS").unlink()
    files.write_sums(of_step(run, 3))
    restored = checkpoint.restore(run, begin(), _CPU)
    assert restored.step == 2 and "trainer.pt cannot be read by torch" in restored.warnings[0]


# ---- a disk that fills up --------------------------------------------------------------------------------------------


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["trainer.pt", "SHA256SUMS", "model.safetensors", "config.json"])
def test_a_full_disk_leaves_the_last_checkpoint_and_says_so(run, trained, monkeypatch, name):
    """A file of the new checkpoint is /dev/full, whose every write fails as on a full disk."""
    training = begin()
    checkpoint.restore(run, training, _CPU)
    advance(training)
    before = contents(run.path)
    real = builtins.open, Path.open

    def full(path, *arguments, open, **options):
        writing = "w" in (arguments[0] if arguments else options.get("mode", "r"))
        return open("/dev/full" if writing and Path(path).name == name else path, *arguments, **options)

    monkeypatch.setattr(builtins, "open", lambda path, *a, **o: full(path, *a, open=real[0], **o))
    monkeypatch.setattr(Path, "open", lambda path, *a, **o: full(path, *a, open=real[0], **o))
    with pytest.raises(CheckpointError) as error:
        checkpoint.save(run, 4, training, keep=1)
    monkeypatch.undo()
    message = str(error.value)
    assert "the checkpoint of step 4 could not be written" in message and "No space left on device" in message
    assert "It needs 0.0 MiB" in message and f"The last good checkpoint is {of_step(run, 3)}" in message
    assert f"go on with: python -m nucel.train --resume {run}" in message
    assert contents(run.path) == before
    checkpoint.save(run, 4, training, keep=1)
    assert steps_of(run) == ["step-00000004"]


class Filling(io.BytesIO):
    """A file on a disk that has room for 20 kB."""

    def write(self, data) -> int:
        if self.tell() + len(data) > 20_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


def test_a_disk_that_fills_up_in_the_middle_of_a_file():
    """torch then finds its archive inconsistent, and raises an error about that in place of the first."""
    with pytest.raises(OSError, match="No space left on device"):
        checkpoint._save_state({"moments": torch.zeros(100_000)}, Filling())


@pytest.mark.parametrize("first", [False, True])
def test_a_full_disk_while_the_weights_are_published(run, monkeypatch, first):
    """The checkpoint is whole by then: the run's own copy stays the old one, and the next start makes it new."""
    training = begin()
    checkpoint.restore(run, training, _CPU)
    advance(training)
    if first:
        shutil.rmtree(run.path / "discriminator")
    before = contents(run.path / "discriminator")

    def full(source, target):
        Path(target).write_bytes(Path(source).read_bytes()[:50])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "copyfile", full)
        message = "the copy of the newest weights could not be written to .*: No space left on device"
        with pytest.raises(CheckpointError, match=message):
            checkpoint.save(run, 4, training, keep=2)
    assert contents(run.path / "discriminator") == before and not list(run.path.rglob("*.tmp"))
    assert checkpoint.restore(run, begin(), _CPU) == (4, ())
    checkpoint.rewind(run, 4)
    assert contents(run.path / "discriminator") == contents(of_step(run, 4) / "discriminator") != before


_FULL_DISK = """
import os, subprocess, sys, threading, time
from pathlib import Path
from nucel.train import main
disk, words = Path(sys.argv[1]), sys.argv[2:]
if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", disk], capture_output=True).returncode:
    sys.exit(77)

def fill():
    while not (disk / "run" / "checkpoints" / "step-00000002").exists():
        time.sleep(1e-3)
    with open(disk / "filler", "wb", buffering=0) as file:
        while file.write(bytes(1 << 12)):
            pass

threading.excepthook = lambda error: None  # the disk is full
threading.Thread(target=fill, daemon=True).start()
codes = [main([*words, "--out", str(disk / "run"), "--steps", "200", "--save-every", "2"])]
left = sorted(path.name for path in disk.rglob("*") if path.suffix == ".tmp")
(disk / "filler").unlink()
codes.append(main([*words, "--out", str(disk / "run"), "--steps", "200", "--stop-after", "30"]))
print("ended", codes, left)
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs util-linux")
def test_a_trainer_on_a_disk_that_others_fill_stops_and_continues_when_there_is_room(tmp_path):
    """A small file system of its own, in a namespace of its own."""
    settings = {
        "context": 32, "window-bp": 40, "overlap-bp": 8, "batch-size": 4, "device": "cpu", "resume": "auto",
        "validation-windows": 4, "log-every": 100, "model.generator.width": 16, "model.generator.heads": 1,
        "model.discriminator.width": 32, "model.discriminator.heads": 1,
    }  # fmt: skip
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", _FULL_DISK, str(tmp_path)]
    result = subprocess.run([*command, *words], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    if result.returncode == 77 or "unshare" in result.stderr:
        pytest.skip("no namespaces here")
    assert result.stdout.splitlines()[-1] == "ended [2, 0] []", result.stderr
    assert "No space left on device" in result.stderr and "MiB are free" in result.stderr
    assert "The last good checkpoint is" in result.stderr and "Traceback" not in result.stderr
    assert "continuing after step" in result.stderr and "skipped" not in result.stderr


def test_room_is_asked_for_what_is_not_there_yet(run, monkeypatch):
    electra = begin().model
    weights = 4 * sum(p.numel() for p in electra.parameters())
    for keep, copies in ((1, 4), (3, 4), (4, 7)):  # of the weights: three for each checkpoint, and the published ones
        for free in (copies * weights - 1, copies * weights):
            monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path, n=free: type("Usage", (), {"free": n}))
            refused = pytest.raises(CheckpointError, match="its checkpoints need")
            with refused if free < copies * weights else contextlib.nullcontext():
                checkpoint.require_space(run, electra, keep)


# ---- a kill at any moment --------------------------------------------------------------------------------------------


def killed_at(moment: int, run: RunDirectory, work: Callable[[], object]) -> bool:
    """Does the work in a forked process that is killed before its n-th change to the directory; False if it ended."""
    child = os.fork()
    if child == 0:
        die_before(moment, run.path)
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.fixture
def without_fsync(monkeypatch):
    """A kill loses nothing that the system holds: flushing would only take time here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def assert_readable(run: RunDirectory, states: dict[int, dict]) -> int:
    """All that a reader may come upon is whole; returns the step that a resume would continue after."""
    for path in (run.path / "checkpoints").glob("step-????????"):
        assert files.damage(path, ("trainer.pt",)) == []
    training = begin()
    step, warnings = checkpoint.restore(run, training, _CPU)
    assert warnings == () and equal(tensors_of(training), states[step])
    for name in ("discriminator", "generator"):
        weights = load_file(run.path / name / "model.safetensors")
        if name == "discriminator":  # its directory has a row for "replaced" before the one that is trained
            weights |= {key: weights[key][1:] for key in ("classifier.weight", "classifier.bias")}
        assert any(all(torch.equal(weights[k], s[f"{name}.{k}"]) for k in weights) for s in states.values())
    nucel.load(run.path)
    log.read_metrics(run)
    return step


def test_a_kill_at_any_moment_of_a_save_leaves_the_old_checkpoint_or_the_new(run, trained, tmp_path, without_fsync):
    training = begin()
    checkpoint.restore(run, training, _CPU)
    advance(training)
    states = {3: trained[1][3], 4: tensors_of(training)}
    for step in (1, 2):
        shutil.rmtree(of_step(run, step))
    steps = []
    for moment in itertools.count():
        work = copy_of(run, tmp_path / "killed")
        killed = killed_at(moment, work, lambda work=work: checkpoint.save(work, 4, training, keep=1))
        steps.append(assert_readable(work, states))
        checkpoint.rewind(work, steps[-1])
        checkpoint.save(work, 4, training, keep=1)
        assert steps_of(work) == ["step-00000004"] and files.damage(of_step(work, 4)) == []
        assert contents(work.path / "generator") == contents(of_step(work, 4) / "generator")
        assert not list(work.path.rglob("*.tmp"))
        shutil.rmtree(work.path)
        if not killed:
            break
    assert steps == sorted(steps) and set(steps) == {3, 4} and len(steps) > 30


def test_a_kill_at_any_moment_of_a_resume_changes_nothing_of_it(run, trained, tmp_path, without_fsync):
    cut(of_step(run, 3) / "trainer.pt")
    files.temporary_name(of_step(run, 4)).mkdir()
    for moment in itertools.count():
        work = copy_of(run, tmp_path / "killed")
        killed = killed_at(moment, work, lambda work=work: checkpoint.rewind(work, 2))
        training = begin()
        step, _ = checkpoint.restore(work, training, _CPU)
        assert step == 2 and equal(tensors_of(training), trained[1][2])
        nucel.load(work.path)
        checkpoint.rewind(work, 2)
        assert steps_of(work) == ["step-00000001", "step-00000002", "step-00000003.damaged"]
        assert_readable(work, trained[1])
        shutil.rmtree(work.path)
        if not killed:
            break
    assert moment > 6


def test_a_kill_at_any_moment_of_the_first_save_leaves_no_half_model(trained, tmp_path, without_fsync):
    training = begin()
    advance(training)
    states_seen = set()
    for moment in itertools.count():
        work = RunDirectory(tmp_path / "killed")
        work.path.mkdir()
        work.write_description(_DESCRIPTION)
        killed = killed_at(moment, work, lambda work=work: checkpoint.save(work, 1, training, keep=1))
        states_seen.add((work.has_checkpoint(), (work.path / "discriminator").exists()))
        if (work.path / "discriminator").exists():
            nucel.load(work.path)
        if work.has_checkpoint():
            assert checkpoint.restore(work, begin(), _CPU) == (1, ())
        checkpoint.rewind(work, work.newest_step())
        checkpoint.save(work, 1, training, keep=1)
        assert_readable(work, trained[1])
        assert not list(work.path.rglob("*.tmp"))
        shutil.rmtree(work.path)
        if not killed:
            break
    assert states_seen == {(False, False), (True, False), (True, True)}


def test_a_power_cut_finds_on_the_disk_what_a_name_promises(run, monkeypatch):
    """Before a rename all files below it have been flushed since they were written, after it the folder is."""
    training = begin()
    checkpoint.restore(run, training, _CPU)
    advance(training)
    flushed: dict[int, int] = {}  # inode: its last change when it was flushed
    owed = set()  # folders whose names are not on the disk yet
    renamed = []

    def fsync(descriptor):
        status = os.fstat(descriptor)
        flushed[status.st_ino] = status.st_mtime_ns
        owed.discard(status.st_ino)
        real["fsync"](descriptor)

    def rename(source, target, real):
        source, target = Path(source), Path(target)
        if ".tmp" in source.name:
            assert not owed, "another rename still waits for its folder"
            for path in [source, *source.rglob("*")]:
                assert flushed.get(path.stat().st_ino) == path.stat().st_mtime_ns, f"{path} was not flushed"
        real(source, target)
        owed.add(target.parent.stat().st_ino)
        renamed.append(target.name)

    def remove(path, *, real, **options):
        assert not owed, "something is removed before its successor is on the disk"
        real(path, **options)

    real = {name: getattr(os, name) for name in ("fsync", "rename", "replace", "unlink")}
    monkeypatch.setattr(os, "fsync", fsync)
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, lambda source, target, n=name: rename(source, target, real[n]))
    monkeypatch.setattr(os, "unlink", lambda path, **options: remove(path, real=real["unlink"], **options))
    shutil.rmtree(run.path / "generator")  # so that one folder is published anew, and one replaced
    checkpoint.save(run, 4, training, keep=1)
    cut(of_step(run, 4) / "trainer.pt")
    checkpoint.save(run, 4, training, keep=1)
    checkpoint.rewind(run, 4)
    assert not owed and {"step-00000004", "generator", "model.safetensors", "metrics.jsonl"} <= set(renamed)


# ---- one writer ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def held_by_another_process(run: RunDirectory):
    """A process that holds the lock until it is killed at the end; yields its id."""
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        with run.locked(lambda message: None):
            os.write(told, b"!")
            signal.pause()
    os.read(ready, 1)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(told)


def test_a_second_writer_is_refused_until_the_first_is_killed(run):
    before = contents(run.path)
    with held_by_another_process(run) as holder:
        for _ in range(2):
            with pytest.raises(CheckpointError, match=f"in use by process {holder} on "), run.locked(print):
                pytest.fail("two hold the lock")
    assert (run.path / "lock").exists()  # as the kill left it
    refused = pytest.raises(CheckpointError, match=f"in use by process {os.getpid()} on ")
    with run.locked(print), refused, run.locked(print):
        pytest.fail("two hold the lock")
    assert contents(run.path) == before


def test_a_second_trainer_is_refused(run, capsys):
    before = contents(run.path)
    with held_by_another_process(run) as holder:
        assert main(["--out", str(run), "--resume", "auto", "--device", "cpu"]) == 2
        assert f"{run} is in use by process {holder} on " in " ".join(capsys.readouterr().err.split())
    (run.path / "lock").unlink()
    assert contents(run.path) == before


def test_the_lock_can_be_taken_again_after_an_error(run):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), run.locked(print):
            raise ZeroDivisionError
    assert not (run.path / "lock").exists()


def test_a_lock_that_was_removed_while_it_was_opened_is_not_taken(run, monkeypatch):
    """Between opening and locking, its holder may remove the file and a third may make and lock a new one."""
    path, opened = run.path / "lock", []
    real = files.fcntl.flock

    def flock(descriptor, operation):
        opened.append(descriptor)
        if len(opened) == 1:
            path.unlink()
        real(descriptor, operation)

    monkeypatch.setattr(files.fcntl, "flock", flock)
    descriptor = files.lock(path)
    assert len(opened) == 2 and os.path.samestat(path.stat(), os.fstat(descriptor))
    os.close(descriptor)


def test_where_there_are_no_locks_the_run_goes_on_and_says_so(run, monkeypatch):
    said = []
    monkeypatch.setattr(files, "fcntl", None)
    with run.locked(said.append):
        pass
    assert f"No lock is taken on {run}: this system has no flock" in said[0]


def test_a_file_system_without_locks_is_announced(run, monkeypatch):
    said = []

    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files.fcntl, "flock", flock)
    with run.locked(said.append):
        pass
    assert "its file system has no locks" in said[0]


def test_a_directory_in_which_no_run_began_is_removed_if_it_was_made_for_it(tmp_path):
    for existed in (False, True):
        run = RunDirectory(tmp_path / f"{existed}")
        if existed:
            run.path.mkdir()
        with pytest.raises(ZeroDivisionError), run.locked(print):
            (run.path / "demo.fa").touch()
            raise ZeroDivisionError
        assert run.path.exists() == existed and run.is_unused()
    (run.path / "thesis.tex").touch()
    assert not run.is_unused()
