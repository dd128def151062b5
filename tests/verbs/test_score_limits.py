"""`python -m nucel.score` when it is killed, and when there are very many records."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.pair import save_pair, tiny_pair
from support.variants import random_bases, substitutions, write_fasta, write_vcf

from benchmarks.bench_score import memory_rows
from nucel.score import main

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_pair(tmp_path_factory.mktemp("model") / "run", tiny_pair(64))


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_killed_midway_leaves_no_file(model, tmp_path, sent):
    """Only the finished parts stay; the same command goes on from them and leaves nothing but its output."""
    contigs = {"chr1": random_bases(5000, 5)}
    genome = write_fasta(tmp_path / "g.fa", contigs)
    variants = substitutions(contigs, 5000)  # several parts, so that the signal comes before the end on a busy machine
    vcf = write_vcf(tmp_path / "v.vcf", variants)
    words = [str(word) for word in (model, vcf, "--genome", genome, "--scores", "rtd", "--out", tmp_path / "o.tsv")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "nucel.score", *words]
    with subprocess.Popen(command, env=environment, cwd=REPOSITORY, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not any(tmp_path.glob("o.tsv.parts/*.npz")) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(sent)
        assert process.wait(60) != 0
    assert {path.name for path in tmp_path.iterdir()} == {"g.fa", "v.vcf", "o.tsv.parts"}
    assert main(words) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"g.fa", "v.vcf", "o.tsv", "o.tsv.json"}
    assert len((tmp_path / "o.tsv").read_text().splitlines()) == 1 + len(variants)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_records(tmp_path):
    """`python -m benchmarks.bench_score` measures the same for a million records."""
    _, many = memory_rows(tmp_path, (3_000, 30_000))
    assert many["peak"] > 100 and many["growth"] < 50
