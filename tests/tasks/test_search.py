"""The search of a learning rate and a pooling: what it tries, what it costs, and what it takes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.tiny import planted_rows, tiny_encoder

from nucel.genome.sequences import Sequences
from nucel.runtime.device import Precision
from nucel.runtime.errors import ConfigError, TrainingError
from nucel.tasks import search as searching
from nucel.tasks.fit import FitOptions
from nucel.tasks.search import SearchedFitOptions, SearchedHeadOptions, Trial, plan_search, search, trial_steps
from nucel.tasks.task import Split, Task
from nucel.tokenizers import nucleotide

pytest.importorskip("sklearn")

CPU = Precision(torch.device("cpu"), torch.float32)
OPEN, HEAD = SearchedFitOptions(), SearchedHeadOptions()


def split(rows) -> Split:
    texts, targets = zip(*rows, strict=True)
    names = [str(i) for i in range(len(texts))]
    tokens = [nucleotide.encode(text) for text in texts]
    return Split(Sequences(None, names, tokens, names, {}), np.array(targets), list(map(str, targets)))


def task(train=320, dev=80, labels=("0", "1")) -> Task:
    return Task(labels, *(split(planted_rows(n, seed)) for seed, n in enumerate((train, dev, 20))), 0, 0)


def fake_fit(losses, seen=None):
    """Stands in for training: a dev loss for each (rate, pooling)."""

    def fit(network, task, options, seed, precision, show):
        if seen is not None:
            seen.append((options, seed, task))
        loss = losses[options.lr, network.pooling]
        if not math.isfinite(loss):
            raise TrainingError("the loss is nan: lower --lr")

        class Fitted:
            class best:
                dev_loss = loss

        return Fitted

    return fit


def searched(monkeypatch, losses, options=OPEN, head=HEAD, seen=None):
    monkeypatch.setattr(searching, "fit", fake_fit(losses, seen))
    whole = task()
    return search(plan_search(whole, options, head, (0, 1)), tiny_encoder(), whole, head, False, CPU)


def losses(mean=(0.6, 0.5, 0.4, 0.5), cls=0.45) -> dict[tuple[float, str], float]:
    rates = searching.RATES
    return {(rate, "mean"): loss for rate, loss in zip(rates, mean, strict=True)} | {(r, "cls"): cls for r in rates}


def test_a_network_that_learns_nothing_at_the_protocol_s_rate_learns_at_the_one_that_is_found():
    whole = task()
    plan = plan_search(whole, OPEN, HEAD, (0,))
    found = search(plan, tiny_encoder(), whole, HEAD, False, CPU)
    assert found.decided and found.best.lr > 1e-4 and found.best.classifier_pooling == "mean"
    slow = found.trials[0]
    assert slow.lr == 3e-5 and slow.dev_loss > 0.99 * found.constant_guess > found.best.dev_loss


def test_rates_are_tried_first_and_poolings_at_the_best_of_them(monkeypatch):
    found = searched(monkeypatch, losses())
    order = [(trial.lr, trial.classifier_pooling) for trial in found.trials]
    assert order == [*((rate, "mean") for rate in searching.RATES), (5e-4, "cls")]
    assert found.best == Trial(5e-4, "mean", 0.4) and found.decided
    assert searched(monkeypatch, losses(cls=0.3)).best == Trial(5e-4, "cls", 0.3)


def test_of_equal_losses_the_lowest_rate_and_the_first_pooling_are_taken(monkeypatch):
    assert searched(monkeypatch, losses((0.6, 0.4, 0.4, 0.4), 0.4)).best == Trial(1e-4, "mean", 0.4)


def test_a_rate_whose_loss_is_not_finite_is_passed_over_and_recorded(monkeypatch):
    found = searched(monkeypatch, losses((0.6, 0.5, 0.4, math.nan), math.nan))
    assert found.best == Trial(5e-4, "mean", 0.4)
    assert [trial["dev_loss"] for trial in found.record()["trials"]] == [0.6, 0.5, 0.4, None, None]
    with pytest.raises(TrainingError, match=r"not finite with any setting.*lr 3e-05, pooling mean.*lower --lr"):
        searched(monkeypatch, losses([math.nan] * 4, math.nan))


def test_losses_that_are_those_of_a_constant_guess_decide_nothing(monkeypatch):
    """ln 2 is a constant guess's loss; a thousandth below it is noise, whichever rate it is at."""
    found = searched(monkeypatch, losses((0.693, 0.693, 0.695, 0.692), 0.692))
    assert not found.decided and found.best == Trial(5e-4, "mean", 0.695) and found.record()["decided"] is False
    given_rate = searched(
        monkeypatch, {(2e-3, "mean"): 0.6925, (2e-3, "cls"): 0.692}, options=SearchedFitOptions(lr=2e-3)
    )
    assert not given_rate.decided and given_rate.best.classifier_pooling == "mean"
    gone = searched(monkeypatch, losses((0.693, 0.693, math.nan, 0.692), 0.693))
    assert not gone.decided and gone.best == Trial(1e-3, "mean", 0.692)


def test_what_is_given_is_not_searched(monkeypatch):
    rate = SearchedFitOptions(lr=2e-3)
    pooling = SearchedHeadOptions(classifier_pooling="cls")
    assert plan_search(task(), rate, pooling, (0,)) is None
    known = {(2e-3, "mean"): 0.5, (2e-3, "cls"): 0.4}
    found = searched(monkeypatch, known, options=rate)
    assert [trial.lr for trial in found.trials] == [2e-3] * 2 and found.best.classifier_pooling == "cls"
    found = searched(monkeypatch, losses(), head=pooling)
    assert [trial.classifier_pooling for trial in found.trials] == ["cls"] * 4


def test_trials_have_a_seed_of_their_own_and_never_see_the_test_table(monkeypatch):
    seen = []
    searched(monkeypatch, losses(), seen=seen)
    assert {seed for _, seed, _ in seen} == {2} and len(seen) == 5
    test = {name.tobytes() for name in task().test.sequences.tokens}
    for _, _, small in seen:
        assert not test & {tokens.tobytes() for part in small.splits for tokens in part.sequences.tokens}


@given(one=st.integers(1, 10**5), seeds=st.integers(1, 9), trials=st.integers(2, 5), validation=st.floats(0, 40))
def test_the_cost_is_bounded(one, seeds, trials, validation):
    """At most a third of the training, but 20 steps a trial; never more than one training, or 300."""
    steps = trial_steps(one, seeds, trials, validation)
    third = trials * (steps + validation) <= one * seeds / 3
    assert 1 <= steps <= min(one, 300) and (third or steps <= 20)


@pytest.mark.parametrize("epochs", ["auto", 1, 7])
@pytest.mark.parametrize(("rows", "batch"), [(2, 32), (40, 32), (90, 1), (333, 8), (2000, 32)])
def test_a_plan_keeps_to_its_steps(rows, batch, epochs):
    whole = Task(("0", "1"), numbered(rows), numbered(60), numbered(1), 0, 0)
    options = SearchedFitOptions(batch_size=batch, epochs=epochs)
    plan = plan_search(whole, options, HEAD, (0, 1, 2))
    one = options.at(1e-3, rows).steps(rows)
    allowed = trial_steps(one, 3, 5, 60 / batch / 3)
    assert allowed / 2 < plan.steps <= max(2, allowed)
    assert plan.steps == plan.fit.steps(len(plan.train.targets)) == plan.fit.validate_every
    assert plan.share == pytest.approx(5 * (plan.steps + 60 / batch / 3) / (3 * one))
    assert len(plan.dev.targets) == 60 and len(plan.train.targets) <= rows
    assert f"5 settings (lr 3e-05, 0.0001, 0.0005, 0.001; pooling mean, cls), {plan.steps} steps" in plan.describe()


def numbered(rows: int) -> Split:
    names = [str(i) for i in range(rows)]
    return Split(Sequences(None, names, [np.zeros(1, np.uint8)] * rows, names, {}), np.arange(rows) % 2, names)


def test_a_share_of_rows_keeps_the_classes_shares_and_the_extremes():
    rows = [("ACGT", int(i < 30)) for i in range(300)]
    part = searching._stratified(split(rows), 50, 0)
    assert part.targets.sum() == 5 and len(part.targets) == len(set(part.sequences.names)) == 50
    values = split([("ACGT", 0.0)] * 400 + [("ACGT", 7.5)])
    assert sorted(set(searching._stratified(values, 20, 0).targets)) == [0, 7.5]
    other = searching._stratified(split(rows), 50, 1)
    assert other.sequences.names != part.sequences.names


def test_numbers_are_searched_in_units_of_the_training_rows():
    rows = [[(text, 950.0 + 100 * label) for text, label in planted_rows(n, i)] for i, n in enumerate((200, 60, 20))]
    numbers = Task(None, *map(split, rows), 0, 0)
    plan = plan_search(numbers, SearchedFitOptions(lr=2e-3), HEAD, (0,))
    found = search(plan, tiny_encoder(), numbers, HEAD, False, CPU)
    assert found.constant_guess == pytest.approx(1, abs=0.1)
    assert found.decided and found.best.dev_loss < 0.9


def test_epochs_are_three_and_more_on_small_tables():
    for rows, epochs in ((100_000, 3), (6000, 3), (2000, 8), (320, 20), (3, 20)):
        assert SearchedFitOptions().epochs_on(rows) == epochs
    assert SearchedFitOptions(epochs=5).at(1e-3, 320) == FitOptions(epochs=5, lr=1e-3)
    given_all = SearchedFitOptions(epochs=2, batch_size=8, decay="plateau", patience=3).at(1e-2, 10)
    assert given_all == FitOptions(epochs=2, batch_size=8, decay="plateau", patience=3, lr=1e-2)


@pytest.mark.parametrize("options", [{"epochs": 0}, {"lr": 0}, {"lr": math.inf}, {"lr": math.nan}, {"batch_size": 0}])
def test_bad_options_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        SearchedFitOptions(**options)


def test_a_search_is_a_function_of_its_seeds_and_leaves_the_encoder_as_it_was():
    encoder, whole = tiny_encoder(), task(40, 20)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    options = SearchedFitOptions(lr=5e-3, epochs=1, augment_reverse_complement=True)

    def losses(*seeds):
        plan = plan_search(whole, options, HEAD, seeds)
        return [trial.dev_loss for trial in search(plan, encoder, whole, HEAD, False, CPU).trials]

    assert losses(0) == losses(0) != losses(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
