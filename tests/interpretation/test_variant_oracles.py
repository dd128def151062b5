"""Scores computed a second time, by transformers' ModernBERT and by formulas written out here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.pair import save_pair, tiny_pair
from support.variants import genome_of, random_bases, substitutions

import nucel
from nucel.genome.variants import Variant
from nucel.tokenizers.nucleotide import BASES, CLS, MASK, reverse_complement

CONTIGS = {"c": random_bases(63, 11)}
"""Shorter than the window: every variant sees all of it."""
W = 5
CHANGED = "".join("CATG"["ACTG".index(base)] for base in CONTIGS["c"][20:24])  # A and C exchanged
VARIANTS = [*substitutions(CONTIGS, 8), Variant("c", 20, CONTIGS["c"][20:24], CHANGED)]
SCORES = (
    "llr", "llr_unmasked", "pll", "rtd", "rtd_window", "rtd_context", "rtd_influence", "cosine", "cosine_mean",
    "cosine_site", "l2",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save_pair(tmp_path_factory.mktemp("runs") / "run", tiny_pair(64))


@pytest.fixture(scope="module")
def scored(run, tmp_path_factory):
    genome = genome_of(tmp_path_factory.mktemp("genome"), CONTIGS)
    return nucel.score_variants(run, VARIANTS, genome, context=80, near_bp=W, pll_bp=2, scores=SCORES)


def strands():
    """(reference, alternative, sites) of each variant on both strands; tokens without [CLS]."""
    whole = nucel.encode(CONTIGS["c"])
    for variant in VARIANTS:
        alt = whole.copy()
        alt[variant.start_bp : variant.start_bp + len(variant.alt)] = nucel.encode(variant.alt)
        sites = np.flatnonzero(alt != whole)
        yield [(whole, alt, sites), (reverse_complement(whole), reverse_complement(alt), len(whole) - 1 - sites)]


def with_cls(tokens: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([[CLS], tokens]).astype(np.int64))[None]


def both_strands(score) -> np.ndarray:
    return np.array([np.mean([score(*strand) for strand in pair]) for pair in strands()])


@pytest.fixture(scope="module")
def masked_lm(run):
    transformers = pytest.importorskip("transformers")
    model = transformers.ModernBertForMaskedLM.from_pretrained(run / "generator", attn_implementation="eager").eval()

    @torch.no_grad()
    def log_p(tokens: np.ndarray) -> np.ndarray:
        return model(with_cls(tokens)).logits[0, 1:].double().log_softmax(-1).numpy()

    return log_p


def test_llr_is_transformers_masked_log_probability(scored, masked_lm):
    def llr(ref, alt, sites):
        masked = ref.copy()
        masked[sites] = MASK
        log_p = masked_lm(masked)
        return sum(log_p[i, alt[i]] - log_p[i, ref[i]] for i in sites)

    def unmasked(ref, alt, sites):
        log_p = masked_lm(ref)
        return sum(log_p[i, alt[i]] - log_p[i, ref[i]] for i in sites)

    np.testing.assert_allclose(scored["llr"], both_strands(llr), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scored["llr_unmasked"], both_strands(unmasked), rtol=1e-4, atol=1e-5)


def test_pll_masks_each_base_in_turn(scored, masked_lm):
    """Probabilities over the four bases: transformers' over the whole vocabulary are normalised again."""

    def pll(ref, alt, sites):
        total = 0.0
        for sign, tokens in ((-1, ref), (1, alt)):
            for j in range(max(0, sites.min() - 2), min(len(ref), sites.max() + 3)):
                masked = tokens.copy()
                masked[j] = MASK
                bases = masked_lm(masked)[j, BASES[0] : BASES[-1] + 1]
                total += sign * (bases[tokens[j] - BASES[0]] - np.log(np.exp(bases).sum()))
        return total

    np.testing.assert_allclose(scored["pll"], both_strands(pll), rtol=1e-4, atol=1e-5)


def test_rtd_is_transformers_token_classification(scored, run):
    transformers = pytest.importorskip("transformers")
    model = transformers.ModernBertForTokenClassification.from_pretrained(
        run / "discriminator", attn_implementation="eager"
    ).eval()

    @torch.no_grad()
    def z(tokens: np.ndarray) -> np.ndarray:
        replaced, original = model(with_cls(tokens)).logits[0, 1:].double().unbind(-1)
        return (original - replaced).numpy()

    def log_sigmoid(x):
        return -np.log1p(np.exp(-x))

    def near(sites, length):
        return np.arange(max(0, sites.min() - W), min(length, sites.max() + W + 1))

    def context(sites, length):
        return np.setdiff1d(near(sites, length), sites)

    scores = {
        "rtd": lambda ref, alt, sites: (z(alt) - z(ref))[sites].sum(),
        "rtd_window": lambda ref, alt, s: (log_sigmoid(z(alt)) - log_sigmoid(z(ref)))[near(s, len(ref))].sum(),
        "rtd_context": lambda ref, alt, s: (log_sigmoid(z(alt)) - log_sigmoid(z(ref)))[context(s, len(ref))].sum(),
        "rtd_influence": lambda ref, alt, s: np.abs(z(alt) - z(ref))[context(s, len(ref))].mean(),
    }
    for name, score in scores.items():
        np.testing.assert_allclose(scored[name], both_strands(score), rtol=1e-4, atol=2e-5, err_msg=name)


def test_distances_are_those_of_nucel_embed(scored, run):
    encoder = nucel.load(run)

    def hidden(tokens):
        return nucel.embed_positions(encoder, [tokens])[0].astype(np.float64)

    def cosine(a, b):
        return 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    scores = {
        "cosine": lambda ref, alt, _: cosine(hidden(ref).ravel(), hidden(alt).ravel()),
        "cosine_mean": lambda ref, alt, _: cosine(hidden(ref).mean(0), hidden(alt).mean(0)),
        "cosine_site": lambda ref, alt, sites: cosine(hidden(ref)[sites].ravel(), hidden(alt)[sites].ravel()),
        "l2": lambda ref, alt, _: np.linalg.norm(hidden(ref) - hidden(alt)),
    }
    for name, score in scores.items():
        np.testing.assert_allclose(scored[name], both_strands(score), rtol=1e-4, atol=1e-7, err_msg=name)


def test_the_corrected_score_is_the_raw_one_and_the_generator_s_part(run, tmp_path):
    """Written out for single bases, at the run's own mask rate and temperature."""
    pair = nucel.load_pair(run)
    rate, temperature = pair.config.mask_rate, pair.config.temperature
    variants, found = VARIANTS[:-1], []
    for variant in variants:
        pairs = []
        whole = nucel.encode(CONTIGS["c"])
        alt = whole.copy()
        alt[variant.start_bp] = nucel.encode(variant.alt)[0]
        for ref, other, site in (
            (whole, alt, variant.start_bp),
            (reverse_complement(whole), reverse_complement(alt), len(whole) - 1 - variant.start_bp),
        ):
            masked = ref.copy()
            masked[site] = MASK
            with torch.no_grad():
                logits = pair.generator(with_cls(masked), torch.tensor([[site + 1]]))[0, 0].double()
                z = [pair.discriminator.logits(with_cls(x))[0, site + 1].item() for x in (ref, other)]
            q = (logits[BASES[0] : BASES[-1] + 1] / temperature).softmax(-1).numpy()
            logit_p = [
                z_b + np.log(q_b) - np.log(((1 - rate) + rate * q_b) / rate)
                for z_b, q_b in zip(z, q[[ref[site] - BASES[0], other[site] - BASES[0]]], strict=True)
            ]
            pairs.append(logit_p[1] - logit_p[0])
        found.append(np.mean(pairs))
    scored = nucel.score_variants(pair, variants, genome_of(tmp_path, CONTIGS), scores=("rtd_corrected",))
    np.testing.assert_allclose(scored["rtd_corrected"], found, rtol=1e-5, atol=1e-5)


def test_another_layer_changes_distances_alone(run, scored, tmp_path):
    genome = genome_of(tmp_path, CONTIGS)
    inner = nucel.score_variants(run, VARIANTS, genome, layer=-2, context=80, near_bp=W, scores=("cosine", "l2", "rtd"))
    np.testing.assert_allclose(inner["rtd"], scored["rtd"], rtol=1e-5, atol=1e-5)
    encoder = nucel.load(run)
    whole = nucel.encode(CONTIGS["c"])
    expected = []
    for pair in strands():
        ref, alt = (nucel.embed_positions(encoder, [pair[0][k]], layer=1)[0] for k in (0, 1))
        back = [nucel.embed_positions(encoder, [pair[1][k]], layer=1)[0] for k in (0, 1)]
        expected.append((np.linalg.norm(ref - alt) + np.linalg.norm(back[0] - back[1])) / 2)
    assert len(whole) == 63
    np.testing.assert_allclose(inner["l2"], expected, rtol=1e-4)
