"""docs/barcodes.md: its flags exist, its presets are as it says, and its lines of Python find the nearest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.tiny import save_tiny_model

from nucel.embed.__main__ import main as embed
from nucel.pretraining.config import PRESETS
from nucel.train import parse

PAGE = (Path(__file__).parents[2] / "docs" / "barcodes.md").read_text(encoding="utf-8")


def test_its_commands_are_understood():
    commands = re.findall(r"python -m nucel\.train (.+)", PAGE)
    assert len(commands) == 4
    for command in commands:
        config = parse(command.split("`")[0].split())
        assert config.window == "record" and config.drop_gaps and config.context == 661


def test_its_flags_are_those_of_the_presets():
    rows = dict(re.findall(r"^\| `--([a-z.-]+)(?: (\S+))?` \|", PAGE, flags=re.MULTILINE))
    assert len(rows) == 7
    for preset in ("barcode", "barcode-small"):
        config = PRESETS[preset]()
        values = {
            "objective": config.objective, "model.mask-span": str(config.model.mask_span),
            "model.mask-rate": str(config.model.mask_rate), "window": config.window, "drop-gaps": "",
            "no-augment-reverse-complement": "", "hold-out-fraction": str(config.hold_out_fraction),
        }  # fmt: skip
        assert rows == values and config.drop_gaps and not config.reverse_complement


def test_its_lines_find_the_nearest(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_tiny_model(tmp_path / "model")
    Path("barcodes.fa").write_text(">one\nACGTACGTTTGACA\n>two\nCCCCCCGGGGGGAC\n")
    Path("queries.fa").write_text(">query\nCCCCCCGGGGGGAC\n>other\nACGTACGTTTGACA\n")
    for command in re.findall(r"python -m nucel\.embed runs/barcodes (.+)", PAGE):
        assert embed([str(tmp_path / "model"), *command.split()]) == 0
    capsys.readouterr()
    (lines,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(lines, {})
    found = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in found] == [["query", "two"], ["other", "one"]]
    assert [float(line[2]) for line in found] == pytest.approx([1, 1])
