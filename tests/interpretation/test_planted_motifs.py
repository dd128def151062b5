"""A pair trained on the demo genome, whose motifs are known: its scores find the changes that break one."""

from __future__ import annotations

import re

import pytest

from benchmarks.experiments.variant_scores import HELD_OUT, contig_text, figures, group, train, write_genome
from nucel.genome.demo import demo_motifs, write_demo_genome
from nucel.interpretation.networks import load_networks
from nucel.interpretation.variant_effect import score_variants

STEPS = 200


def test_the_motifs_are_in_the_genome(tmp_path):
    """Far more often than by chance, on every contig, and not those of another seed."""
    write_demo_genome(tmp_path / "demo.fa")
    text = contig_text(tmp_path / "demo.fa", HELD_OUT)
    counts = {seed: sum(len(re.findall(motif, text)) for motif in demo_motifs(seed)) for seed in (0, 1)}
    assert counts[0] > 60 > 10 * counts[1]
    assert len(demo_motifs()) == 12 and demo_motifs() != demo_motifs(1)


def test_groups_differ_in_place_alone(tmp_path):
    write_demo_genome(tmp_path / "demo.fa")
    text = contig_text(tmp_path / "demo.fa", HELD_OUT)
    chosen = group(text, HELD_OUT, demo_motifs(), most=500)
    half = len(chosen.variants) // 2
    assert half == 500 and chosen.breaks[:half].all() and not chosen.breaks[half:].any()
    for breaking, neutral in zip(chosen.variants[:half], chosen.variants[half:], strict=True):
        assert (breaking.ref, breaking.alt) == (neutral.ref, neutral.alt)
        assert text[breaking.start_bp] == text[neutral.start_bp] == breaking.ref
        around = text[neutral.start_bp - 6 : neutral.start_bp + 7]
        assert not any(motif in text[neutral.start_bp - 14 : neutral.start_bp + 15] for motif in demo_motifs())
        assert around.isupper() and "N" not in around


@pytest.mark.slow
def test_after_training_the_corrected_score_finds_broken_motifs(tmp_path):
    """On the held-out contig, with an interval above chance; untrained networks cannot do it.

    The background is random, so that a change there is as likely as what it changes. In the demo genome it is not: its
    Markov chain has transitions that never occur.
    """
    motifs = write_genome("planted", tmp_path / "planted.fa")
    train(tmp_path / "run", tmp_path / "planted.fa", steps=STEPS, seed=0)
    chosen = group(contig_text(tmp_path / "planted.fa", HELD_OUT), HELD_OUT, motifs, most=300)
    trained = load_networks(tmp_path / "run")
    options = {"scores": ("llr", "rtd", "rtd_corrected")}
    found = figures(score_variants(trained, chosen.variants, tmp_path / "planted.fa", **options), chosen)
    control = figures(score_variants(trained.untrained(), chosen.variants, tmp_path / "planted.fa", **options), chosen)
    assert found["rtd_corrected"].low > 0.5
    assert found["rtd_corrected"].low > control["rtd_corrected"].value
