"""The comparison of objectives on DNA barcodes: its trainings, its tables, and that nothing is trained twice."""

import sys

import pytest
from support.barcodes import write_set
from support.training import train_in_process

from benchmarks.experiments import barcodes, barcodes_page
from nucel.suites import barcode_protocols
from nucel.suites.barcode_protocols import ALL, NEW, ProtocolOptions, Row

pytest.importorskip("sklearn")
TINY = [
    f"--model.{network}.{name}={value}"
    for network in ("discriminator", "generator", "decoder")
    for name, value in {"layers": 1, "width": 32, "heads": 1, "intermediate": 32}.items()
]


def test_every_objective_is_trained_once_and_stands_beside_its_controls(tmp_path, monkeypatch):
    folder, out, page = write_set(tmp_path / "data" / "barcodes"), tmp_path / "out", tmp_path / "page.md"
    monkeypatch.setattr(barcodes, "train", train_in_process)
    monkeypatch.setattr(barcode_protocols, "_EPOCHS", 3)
    monkeypatch.setattr(ProtocolOptions, "chosen_reduction", "pca")
    words = [str(folder), "--out", str(out), "--seeds", "0", "--steps", "9", "--draws", "10", "--page", str(page)]
    words += ["--mega-tokens", "0.0017"]  # two steps of 4 rows of 201 tokens
    monkeypatch.setattr(sys, "argv", ["barcodes", *words, "--", "--batch-size", "4", *TINY])
    barcodes.main()
    shown = page.read_text()
    for method in ("mae", "mlm", "electra", "4-mers", "6-mers", "edit distance", "untrained"):
        assert f"\n| {method} | " in shown and f"\n| made | {method} | " in shown
    assert "\npython -m benchmarks.experiments.barcodes $NUCEL_DATA/barcodes --out out --seeds 0 " in shown
    assert str(tmp_path) not in shown
    pretraining = (out / "made" / "pretrain.fa").read_text()
    held = {line.split("\t")[1] for line in (out / "table.tsv").read_text().splitlines()[1:]}
    assert "genus of unseen species" in held and pretraining.count(">") < 27  # rows of the species that are left

    stamps = {path: path.stat().st_mtime_ns for path in [*out.rglob("summary.json"), *out.rglob("*.npz")]}
    assert len(stamps) == 3 + 7  # trainings, and evaluations of all methods
    barcodes.main()
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_means_are_over_sets_and_spread_is_over_seeds():
    def row(one: str, seed: int, rows: str, value: float) -> Row:
        return Row(one, "species", "mae", seed, rows, 9, {"accuracy": value, "f1_macro": 0.0}, 0.0, 1.0)

    rows = [row("a", 0, NEW, 0.2), row("b", 0, NEW, 0.4), row("a", 1, NEW, 0.4), row("b", 1, NEW, 0.6)]
    shown = barcodes_page.means([*rows, row("a", 0, ALL, 1.0)])
    assert shown.splitlines()[-1] == "| mae | 0.400 ± 0.141 |"
