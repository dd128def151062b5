"""The commands of docs/report.md run as they stand, and what the page says of the answer is what the code says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from support.tiny import write_task
from support.tiny_run import MODEL, write_genome

from nucel import report, train
from nucel.genome.markov import ORDERS
from nucel.suites.report_page import answer
from nucel.suites.report_sections import Comparison, Figure

PAGE = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_its_commands_run(tmp_path, monkeypatch):
    for library in ("matplotlib", "logomaker", "sklearn"):
        pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    write_task(tmp_path / "tasks" / "one", 40, 20, 30)
    assert train.main([*MODEL, "--steps", "1", "--genome", str(write_genome(Path("a.fa"))), "--out", "runs/ecoli"]) == 0
    commands = re.findall(r"^python -m nucel\.report (.+)$", PAGE, flags=re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        assert report.main([*shlex.split(command), "--seeds", "0", "--logos", "1", "--device", "cpu"]) == 0
        assert Path("runs/ecoli/report.html").stat().st_size > 20_000


def test_the_words_of_the_answer_are_those_of_the_page():
    named = re.findall(r"^\| (\w[\w ]*) \| (?:on|there)", PAGE, flags=re.MULTILINE)
    gains = {"Yes": [0.1, 0.1], "In part": [0.1, -0.1], "No": [-0.1, -0.1], "Open": []}
    assert named == list(gains)
    for word, lows in gains.items():
        found = [
            Comparison.of(f"task {i}", "MCC", "one-hot", Figure(0.5), Figure(0.4), Figure(0.1, low, 0.3))
            for i, low in enumerate(lows)
        ]
        assert answer(found).headline.startswith(f"{word}: ")
    assert f"orders {ORDERS[0]} to {ORDERS[-1]}" in PAGE
