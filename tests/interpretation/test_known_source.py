"""A pair trained on the demo genome, whose source is known: its scores find what the source makes unlikely."""

from __future__ import annotations

import re

import numpy as np
import pytest

from benchmarks.experiments.variant_scores import HELD_OUT, Source, contig_text, figures, questions, train
from nucel.genome.demo import demo_background, demo_motifs, write_demo_genome
from nucel.interpretation.networks import load_networks
from nucel.interpretation.variant_effect import score_variants


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    path = tmp_path_factory.mktemp("genome") / "demo.fa"
    write_demo_genome(path)
    return path


def test_the_motifs_are_in_the_genome(genome):
    """Far more often than by chance, and not those of another seed."""
    text = contig_text(genome, HELD_OUT)
    counts = {seed: sum(len(re.findall(motif, text)) for motif in demo_motifs(seed)) for seed in (0, 1)}
    assert counts[0] > 60 > 10 * counts[1]
    assert len(demo_motifs()) == 12 and demo_motifs() != demo_motifs(1)


def test_the_background_is_the_source_s(genome):
    """Transitions counted in the genome's background are those of the chain that it is said to be drawn from."""
    chains = demo_background()
    np.testing.assert_allclose(chains.sum(-1), 1)
    source = Source(contig_text(genome, HELD_OUT))
    for number in {int(k) for k in source._chain[source.is_background]}:
        places = np.flatnonzero(source.is_background & (source._chain == number))
        before, base = 4 * source._bases[places - 2] + source._bases[places - 1], source._bases[places]
        counts = np.bincount(4 * before + base, minlength=64).reshape(16, 4)
        often = counts.sum(1) > 400
        assert often.sum() >= 3 or len(places) < 4000
        np.testing.assert_allclose(
            counts[often] / counts[often].sum(1, keepdims=True), chains[number][often], atol=0.06
        )


def test_questions_are_about_what_they_say(genome):
    source = Source(contig_text(genome, HELD_OUT))
    truth, motifs = questions(source.text, most=300)
    assert len(truth.variants) == 300 and truth.truth.mean() < -1  # what was drawn is likelier than what was not
    assert motifs.truth.sum() == (~motifs.truth).sum() == 300
    for variant, broken in zip(motifs.variants, motifs.truth, strict=True):
        assert source.text[variant.start_bp] == variant.ref != variant.alt
        assert source.in_motif[variant.start_bp] == broken
        if not broken:
            back = variant._replace(ref=variant.alt, alt=variant.ref)
            assert abs(source.log_ratio(variant)) < 1
            assert source.log_ratio(back) == pytest.approx(-source.log_ratio(variant))


@pytest.mark.slow
def test_after_a_short_training_the_corrected_score_follows_the_truth(tmp_path, genome):
    """On the held-out contig, and untrained networks do not; for a longer training see benchmarks/results."""
    train(tmp_path / "run", genome, steps=120, seed=0)
    trained = load_networks(tmp_path / "run")
    question, _ = questions(contig_text(genome, HELD_OUT), most=300)
    options = {"scores": ("llr", "rtd", "rtd_corrected")}
    found = figures(score_variants(trained, question.variants, genome, **options), question)
    control = figures(score_variants(trained.untrained(), question.variants, genome, **options), question)
    assert found["rtd_corrected"].low > max(0.2, control["rtd_corrected"].value)
    assert found["llr"].low > control["llr"].value
