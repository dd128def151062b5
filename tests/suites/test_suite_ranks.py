"""The suite on two ranks: each fit is one rank's, and the table is that of one process."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.tiny import save_tiny_model, write_task

from nucel.suite import main

pytest.importorskip("sklearn")


@pytest.mark.slow
def test_two_ranks_share_the_fits(tmp_path, capsys):
    model = save_tiny_model(tmp_path / "discriminator", seed=5)
    write_task(tmp_path / "gue" / "tf" / "0", train=48, dev=16, test=24)
    words = [str(tmp_path / "gue"), "--models", f"pretrained={model}", "--no-cnn", "--epochs", "1", "--lr", "5e-3"]
    words += ["--warmup-steps", "2", "--seeds", "0", "1", "--device", "cpu", "--out"]
    assert main([*words, str(tmp_path / "alone")]) == 0
    alone = json.loads(capsys.readouterr().out.splitlines()[-1])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "nucel.suite", *words, str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip().splitlines()) == 1
    assert json.loads(done.stdout)["fits"] == alone["fits"] == 4
    one, two = (scores(tmp_path / out / "table.tsv") for out in ("alone", "two"))
    assert one == two and len(one) == 2


def scores(table: Path) -> list[dict[str, str]]:
    """The rows without their times."""
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [
        {name: cell for name, cell in row.items() if "seconds" not in name and "_per_s" not in name} for row in rows
    ]
