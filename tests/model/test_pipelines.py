"""transformers.pipeline on our directories: fill-mask offers bases, text-classification gives our probabilities."""

from __future__ import annotations

import math

import pytest
import torch
from support.tiny import TINY, tiny_classifier
from support.tiny_run import MODEL, write_genome

from nucel.model import hub
from nucel.model.networks import Generator, initialize
from nucel.tokenizers import nucleotide
from nucel.train import main

transformers = pytest.importorskip("transformers")

BEFORE, AFTER = "ACGTTGCAAC", "GGATACCA"
MASKED = f"{BEFORE}[MASK]{AFTER}"


@pytest.mark.parametrize(("objective", "folder"), [("electra", "generator"), ("mlm", "masked_lm")])
def test_a_trained_network_offers_the_four_bases_first(tmp_path, objective, folder):
    """By its training alone: no special token is ever the answer, so that their logits fall."""
    words = [*MODEL, "--genome", str(write_genome(tmp_path / "a.fa")), "--out", str(tmp_path / "run")]
    assert main([*words, "--objective", objective, "--steps", "60", "--lr", "0.01", "--validate-every", "100"]) == 0
    answers = transformers.pipeline("fill-mask", str(tmp_path / "run" / folder))(MASKED)
    assert sorted(answer["token_str"] for answer in answers[:4]) == list("ACGT")
    assert answers[3]["score"] > answers[4]["score"]


def test_targets_keep_special_tokens_out_of_any_network_s_answers(tmp_path):
    """The weights are written as they are: a bias that hid special tokens would change what a resume reads."""
    generator = Generator(TINY)
    initialize(generator, torch.Generator().manual_seed(1))
    torch.nn.init.constant_(generator.decoder.bias[: nucleotide.BASES[0]].detach(), 3.0)
    hub.save(generator.eval(), tmp_path / "generator")
    fill = transformers.pipeline("fill-mask", str(tmp_path / "generator"))
    assert fill(MASKED)[0]["token_str"] not in "ACGT"  # what targets are for
    answers = fill(MASKED, targets=list("ACGT"))
    ids = [nucleotide.CLS, *nucleotide.encode(BEFORE).tolist(), nucleotide.MASK, *nucleotide.encode(AFTER).tolist()]
    with torch.no_grad():
        logits = generator(torch.tensor([ids]), torch.tensor([[len(BEFORE) + 1]]))[0, 0]
    expected = dict(zip("ACGT", logits.softmax(-1)[list(nucleotide.BASES)].tolist(), strict=True))
    assert [answer["token_str"] for answer in answers] == sorted(expected, key=expected.get, reverse=True)
    for answer in answers:
        assert answer["score"] == pytest.approx(expected[answer["token_str"]], rel=1e-4)
        assert answer["sequence"] == BEFORE + answer["token_str"] + AFTER


SEQUENCES = ("ACGTTGCAAC", "TTTTTTTTTTTTACG", "ACNNGT")


def our_outputs(network) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([
            network(torch.tensor([[nucleotide.CLS, *nucleotide.encode(sequence).tolist()]])) for sequence in SEQUENCES
        ])  # fmt: skip


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("linear", [True, False])
def test_a_fine_tuned_directory_gives_our_probabilities(tmp_path, pooling, linear):
    network = tiny_classifier(("enhancer", "promoter", "other"), pooling, linear)
    hub.save(network, tmp_path / "model")
    classify = transformers.pipeline("text-classification", str(tmp_path / "model"), top_k=None)
    for answers, expected in zip(classify(list(SEQUENCES)), our_outputs(network).softmax(-1), strict=True):
        scores = {answer["label"]: answer["score"] for answer in answers}
        assert scores == pytest.approx(dict(zip(network.labels, expected.tolist(), strict=True)), rel=1e-4)


def test_a_directory_for_numbers_gives_our_numbers(tmp_path):
    network = tiny_classifier(None)
    with torch.no_grad():
        network.classifier.bias.add_(5)  # far from what could be a probability
    hub.save(network, tmp_path / "model")
    predict = transformers.pipeline("text-classification", str(tmp_path / "model"), function_to_apply="none")
    numbers = [answer["score"] for answer in predict(list(SEQUENCES))]
    assert numbers == pytest.approx(our_outputs(network)[:, 0].tolist(), rel=1e-4)
    assert any(not 0 <= number <= 1 for number in numbers) and all(map(math.isfinite, numbers))
