"""What the trainer refuses, and that it then leaves everything as it was."""

from __future__ import annotations

import gzip
import json
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
from support.training import REPOSITORY, TINY, assert_same_state

from nucel.genome import demo
from nucel.genome.fasta import Genome
from nucel.pretraining.config import PRESETS, Recipe, TrainConfig
from nucel.pretraining.setup import describe, windows_of
from nucel.pretraining.stored import recipe_of
from nucel.runtime.device import Precision
from nucel.runtime.errors import ConfigError
from nucel.train import main


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
    added = ["init_from", "window", "drop_gaps"]
    assert sorted(Recipe.__dataclass_fields__) == sorted([*stored.split(), *added])
    recipe = recipe_of(PRESETS["debug"](), Precision(torch.device("cpu"), torch.float32))
    model = ["generator", "discriminator", "mask_rate", "temperature", "discriminator_weight", "tie_embeddings"]
    assert recipe["model"].keys() == {*model, "decoder", "mask_span"}
    # What is null is no difference to what is missing.
    assert all(recipe[name] is None for name in added)
    assert recipe["model"]["decoder"] is None and recipe["model"]["mask_span"] is None


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
