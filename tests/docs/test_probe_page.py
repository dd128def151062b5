"""The command and the Python lines of docs/probe.md run as they stand, and its tables name what there is."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import pytest
from support.tiny import save_tiny_model, write_task

from nucel.probe import main
from nucel.tasks.cnn_heads import _REDUCED
from nucel.tasks.probe import HEADS

PAGE = (Path(__file__).parents[2] / "docs" / "probe.md").read_text(encoding="utf-8")


def test_the_page_s_command_and_its_python_run(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    write_task(tmp_path, 40, 20, 30)
    (tmp_path / "runs").mkdir()
    save_tiny_model(tmp_path / "runs" / "ecoli")
    monkeypatch.chdir(tmp_path)
    (command,) = re.findall(r"python -m nucel\.probe (runs.*)", PAGE)
    assert main([*shlex.split(command), "--seeds", "0", "--heads", "linear", "--device", "cpu"]) == 0
    with open("probes/table.tsv") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert {"test_mcc_sd", "leaked", "leaked_reverse"} <= rows[0].keys()
    assert all(f"\n| {row['features']} |" in PAGE for row in rows)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    namespace: dict = {}
    exec(code, namespace)
    assert namespace["probe"].predict(["ACGT"]).shape == (1, 2)


def test_heads_and_forms_are_all_named():
    named = set(re.findall(r"^\| `(\w+)`", PAGE, re.MULTILINE))
    assert {*HEADS, *_REDUCED, "splice", "residualbind"} <= named
