"""A genome, and a function that trains on it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.resuming import WORDS
from support.training import TINY

from nucel.genome import demo
from nucel.train import main


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


@pytest.fixture
def start(genome, tmp_path, capsys):
    """Starts a run of a name; returns its directory. Later calls of main are the tests' own."""

    def call(name, *words):
        folder = tmp_path / name
        assert main([*WORDS, "--genome", str(genome), "--out", str(folder), *map(str, words)]) == 0
        capsys.readouterr()
        return folder

    return call
