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
from support.variants import other_base, random_bases, substitutions, write_fasta, write_vcf

from benchmarks.bench_score import memory_rows
from nucel.genome.variants import Variant
from nucel.score import main

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_pair(tmp_path_factory.mktemp("model") / "run", tiny_pair(64))


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_killed_midway_leaves_no_file(model, tmp_path, sent):
    """A kill that cannot be caught leaves a hidden temporary file, which the next start removes."""
    contigs = {"chr1": random_bases(4000, 5)}
    genome = write_fasta(tmp_path / "g.fa", contigs)
    vcf = write_vcf(tmp_path / "v.vcf", substitutions(contigs, 4000))
    command = [sys.executable, "-m", "nucel.score", model, vcf, "--genome", genome, "--out", tmp_path / "o.tsv"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*map(str, command)], env=environment, cwd=REPOSITORY, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not any(p.stat().st_size for p in tmp_path.glob(".nucel-o.tsv.*.tmp")) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(sent)
        assert process.wait(60) != 0
    assert not (tmp_path / "o.tsv").exists() and not (tmp_path / "o.tsv.json").exists()
    if sent == signal.SIGKILL:
        few = write_vcf(tmp_path / "few.vcf", [Variant("chr1", 7, contigs["chr1"][7], other_base(contigs["chr1"][7]))])
        assert main([str(model), str(few), "--genome", str(genome), "--out", str(tmp_path / "o.tsv")]) == 0
    assert not list(tmp_path.glob(".nucel-*"))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_records(tmp_path):
    """`python -m benchmarks.bench_score` measures the same for a million records."""
    _, many = memory_rows(tmp_path, (3_000, 30_000))
    assert many["peak"] > 100 and many["growth"] < 50
