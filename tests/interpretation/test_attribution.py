"""Attributions against laws, recomputation and other libraries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support.genomes import random_bases
from support.linear import LENGTH, linear_discriminator
from support.pair import RATES, tiny_pair
from support.tiny import tiny_classifier, tiny_encoder

import nucel
from nucel.inference.tiles import Tiles
from nucel.interpretation.attribution import METHODS
from nucel.interpretation.networks import Networks
from nucel.model.networks import Generator
from nucel.tokenizers import nucleotide

FIRST = nucleotide.BASES[0]
SEQUENCE = random_bases(50, 1)


@pytest.fixture(scope="module")
def pair():
    return tiny_pair()


@pytest.fixture(scope="module")
def classifier():
    return tiny_classifier(("no", "yes"), pooling="mean", linear=False, context=64)


def ids(text: str) -> torch.Tensor:
    return torch.tensor([[nucleotide.CLS, *nucleotide.encode(text).tolist()]])


def z_of(discriminator, text: str) -> np.ndarray:
    with torch.no_grad():
        return discriminator.logits(ids(text))[0, 1:].double().numpy()


def one(model, sequence=SEQUENCE, method="gradient", **options):
    options.setdefault("average_reverse_complement", False)
    (found,) = nucel.attribute(model, [sequence], method, **options)
    return found


def test_a_linear_model_is_attributed_exactly():
    """a_i = c_i = w[i, x_i] - mean_b w[i, b], and their sum is S(x) less its mean over uniform sequences."""
    model = linear_discriminator()
    text = random_bases(LENGTH, 2)
    weights = model.weights.double().numpy()
    present = weights[np.arange(LENGTH), nucleotide.encode(text) - FIRST]
    expected = present - weights.mean(1)
    for method in ("gradient", "ism"):
        found = one(model, text, method)
        np.testing.assert_allclose(found.values, expected, atol=1e-6)
        np.testing.assert_allclose(found.hypothetical, weights - weights.mean(1, keepdims=True), atol=1e-6)
        assert math.isclose(found.values.sum(dtype=np.float64), present.sum() - weights.mean(1).sum(), abs_tol=1e-4)


@pytest.mark.parametrize("target", ["originality", "plausibility", "site:7", "class:yes"])
def test_ism_is_what_each_mutant_gives_alone(pair, classifier, target):
    def score(text):
        if target == "class:yes":
            no, yes = classifier(ids(text))[0].tolist()
            return yes - no
        z = z_of(pair.discriminator, text)
        return {"originality": z.sum(), "plausibility": -np.logaddexp(0, -z).sum(), "site:7": z[7]}[target]

    model = classifier if target == "class:yes" else pair
    found = one(model, method="ism", target=target)
    draws = np.random.default_rng(0)
    for i, letter in zip(draws.integers(len(SEQUENCE), size=20), draws.choice(list("ACGT"), 20), strict=True):
        mutant = SEQUENCE[:i] + letter + SEQUENCE[i + 1 :]
        change = score(mutant) - score(SEQUENCE)
        row = found.hypothetical[i]
        measured = row["ACGT".index(letter)] - row["ACGT".index(SEQUENCE[i])]
        assert math.isclose(measured, change, abs_tol=2e-5)
    assert np.abs(found.values).max() > 1e-3


@pytest.mark.parametrize("target", ["originality", "plausibility", "site:7", "class:yes"])
def test_gradient_is_the_central_difference(target):
    """In fp64, on a one-hot input that is moved off the simplex."""
    if target == "class:yes":
        model = tiny_classifier(("no", "yes"), pooling="mean", linear=False).double()
    else:
        model = tiny_pair().discriminator.double()
    found = one(model, target=target)
    table = model.model.embeddings.tok_embeddings
    onehot = torch.nn.functional.one_hot(ids(SEQUENCE), len(nucleotide.TOKENS)).double()

    def score(moved: torch.Tensor) -> float:
        hook = table.register_forward_hook(lambda *_: moved @ table.weight)
        with torch.no_grad():
            if target == "class:yes":
                out = model(ids(SEQUENCE))[0]
                value = out[1] - out[0]
            else:
                z = model.logits(ids(SEQUENCE))[0, 1:]
                value = {"originality": z, "plausibility": -torch.nn.functional.softplus(-z), "site:7": z[7:8]}[
                    target
                ].sum()
        hook.remove()
        return float(value)

    step = 1e-5
    for i in (0, 7, 23, len(SEQUENCE) - 1):
        slopes = []
        for base in nucleotide.BASES:
            moved = [onehot.clone(), onehot.clone()]
            moved[0][0, 1 + i, base] += step
            moved[1][0, 1 + i, base] -= step
            slopes.append((score(moved[0]) - score(moved[1])) / (2 * step))
        expected = np.array(slopes) - np.mean(slopes)
        np.testing.assert_allclose(found.hypothetical[i], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.interop
def test_gradient_is_captums(classifier):
    captum = pytest.importorskip("captum.attr")
    table = classifier.model.embeddings.tok_embeddings

    def score(tokens):
        out = classifier(tokens)
        return out[:, 1] - out[:, 0]

    saliency = captum.LayerGradientXActivation(score, table, multiply_by_inputs=False)
    (gradient,) = saliency.attribute(ids(SEQUENCE)).detach()
    projected = (gradient @ table.weight[list(nucleotide.BASES)].T)[1:]
    expected = (projected - projected.mean(1, keepdim=True)).detach().numpy()
    np.testing.assert_allclose(one(classifier).hypothetical, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_both_strands_have_one_map(pair, method):
    """Also with tiles: the map of the reverse complement is the map read backwards, bases complemented."""
    texts = [SEQUENCE] if method == "dependency" else [SEQUENCE, random_bases(64 + 47, 3)]
    other = [nucleotide.decode(nucleotide.reverse_complement(nucleotide.encode(text))) for text in texts]
    forward, backward = (nucel.attribute(pair, strand, method) for strand in (texts, other))
    for one_way, back in zip(forward, backward, strict=True):
        np.testing.assert_allclose(one_way.values, back.values[::-1], rtol=1e-3, atol=2e-5)
        for first, second in zip(one_way[1:], back[1:], strict=True):
            if first is not None:
                np.testing.assert_allclose(first, second[::-1, ::-1], rtol=1e-3, atol=2e-5)
    single = nucel.attribute(pair, texts, method, average_reverse_complement=False)
    assert not np.allclose(single[0].values, forward[0].values, rtol=1e-3, atol=2e-5)


def test_a_site_is_the_same_base_on_both_strands(pair):
    both = one(pair, method="ism", target="site:3", average_reverse_complement=True)
    forward = one(pair, method="ism", target="site:3")
    reverse = nucleotide.reverse_complement(nucleotide.encode(SEQUENCE))
    backward = one(pair, reverse, "ism", target=f"site:{len(SEQUENCE) - 4}")
    np.testing.assert_allclose(both.values, (forward.values + backward.values[::-1]) / 2, rtol=1e-3, atol=2e-5)


class Certain(Generator):
    """Equal logits everywhere but at one site, where it is certain."""

    def __init__(self, pair, site: int | None):
        super().__init__(pair.config.generator, False, 64)
        self.site = site

    def forward(self, tokens, positions, lengths=None):
        logits = torch.zeros(*positions.shape, len(nucleotide.TOKENS))
        logits[..., 0] = 50.0  # what is no base must not enter
        if self.site is not None:
            logits[positions == 1 + self.site, nucleotide.BASES[2]] = 60.0
        return logits


def test_entropy_of_known_distributions(pair):
    flat = one(Networks.of(Certain(pair, None)), method="entropy")
    assert np.abs(flat.values).max() < 1e-6 and np.allclose(flat.probabilities, 0.25)
    peaked = one(Networks.of(Certain(pair, 5)), method="entropy").values
    assert math.isclose(peaked[5], math.log(4), rel_tol=1e-6) and np.abs(np.delete(peaked, 5)).max() < 1e-6


def test_entropy_masks_the_base_it_asks_for(pair):
    """p_i does not depend on the base at i, and is softmax over four bases at temperature 1."""
    found = one(pair, method="entropy")
    i = 9
    masked = ids(SEQUENCE)
    masked[0, 1 + i] = nucleotide.MASK
    with torch.no_grad():
        p = pair.generator.logits(masked)[0, 1 + i, FIRST : FIRST + 4].softmax(-1).numpy()
    np.testing.assert_allclose(found.probabilities[i], p, rtol=1e-5)
    other = SEQUENCE[:i] + ("A" if SEQUENCE[i] != "A" else "C") + SEQUENCE[i + 1 :]
    np.testing.assert_allclose(one(pair, other, "entropy").probabilities[i], p, rtol=1e-5)


@pytest.mark.parametrize("norm", ["l2", "max"])
def test_entropy_gradient_is_the_product(pair, norm):
    found = one(pair, method="entropy_gradient", gradient_norm=norm)
    hidden = pair.discriminator.model.embeddings(ids(SEQUENCE)).detach().requires_grad_()
    hook = pair.discriminator.model.embeddings.register_forward_hook(lambda *_: hidden)
    pair.discriminator.logits(ids(SEQUENCE))[0, 1:].sum().backward()
    hook.remove()
    gradient = hidden.grad[0, 1:]
    size = gradient.norm(dim=1) if norm == "l2" else gradient.abs().amax(1)
    np.testing.assert_allclose(found.values, one(pair, method="entropy").values * size.numpy(), rtol=1e-3, atol=1e-6)


def test_surprise_is_minus_log_probability(pair):
    z = z_of(pair.discriminator, SEQUENCE)
    np.testing.assert_allclose(one(pair, method="surprise").values, np.logaddexp(0, -z), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(one(pair, method="surprise", signed=True).values, z, rtol=1e-4, atol=1e-5)


@pytest.mark.interop
def test_surprise_is_what_transformers_says(pair, tmp_path):
    transformers = pytest.importorskip("transformers")
    from nucel.model import hub

    hub.save(pair.discriminator, tmp_path / "discriminator")
    network = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path / "discriminator").eval()
    original = network.config.label2id["original"]
    with torch.no_grad():
        expected = -network(ids(SEQUENCE)).logits.log_softmax(-1)[0, 1:, original].numpy()
    np.testing.assert_allclose(one(pair, method="surprise").values, expected, rtol=1e-4, atol=1e-5)


def test_an_ideal_pair_gives_back_the_distribution(pair):
    """z made from known p and q by Bayes' rule: rtd_distribution and the corrected surprise recover p."""
    draws = np.random.default_rng(4)
    p = torch.from_numpy(draws.dirichlet(np.ones(4), len(SEQUENCE)))
    rate = RATES["mask_rate"]

    q = torch.empty(len(SEQUENCE), 4, dtype=torch.float64)
    for i in range(len(SEQUENCE)):
        masked = ids(SEQUENCE)
        masked[0, 1 + i] = nucleotide.MASK
        with torch.no_grad():
            logits = pair.generator.logits(masked)[0, 1 + i, FIRST : FIRST + 4].double()
        q[i] = (logits / RATES["temperature"]).softmax(-1)
    z = torch.logit(p) - q.log() + (((1 - rate) + rate * q) / rate).log()
    ideal = linear_discriminator(length=len(SEQUENCE))
    ideal.weights = z.float()
    networks = Networks(ideal.model, ideal, pair.generator, rate, RATES["temperature"])
    found = one(networks, method="rtd_distribution")
    np.testing.assert_allclose(found.probabilities, p.numpy(), atol=1e-5)
    entropy = -(p * p.log()).sum(1).numpy()
    np.testing.assert_allclose(found.values, math.log(4) - entropy, atol=1e-5)
    present = p.numpy()[np.arange(len(SEQUENCE)), nucleotide.encode(SEQUENCE) - FIRST]
    surprise = one(networks, method="surprise", corrected=True).values
    np.testing.assert_allclose(surprise, -np.log(present), rtol=1e-4, atol=1e-4)


def test_dependency_is_what_each_mutant_gives_alone(pair):
    found = one(pair, method="dependency")
    reference = z_of(pair.discriminator, SEQUENCE)
    for i in (0, 17, 49):
        mutants = [SEQUENCE[:i] + letter + SEQUENCE[i + 1 :] for letter in "ACGT"]
        expected = np.max([np.abs(z_of(pair.discriminator, mutant) - reference) for mutant in mutants], axis=0)
        np.testing.assert_allclose(found.dependency[i], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.values, found.dependency.mean(1), rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_unknown_bases_are_nan_and_nothing_else(pair, method):
    text = SEQUENCE[:10] + "NN" + SEQUENCE[12:]
    found = nucel.attribute(pair, [text, SEQUENCE.lower()], method)
    assert np.flatnonzero(np.isnan(found[0].values)).tolist() == [10, 11]
    assert np.isfinite(found[1].values).all()
    alone = one(pair, SEQUENCE, method, average_reverse_complement=True)
    np.testing.assert_allclose(found[1].values, alone.values, rtol=1e-3, atol=1e-5)
    everything = nucel.attribute(pair, ["NNNN"], method)
    assert np.isnan(everything[0].values).all()


@pytest.mark.parametrize("method", ["gradient", "ism", "surprise"])
def test_long_sequences_are_read_in_tiles(pair, method):
    text = random_bases(150, 5)
    found = one(pair, text, method, context=41, overlap_bp=10)
    for tile in Tiles(150, 40, 10):
        part = one(pair, text[tile.start : tile.end], method)
        kept = part.values[tile.keep_start - tile.start : tile.keep_end - tile.start]
        np.testing.assert_allclose(found.values[tile.keep_start : tile.keep_end], kept, rtol=1e-3, atol=1e-5)


def test_a_site_of_a_long_sequence_has_one_window(pair):
    found = one(pair, random_bases(150, 5), "ism", target="site:149", context=41)
    assert np.flatnonzero(np.isfinite(found.values)).tolist() == list(range(110, 150))


@pytest.mark.parametrize("method", ["gradient", "ism", "entropy", "surprise"])
def test_batches_change_nothing(pair, method):
    texts = [random_bases(n, n) for n in (1, 30, 50, 7)]
    together = nucel.attribute(pair, texts, method)
    alone = [nucel.attribute(pair, [text], method, batch_tokens=1)[0] for text in texts]
    for first, second in zip(together, alone, strict=True):
        np.testing.assert_allclose(first.values, second.values, rtol=1e-3, atol=1e-5)


def test_what_a_model_lacks_is_said(pair, classifier):
    encoder = tiny_encoder()
    for model, method, message in [
        (encoder, "surprise", "is a bare encoder; surprise needs a discriminator"),
        (pair.discriminator, "entropy", "is a discriminator alone; entropy needs a generator"),
        (pair.discriminator, "rtd_distribution", "rtd_distribution needs a generator"),
        (pair.generator, "gradient", "is a masked language model"),
        (pair.generator, "dependency", "needs a discriminator"),
    ]:
        with pytest.raises(nucel.HubError, match=message):
            one(model, method=method)
    for options, error, message in [
        ({"target": "class:maybe"}, nucel.ConfigError, "0 to 1 or one of no, yes"),
        ({"target": "nonsense"}, nucel.ConfigError, "--target must be class:K"),
        ({"target": "originality"}, nucel.HubError, "needs a discriminator"),
        ({"overlap_bp": 60, "context": 41}, nucel.ConfigError, "overlap_bp must be below the 40 bases"),
        ({"method": "magic"}, nucel.ConfigError, "method must be one of"),
    ]:
        with pytest.raises(error, match=message):
            one(classifier, **options)
    with pytest.raises(nucel.HubError, match="target class:0 needs a fine-tuned model"):
        one(pair, target="class:0")
    with pytest.raises(nucel.InputError, match="there is no site:50"):
        one(pair, target="site:50")
    with pytest.raises(nucel.InputError, match="dependency maps are of whole sequences"):
        one(pair, random_bases(100), "dependency")
    with pytest.raises(nucel.InputError, match="got one string"):
        nucel.attribute(pair, SEQUENCE)
    with pytest.raises(nucel.ConfigError, match="say which class"):
        one(tiny_classifier())
