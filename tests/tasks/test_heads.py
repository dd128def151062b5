"""Heads of probes against scikit-learn, on exported embeddings; tables of several numbers and of two sequences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.tiny import TINY, planted_rows, tiny_encoder, write_task

import nucel
from nucel.genome.kmers import kmer_frequencies
from nucel.runtime.device import Precision
from nucel.runtime.errors import ConfigError, InputError
from nucel.tasks import features as features_module
from nucel.tasks import heads
from nucel.tasks.baselines import OneHotCNN, initialize
from nucel.tasks.cnn_heads import cnn_fit, cnn_head
from nucel.tasks.features import EncoderFeatures, FeatureOptions, one_hot, one_hot_maps, resolve_layers, untrained
from nucel.tasks.heads import Labels, dev_loss, fit_linear, fit_neighbors, fit_tuned
from nucel.tasks.intervals import Interval, bootstrap
from nucel.tasks.network_heads import MLP_FIT, fit_network, mlp_head
from nucel.tasks.probe import fit_probe
from nucel.tokenizers import nucleotide

pytest.importorskip("sklearn")
CPU = Precision(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return nucel.read_task(*write_task(tmp_path_factory.mktemp("task"), 120, 40, 60).values())


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """Two numbers a row, of which some were not measured: the share of A and of T, and noise."""
    folder = tmp_path_factory.mktemp("numbers")
    return nucel.read_task(*(write_numbers(folder / f"{i}.csv", 60, i) for i in range(3)))


def write_numbers(path, rows, seed, two=False):
    draws = np.random.default_rng(seed)
    lines = ["name,sequence_left,sequence_right,target_a,target_t" if two else "sequence,target_a,target_t"]
    for i, (text, _) in enumerate(planted_rows(rows, seed)):
        cells = [f"{text.count(base) / len(text) + draws.normal(0, 0.01):.5f}" for base in "AT"]
        cells[1] = ["", "NA", cells[1]][i % 3]
        lines.append(",".join([f"r{i}", text, text[::-1], *cells] if two else [text, *cells]))
    path.write_text("\n".join(lines) + "\n")
    return path


# ---- scikit-learn ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vectors(task):
    """What nucel.embed exports of layer 1, for train and test."""
    encoder = tiny_encoder()
    return [nucel.embed(encoder, s.sequences.tokens, layer=1) for s in task.splits]


def test_logistic_regression_is_scikit_learn_s_on_exported_embeddings(task, vectors):
    from sklearn.linear_model import LogisticRegression

    train, _, test = vectors
    expected = LogisticRegression(C=1e3, max_iter=1000).fit(train, task.train.targets).predict_proba(test)
    probe = fit_probe(tiny_encoder(), task, head="linear", layer=1)
    np.testing.assert_allclose(probe.predict(task.test.sequences.tokens), expected, atol=1e-4)
    assert probe.metrics["accuracy"] == pytest.approx((expected.argmax(1) == task.test.targets).mean())


def test_ridge_is_scikit_learn_s_on_what_was_measured(numbers):
    from sklearn.linear_model import Ridge

    train, _, test = (nucel.embed(tiny_encoder(), s.sequences.tokens, pooling="cls") for s in numbers.splits)
    probe = fit_probe(tiny_encoder(), numbers, head="linear", pooling="cls")
    for column, target in enumerate(numbers.train.targets.T):
        known = ~np.isnan(target)
        expected = Ridge(alpha=1e-3).fit(train[known], target[known]).predict(test)
        np.testing.assert_allclose(probe.predict(numbers.test.sequences.tokens)[:, column], expected, atol=2e-3)


@pytest.mark.parametrize("neighbors", [1, 5])
def test_neighbors_are_scikit_learn_s(task, vectors, neighbors):
    from sklearn.neighbors import KNeighborsClassifier

    train, _, test = vectors
    expected = KNeighborsClassifier(neighbors, metric="cosine").fit(train, task.train.targets).predict_proba(test)
    found = fit_probe(tiny_encoder(), task, head="knn", layer=1, neighbors=neighbors)
    np.testing.assert_allclose(found.predict(task.test.sequences.tokens), expected, atol=1e-6)


def test_the_span_of_the_rows_is_enough_for_an_l2_penalty(task):
    """More features than rows: the fit in the rows' coordinates is that of all features."""
    from sklearn.linear_model import LogisticRegression

    train, test = (kmer_frequencies(s.sequences.tokens, (1, 2, 3, 4)).astype(float) for s in (task.train, task.test))
    basis = heads._row_space(train)
    assert train.shape[1] > len(train) and basis.shape == train.shape[::-1]
    settings, found = {"C": 1e3, "max_iter": 10_000, "tol": 1e-7}, []
    for project in (np.eye(train.shape[1]), basis):
        model = LogisticRegression(**settings).fit(train @ project, task.train.targets)
        found.append(model.predict_proba(test @ project))
    np.testing.assert_allclose(*found, atol=1e-4)
    fitted = heads.fit_linear(train, Labels(task.train.targets, task.dev.targets, 2))
    np.testing.assert_allclose(fitted.predict(test), found[0], atol=2e-2)


def test_the_tuned_head_standardises_by_training_rows_and_takes_the_lowest_dev_loss(task, vectors):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    train, dev, test = vectors
    labels = Labels(task.train.targets, task.dev.targets, 2)
    fitted = fit_tuned(train * 100 + 7, labels, dev * 100 + 7)
    scaler = StandardScaler().fit(train)
    losses = {}
    for penalty in 10.0 ** np.arange(-3, 6):
        model = LogisticRegression(C=1 / penalty, max_iter=1000).fit(scaler.transform(train), task.train.targets)
        losses[penalty] = dev_loss(model.predict_proba(scaler.transform(dev)), labels), model
    best = min(losses, key=lambda penalty: losses[penalty][0])
    assert fitted.notes["penalty"] == best
    expected = losses[best][1].predict_proba(scaler.transform(test))
    np.testing.assert_allclose(fitted.predict(test * 100 + 7), expected, atol=1e-3)


def test_a_class_that_a_draw_lacks_has_probability_0():
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    labels = Labels(np.array([0, 2, 0, 2, 0, 2]), np.array([1, 0]), 3)
    for fitted in (fit_linear(x, labels), fit_neighbors(x, labels, 3)):
        found = fitted.predict(x)
        assert found.shape == (6, 3) and not found[:, 1].any() and np.allclose(found.sum(1), 1)


def test_shuffled_labels_are_at_chance(task, vectors):
    """AUROC 0.5 lies in the 95 % interval about as often as it should: at least 32 of 40 times."""
    train, _, test = vectors
    inside, draws = [], np.random.default_rng(0)
    for _ in range(40):
        targets, truth = draws.permutation(task.train.targets), draws.permutation(task.test.targets)
        fitted = fit_linear(train, Labels(targets, targets, 2))
        area = bootstrap(truth, [fitted.predict(test)], 2, draws=200)["auroc"]
        low, high = Interval.of(area)
        inside.append(low <= 0.5 <= high)
    assert sum(inside) >= 32
    known = bootstrap(task.test.targets, [fit_linear(train, Labels(task.train.targets, targets, 2)).predict(test)], 2)
    assert Interval.of(known["auroc"]).low > 0.5  # what is not shuffled is above chance


# ---- features --------------------------------------------------------------------------------------------------------


def test_all_layers_and_poolings_of_one_pass_are_those_of_embed(task):
    encoder = tiny_encoder()
    for strands in (False, True):
        reader = EncoderFeatures(encoder, FeatureOptions(average_reverse_complement=strands), CPU)
        found = reader.vectors(task.test, (0, 1, 2))
        for layer in range(3):
            for i, pooling in enumerate(features_module.POOLINGS):
                settings = {"layer": layer, "pooling": pooling, "average_reverse_complement": strands}
                expected = nucel.embed(encoder, task.test.sequences.tokens, **settings)
                np.testing.assert_allclose(found[:, layer, i], expected, atol=1e-6)


def test_tiles_are_those_of_embed(task):
    encoder = tiny_encoder()
    encoder.context = 21
    found = EncoderFeatures(encoder, FeatureOptions(), CPU).vectors(task.test, (-1,))
    expected = nucel.embed(encoder, task.test.sequences.tokens)
    np.testing.assert_allclose(found[:, 0, 1], expected, atol=1e-6)


def test_kmers_are_counted_where_bases_are_known():
    tokens = [nucleotide.encode(text) for text in ("ACGTNAC", "N", "AA")]
    one, two = kmer_frequencies(tokens, (1, 2))[:, :4], kmer_frequencies(tokens, (2,))
    np.testing.assert_allclose(one[0], np.array([2, 2, 1, 1]) / 6)
    assert two[0, 1] == pytest.approx(2 / 4) and two.sum(1) == pytest.approx([1, 0, 1])
    text = "".join(np.random.default_rng(0).choice(list("ACGT"), 50))
    counted = [sum(text[i : i + 3] == a + b + c for i in range(48)) for a in "ACGT" for b in "ACGT" for c in "ACGT"]
    np.testing.assert_allclose(kmer_frequencies([nucleotide.encode(text)], (3,))[0], np.array(counted) / 48)
    assert one_hot(tokens, 8)[0].sum(0).tolist() == [1, 1, 1, 1, 0, 1, 1, 0]


def test_layers_by_name():
    encoder = tiny_encoder()
    assert resolve_layers(["all"], encoder) == (0, 1, 2)
    assert resolve_layers(["-1", "0"], encoder) == (0, 2)
    for wrong in (["3"], ["-4"], ["x"], []):
        with pytest.raises(ConfigError, match="layers"):
            resolve_layers(wrong, encoder)


def test_an_untrained_encoder_has_the_shape_and_other_weights():
    encoder = tiny_encoder()
    first, again, other = (untrained(encoder, seed) for seed in (1, 1, 2))
    name = "layers.0.attn.Wqkv.weight"
    assert first.config == TINY and first.state_dict().keys() == encoder.state_dict().keys()
    assert torch.equal(first.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])
    assert first.state_dict()[name].std().item() == pytest.approx(encoder.state_dict()[name].std().item(), rel=0.1)


# ---- heads that torch trains -----------------------------------------------------------------------------------------


def test_the_encoder_s_weights_stay_bit_for_bit(task):
    encoder = tiny_encoder()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    for head in ("linear", "mlp", "cnn"):
        fit_probe(encoder, task, head=head, max_epochs=1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def test_the_one_hot_cnn_is_the_baseline(task):
    lengths = (max(len(t) for s in task.splits for t in s.sequences.tokens),)
    head = cnn_head("binary", 4, lengths, 2, seed=3).eval()
    baseline = OneHotCNN(lengths[0], 2)
    initialize(baseline, torch.Generator().manual_seed(3))
    baseline.eval()
    maps = one_hot_maps(task.test, lengths)
    (inputs,) = maps.read(np.arange(10))
    from nucel.inference.predict import make_batch

    batch = make_batch(task.test.sequences.tokens[:10], torch.device("cpu"))
    with torch.no_grad():
        assert torch.equal(head(torch.from_numpy(inputs)), baseline(batch.tokens))


@pytest.mark.parametrize("form", ["binary", "mpra", "insert", "splice", "residualbind"])
@pytest.mark.parametrize("channels", [4, 6])
def test_each_form_learns_from_maps(form, channels):
    if form == "residualbind" and channels != 4:
        with pytest.raises(ConfigError, match="one-hot bases only"):
            cnn_head(form, channels, (64,), 1, 0)
        return
    lengths = (40, 33) if form == "splice" else (64,)
    network = cnn_head(form, channels, lengths, 3, seed=0)
    inputs = [torch.randn(5, channels, n) for n in lengths]
    outputs = network(*inputs)
    outputs.square().sum().backward()
    assert outputs.shape == (5, 3) and all(p.grad is not None for p in network.parameters())
    assert cnn_fit(form, channels).lr == (1e-4 if form == "mpra" or (form, channels) == ("insert", 6) else 1e-3)
    with pytest.raises(ConfigError, match="pools"):
        cnn_head(form, channels, (9,), 3, seed=0)


def test_an_mlp_learns_and_predicts_in_evaluation_mode():
    draws = np.random.default_rng(0)
    x = draws.normal(size=(400, 8)).astype(np.float32)
    y = np.stack([1000 + 50 * x[:, 0], 3 * x[:, 1]], 1)
    y[::3, 1] = np.nan
    labels = Labels(y[:300], y[300:], None)
    fitted = fit_network(mlp_head(8, 2, 0), x[:300], x[300:], labels, MLP_FIT, 0, torch.device("cpu"))
    whole, alone = fitted.predict(x[300:]), np.concatenate([fitted.predict(row[None]) for row in x[300:]])
    np.testing.assert_allclose(whole, alone, rtol=1e-4, atol=1e-3)
    assert np.corrcoef(whole[:, 0], y[300:, 0])[0, 1] > 0.8 and 900 < whole[:, 0].mean() < 1100


# ---- cache -----------------------------------------------------------------------------------------------------------


def test_cached_held_and_recomputed_embeddings_give_the_same(task, tmp_path):
    pytest.importorskip("h5py")
    encoder = tiny_encoder()
    variants = [FeatureOptions(cache=tmp_path / "c"), FeatureOptions(cache=tmp_path / "c"), FeatureOptions()]
    variants.append(FeatureOptions(memory_limit_gb=0))
    for head in ("linear", "cnn"):
        probes = [fit_probe(encoder, task, head=head, max_epochs=1, features=options) for options in variants]
        first, *others = (probe.predict(task.dev.sequences.tokens) for probe in probes)
        for other in others:
            np.testing.assert_allclose(first, other, atol=1e-6 if head == "linear" else 2e-2)


def test_a_stale_file_is_never_read(task, tmp_path):
    pytest.importorskip("h5py")

    def files(encoder, split=task.dev, layer=1, dtype=torch.float32, **options):
        precision = Precision(torch.device("cpu"), dtype)
        reader = EncoderFeatures(encoder, FeatureOptions(cache=tmp_path, **options), precision)
        return reader.vectors(split, (layer,)), {path.name for path in tmp_path.glob("*.h5")}

    encoder, seen = tiny_encoder(), set()
    first, seen = files(encoder)
    assert len(seen) == 1
    assert files(encoder)[1] == seen
    changed = tiny_encoder()
    with torch.no_grad():
        changed.final_norm.weight[0] += 1e-3
    for number, other in enumerate(
        [
            lambda: files(changed), lambda: files(encoder, task.test), lambda: files(encoder, layer=0),
            lambda: files(encoder, dtype=torch.bfloat16), lambda: files(encoder, average_reverse_complement=True),
        ],
        start=2,
    ):  # fmt: skip
        _, seen = other()
        assert len(seen) == number
    np.testing.assert_array_equal(files(encoder)[0], first)


def test_a_cache_that_is_too_small_is_refused_before_anything_is_written(task, tmp_path):
    pytest.importorskip("h5py")
    reader = EncoderFeatures(tiny_encoder(), FeatureOptions(cache=tmp_path, cache_limit_gb=1e-6), CPU)
    with pytest.raises(ConfigError, match="--cache-limit-gb"):
        reader.vectors(task.dev, (0,))
    assert not list(tmp_path.iterdir())


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_several_numbers_and_missing_ones(numbers):
    assert numbers.labels is None and numbers.target_names == ("target_a", "target_t") and numbers.outputs == 2
    assert np.isnan(numbers.train.targets[:, 1]).mean() == pytest.approx(2 / 3) and "2 numbers" in numbers.describe()
    assert fit_probe(tiny_encoder(), numbers, head="linear").metrics["pearson"] > 0.5
    with pytest.raises(ConfigError, match=r"nucel\.probe takes such tables"):
        numbers.require_one_input()


def test_two_sequences_a_row(tmp_path):
    task = nucel.read_task(*(write_numbers(tmp_path / f"{i}.csv", 40, i, two=True) for i in range(3)))
    assert "two sequences" in task.describe() and task.train.sequences.names[:2] == ["r0", "r1"]
    left, right = task.test.inputs
    encoder = tiny_encoder()
    found = EncoderFeatures(encoder, FeatureOptions(), CPU).vectors(task.test, (1,))[:, 0, 1]
    expected = np.concatenate([nucel.embed(encoder, side, layer=1) for side in (left, right)], 1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    probe = fit_probe(encoder, task, head="cnn", max_epochs=1)
    assert probe.predict(left, right).shape == (40, 2)
    with pytest.raises(InputError, match=r"give 2 list\(s\)"):
        probe.predict(left)


def test_leaks_of_two_sequences_are_of_the_whole_row(tmp_path):
    reverse = lambda text: nucleotide.decode(nucleotide.reverse_complement(nucleotide.encode(text)))  # noqa: E731
    header = "sequence_left,sequence_right,label\n"
    (tmp_path / "a.csv").write_text(header + "AAAC,GGTA,0\nCCCA,TTGA,1\n")
    (tmp_path / "b.csv").write_text(header + f"AAAC,GGTA,0\n{reverse('TTGA')},{reverse('CCCA')},1\nAAAC,TTGA,1\n")
    task = nucel.read_task(tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "b.csv")
    assert (task.leaked, task.leaked_reverse) == (1, 1)


def test_wrong_tables_of_several_numbers_are_refused(tmp_path):
    good = write_numbers(tmp_path / "a.csv", 10, 0)
    (tmp_path / "b.csv").write_text("sequence,target_a\nACGT,1\nAAAA,2\n")
    with pytest.raises(InputError, match=r"b\.csv has the numbers target_a, but .*a\.csv has target_a, target_t"):
        nucel.read_task(good, tmp_path / "b.csv", tmp_path / "b.csv")
    (tmp_path / "c.csv").write_text("sequence,target_a,target_t\nACGT,1,x\nAAAA,2,1\n")
    with pytest.raises(InputError, match=r"c\.csv, line 2, target_t: 'x' is not a number"):
        nucel.read_task(tmp_path / "c.csv", good, good)
    (tmp_path / "d.csv").write_text("sequence,target_a,target_t\nACGT,1,\nAAAA,2,1\n")
    with pytest.raises(InputError, match="fewer than two measured numbers"):
        nucel.read_task(tmp_path / "d.csv", good, good)
