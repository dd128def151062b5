"""``python -m nucel.interpret motif-order``: every network and control in one table, as the functions compute them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.tiny import save_tiny_model

import nucel
from nucel import interpret
from nucel.interpretation.motif_order import SequencePairs, aligned, attention_received, draw_sequences, signal_to_noise
from nucel.suites import motif_order as suite

pytest.importorskip("matplotlib")
SMALL = ("--length-bp", 100, "--min-gap-bp", 20, "--sizes", 32, 16, 24, "--aligned-sequences", 10, "--epochs", 2)


@pytest.fixture
def call(tmp_path, capsys):
    """Runs the sub-command; returns the exit status, the summary or None, and stderr."""
    model = save_tiny_model(tmp_path / "model", context=128)

    def run(*words):
        status = interpret.main([str(word) for word in ("motif-order", model, "--out", tmp_path / "out", *words)])
        captured = capsys.readouterr()
        return status, json.loads(captured.out.splitlines()[-1]) if status == 0 else None, captured.err

    return run


def rows(tmp_path) -> list[dict[str, str]]:
    header, *lines = [line.split("\t") for line in (tmp_path / "out" / "snr.tsv").read_text().splitlines()]
    return [dict(zip(header, line, strict=True)) for line in lines]


def test_all_networks_layers_and_places_are_in_the_table(call, tmp_path, monkeypatch):
    chosen = []
    original = suite._chosen
    monkeypatch.setattr(suite, "_chosen", lambda *a: chosen.append(original(*a)) or chosen[-1])
    status, summary, _ = call(*SMALL)
    assert status == 0 and set(summary["accuracy"]) == {"fine-tuned", "from scratch", "one-hot CNN"}
    table = rows(tmp_path)
    found = {(row["network"], row["layer"], row["queries"], row["place"]) for row in table}
    networks = ("fine-tuned", "before fine-tuning", "from scratch")
    assert found == {(n, "0", q, p) for n in networks for q in ("all", "cls") for p in ("A", "B", "random")}
    assert len(table) == len(found) and (tmp_path / "out" / "motif_order.png").stat().st_size > 1000

    # The saved model, read back, attends as the table says.
    network = nucel.load_classifier(tmp_path / "out" / "model")
    drawn = chosen[0]
    received = attention_received(network.model, drawn.tokens, [0])[0]["all"]
    for place, starts in zip("AB", drawn.starts.T, strict=True):
        expected = signal_to_noise(aligned(received, starts, 10), 10)
        (row,) = (r for r in table if (r["network"], r["queries"], r["place"]) == ("fine-tuned", "all", place))
        np.testing.assert_allclose([float(row[name]) for name in ("snr", "ratio")], expected[:2], atol=2e-4)
    assert set(summary["occlusion"]) == {"fine-tuned", "from scratch"}
    assert json.loads((tmp_path / "out" / "result.json").read_text())["settings"]["sizes"] == [32, 16, 24]


def test_training_stops_when_it_is_near_perfect(call, monkeypatch):
    """After the first validation, where every sequence of the dev table is right."""
    steps = []
    monkeypatch.setattr(suite, "_margins", lambda network, tokens, labels, precision: np.ones(len(labels)))
    original = suite.fit
    monkeypatch.setattr(suite, "fit", lambda *a: steps.append(original(*a)) or steps[-1])
    assert call(*SMALL, "--no-scratch", "--no-cnn", "--epochs", 9)[0] == 0
    assert [len(result.history) for result in steps] == [1]


def test_a_longer_context_reads_longer_sequences(call, tmp_path):
    status, summary, _ = call(*SMALL, "--length-bp", 200, "--context", 201, "--no-scratch", "--no-cnn")
    assert status == 0 and set(summary["accuracy"]) == {"fine-tuned"}
    assert nucel.load_classifier(tmp_path / "out" / "model").model.context == 201


def test_chosen_sequences_are_right_and_of_both_classes():
    drawn = draw_sequences(SequencePairs(), 40, 0)
    right = np.arange(40) % 3 > 0
    chosen = suite._chosen(drawn, right, 10)
    assert chosen.labels.sum() == 5 and len(chosen.tokens) == 10
    places = [next(i for i, t in enumerate(drawn.tokens) if t is tokens) for tokens in chosen.tokens]
    assert right[places].all() and (drawn.starts[places] == chosen.starts).all()


def test_what_cannot_work_is_refused(call, tmp_path):
    for words, message in [
        (("--length-bp", 200), "below the context of 128 tokens, got 200; a longer one may be tried: --context 201"),
    ]:
        status, _, stderr = call(*words)
        assert status == 2 and message in " ".join(stderr.split()) and not (tmp_path / "out").exists()
    for options in ({"length_bp": 60}, {"min_gap_bp": 500}):
        with pytest.raises(nucel.ConfigError, match=r"length_bp|min_gap_bp"):
            SequencePairs(**options)
    with pytest.raises(nucel.ConfigError, match="context must be at least 2, got 1"):
        suite.MotifOrderConfig(model=tmp_path, out=tmp_path, context=1)
    with pytest.raises(nucel.ConfigError, match="the motifs in the other order"):
        suite.MotifOrderConfig(model=tmp_path, out=tmp_path, fit=suite.FitOptions(augment_reverse_complement=True))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    status, _, stderr = call(*SMALL)
    assert status == 2 and "is not an empty directory" in stderr
