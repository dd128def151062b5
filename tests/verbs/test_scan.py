"""``python -m nucel.scan``: a genome's surprise as transformers computes it, resumed, shared, and refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.genomes import random_bases, wrap, write
from support.tiny import TINY, save_tiny_model

from nucel import scan
from nucel.genome.fasta import Genome
from nucel.inference.tiles import Tiles
from nucel.interpretation import surprise as surprise_module
from nucel.model import hub
from nucel.model.networks import Generator, initialize
from nucel.tokenizers import nucleotide

pyBigWig = pytest.importorskip("pyBigWig")
CONTEXT = 64


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "discriminator", context=CONTEXT, seed=3)


@pytest.fixture(scope="module")
def genome(tmp_path_factory) -> Path:
    """Contigs longer and shorter than the context, of one base, soft-masked, and with unknown bases."""
    long, short = random_bases(1000, 1), random_bases(40, 2)
    long = long[:300] + "NNNNN" + long[305:500].lower() + "R" + long[501:]
    text = f">long\n{wrap(long)}>empty\n>short\n{wrap(short)}>one\nA\n>exact\n{wrap(random_bases(63, 4))}"
    return write(tmp_path_factory.mktemp("genome") / "g.fa", text)


@pytest.fixture
def run(model, genome, tmp_path, capsys, monkeypatch):
    """Scans; returns the exit status, the summary or None, stderr, and the values of each contig."""
    monkeypatch.setattr(surprise_module, "_PART_BP", 150)

    def call(*words, model=model, genome=genome, out=tmp_path / "x.bw"):
        status = scan.main([str(word) for word in (model, "--genome", genome, "--out", out, *words)])
        captured = capsys.readouterr()
        summary = json.loads(captured.out.splitlines()[-1]) if status == 0 else None
        return status, summary, captured.err, read(out) if status == 0 else None

    return call


def read(path: Path) -> dict[str, np.ndarray]:
    track = pyBigWig.open(str(path))
    return {name: np.array(track.values(name, 0, length)) for name, length in track.chroms().items()}


@pytest.mark.interop
def test_every_base_is_what_transformers_says(run, model, genome):
    """-ln P(original) of one tile at a time, by softmax over the labels of transformers' network."""
    transformers = pytest.importorskip("transformers")
    network = transformers.AutoModelForTokenClassification.from_pretrained(model).eval()
    original = network.config.label2id["original"]
    status, summary, _, tracks = run("--overlap-bp", 16)
    assert status == 0 and set(tracks) == {"long", "short", "one", "exact"}

    def surprise(tokens: np.ndarray) -> np.ndarray:
        ids = torch.tensor([[nucleotide.CLS, *tokens.tolist()]])
        with torch.no_grad():
            return -network(ids, attention_mask=torch.ones_like(ids)).logits.log_softmax(-1)[0, 1:, original].numpy()

    opened = Genome(genome)
    compared = 0
    for name, values in tracks.items():
        tokens = opened.fetch(name)
        expected = np.full(len(tokens), np.nan)
        for tile in Tiles(len(tokens), CONTEXT - 1, 16):
            bases = tokens[tile.start : tile.end]
            both = (surprise(bases) + surprise(nucleotide.reverse_complement(bases))[::-1]) / 2
            expected[tile.keep_start : tile.keep_end] = both[tile.keep_start - tile.start : tile.keep_end - tile.start]
        known = np.isin(tokens, nucleotide.BASES)
        assert (np.isfinite(values) == known).all()
        np.testing.assert_allclose(values[known], expected[known], rtol=1e-4, atol=1e-5)
        compared += int(known.sum())
    assert summary["bases"] == compared > 1000 and 0.3 < summary["mean_surprise"] < 2


def test_a_genome_and_its_reverse_complement_have_one_track(run, genome, tmp_path):
    opened = Genome(genome)
    lines = [
        f">{n}\n{nucleotide.decode(opened.fetch(n, strand='-'))}\n" for n in opened.contigs if len(opened.fetch(n))
    ]
    other = write(tmp_path / "other.fa", "".join(lines))
    forward, backward = run()[3], run(genome=other, out=tmp_path / "y.bw")[3]
    for name, values in forward.items():
        close = np.isclose(values, backward[name][::-1], rtol=1e-4, atol=1e-5, equal_nan=True)
        # An odd number of tiles over an odd number of bases has a middle one that is not the same from both ends.
        assert close.all() if len(Tiles(len(values), CONTEXT - 1, CONTEXT // 4)) % 2 == 0 else close.mean() > 0.9
    single = run("--no-average-reverse-complement", out=tmp_path / "z.bw")[3]
    assert not np.allclose(single["short"], forward["short"])


def test_batches_and_parts_change_nothing(run, tmp_path, monkeypatch):
    one = run()[3]
    monkeypatch.setattr(surprise_module, "_PART_BP", 10_000)
    other = run("--batch-tokens", 1, out=tmp_path / "y.bw")[3]
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-5)


def test_a_scan_that_died_goes_on(run, tmp_path, monkeypatch):
    whole = run(out=tmp_path / "whole.bw")[3]
    calls = []

    def dies(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise OSError("the disk is gone")
        return surprise_module.surprise(*arguments)

    monkeypatch.setattr(scan, "surprise", dies)
    status, _, stderr, _ = run()
    assert status == 2 and "the disk is gone" in stderr and not (tmp_path / "x.bw").exists()
    assert len(list((tmp_path / "x.bw.parts").glob("*.npz"))) == 3
    status, _, stderr, _ = run("--overlap-bp", 3)
    assert status == 2 and "is of another scan:\n  overlap_bp: the run has None, given is 3" in stderr
    before = len(calls)
    status, _, _, tracks = run()
    assert status == 0 and not (tmp_path / "x.bw.parts").exists()
    assert len(calls) - before == len(list(parts(whole))) - 3
    for name in whole:
        np.testing.assert_array_equal(tracks[name], whole[name])


def parts(tracks):
    """As many as the fixture's size of a part makes of these contigs, with tiles of 63 bases, 16 shared."""
    for values in tracks.values():
        tiles = 1 + max(0, -(-(len(values) - 63) // 47))
        yield from range(-(-tiles // 3))


def test_chosen_contigs_and_runs_that_stand_out(run, tmp_path):
    status, summary, _, tracks = run("--contigs", "!long", "--bed", tmp_path / "a.bed", "--threshold", "0.1",
                                     "--bin-bp", 10, "--smooth-bp", 10)  # fmt: skip
    assert status == 0 and set(tracks) == {"short", "one", "exact"}
    lines = [line.split("\t") for line in (tmp_path / "a.bed").read_text().splitlines()]
    assert summary["anomalies"] == len(lines) > 0 and all(line[0] in tracks for line in lines)


@pytest.mark.slow
def test_two_ranks_write_the_same(run, model, genome, tmp_path):
    alone = run()[3]
    words = ["-m", "nucel.scan", str(model), "--genome", str(genome), "--out", str(tmp_path / "two.bw")]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*torchrun, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip().splitlines()) == 1 and json.loads(done.stdout)["bases"] > 1000
    for name, values in read(tmp_path / "two.bw").items():
        np.testing.assert_allclose(values, alone[name], rtol=1e-4, atol=1e-5)


def test_models_without_a_discriminator_and_other_files_are_refused(run, tmp_path):
    generator = Generator(TINY)
    initialize(generator, torch.Generator().manual_seed(0))
    hub.save(generator, tmp_path / "generator")
    status, _, stderr, _ = run(model=tmp_path / "generator")
    assert status == 2 and "is a masked language model; surprise needs a discriminator" in stderr
    status, _, stderr, _ = run(out=tmp_path / "x.txt")
    assert status == 2 and "--out must end with .bw" in stderr
    (tmp_path / "x.bw.parts").mkdir()
    (tmp_path / "x.bw.parts" / "mine").write_text("mine")
    status, _, stderr, _ = run()
    assert status == 2 and "is not of a scan; move it away" in stderr
    status, _, stderr, _ = run("--overlap-bp", 63, out=tmp_path / "y.bw")
    assert status == 2 and "overlap_bp must be below the 63 bases of a tile, got 63" in stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["generator", "x.bw.parts"]
