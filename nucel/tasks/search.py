"""A short search, before fine-tuning, of what suits a model and a table: learning rate and pooling, by the dev loss.

    settings --a few steps each, on a share of the rows--> dev losses --the lowest--> the setting of the training

Published rates suit large pre-trained encoders. A small encoder, or one that was trained for a short time, learns
nothing with them, so rate and pooling are tried out where the user gives none. The test table takes no part.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from ..model.encoder import Encoder
from ..runtime.device import Precision
from ..runtime.errors import TrainingError
from .classifier import HeadLayers, HeadOptions, Pooling, make_classifier
from .fit import FitOptions, TargetScale, TrainingOptions, fit, require_count, require_rate
from .task import Split, Task

Auto = Literal["auto"]


class Protocol(NamedTuple):
    """What the paper's protocol, DNABERT-2's, fine-tunes with."""

    lr: float
    classifier_pooling: Pooling
    epochs: int


PROTOCOL = Protocol(3e-5, "cls", 3)
RATES = (3e-5, 1e-4, 5e-4, 1e-3)
"""What is tried where no rate is given: the paper's first, then what small encoders need."""
SHARE = 1 / 3
"""Of the steps of the whole training, all seeds together, that the search may take."""
_LEAST_STEPS, _MOST_STEPS = 20, 300
"""Steps for a setting: fewer show nothing, more are not needed. The least may exceed the share in a short training."""
_DEV_ROWS = 1000
_BACKWARD = 3
"""What a training step costs in forward passes of as many rows."""
_EPOCHS, _MOST_EPOCHS, _ENOUGH_STEPS = 3, 20, 500
_MARGIN = 0.01
"""A dev loss that is not below a constant guess's by this share has shown nothing."""
_UNDECIDED_RATE = 5e-4
"""What a `small` model learned with on small tables, where a search showed nothing (benchmarks/NOTES.md)."""


@dataclass(frozen=True, kw_only=True)
class SearchedFitOptions(TrainingOptions):
    """How a network is trained on a task; the rate and the epochs suit the model and the table."""

    epochs: int | Auto = "auto"
    """Passes over the training table. auto is 3; on a small table, as many as make 500 steps, at most 20."""
    lr: float | Auto = "auto"
    """Peak learning rate of AdamW. auto tries several for some steps and takes the one with the lowest dev loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs != "auto":
            require_count("epochs", self.epochs)
        if self.lr != "auto":
            require_rate(self.lr)

    def epochs_on(self, rows: int) -> int:
        """Passes over a training table of so many rows."""
        if self.epochs != "auto":
            return self.epochs
        return min(_MOST_EPOCHS, max(_EPOCHS, math.ceil(_ENOUGH_STEPS / self.steps_an_epoch(rows))))

    def at(self, lr: float, rows: int) -> FitOptions:
        """With a rate, on a training table of so many rows."""
        same = {f.name: getattr(self, f.name) for f in dataclasses.fields(TrainingOptions)}
        return FitOptions(lr=lr, epochs=self.epochs_on(rows), **same)


@dataclass(frozen=True, kw_only=True)
class SearchedHeadOptions(HeadLayers):
    """How an encoder becomes a classifier; the pooling suits the model."""

    classifier_pooling: Pooling | Auto = "auto"
    """What of the encoder's output is classified: [CLS], or the mean of all positions, [CLS] included, as transformers'
    setting of this name has it. The paper takes [CLS]; auto tries both, as --lr does."""

    def at(self, pooling: Pooling) -> HeadOptions:
        return HeadOptions(classifier_pooling=pooling, head=self.head)


class Trial(NamedTuple):
    """A setting, and what it gave."""

    lr: float
    classifier_pooling: Pooling
    dev_loss: float = math.nan
    """In nats, or in variances of the training rows; nan before the trial, inf where a loss was not finite."""

    def __str__(self) -> str:
        return f"lr {self.lr:g}, pooling {self.classifier_pooling}"

    def record(self) -> dict[str, Any]:
        return {**self._asdict(), "dev_loss": self.dev_loss if math.isfinite(self.dev_loss) else None}


class Plan(NamedTuple):
    """What a search does. Rates are tried with the first pooling, then the other poolings at the best rate."""

    rates: tuple[float, ...]
    poolings: tuple[Pooling, ...]
    steps: int
    """Of each trial."""
    fit: FitOptions
    """Of each trial, at any rate."""
    train: Split
    dev: Split
    share: float
    """What all trials cost, as a share of the whole training, validations included."""
    seed: int

    @property
    def trials(self) -> int:
        return len(self.rates) + len(self.poolings) - 1

    def describe(self) -> str:
        return (
            f"Search: {self.trials} settings (lr {', '.join(f'{rate:g}' for rate in self.rates)}; pooling "
            f"{', '.join(self.poolings)}), {self.steps} steps each on {len(self.train.targets):,} rows, judged by the "
            f"loss on {len(self.dev.targets):,} dev rows; it costs about {self.share:.0%} of the training. --lr and "
            f"--classifier-pooling leave it out"
        )


@dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes:
        trials: in the order in which they were done.
        constant_guess: the dev loss of always predicting the classes' shares, or the mean.
        best: of `trials`.
        seconds: in all trials.
    """

    plan: Plan
    trials: tuple[Trial, ...]
    constant_guess: float
    best: Trial
    seconds: float

    @property
    def decided(self) -> bool:
        """Whether a trial has learned anything: else the losses are noise, and `best` is a usual setting."""
        return _learned(self.trials, self.constant_guess)

    def record(self) -> dict[str, Any]:
        """For result.json."""
        return {
            "trials": [trial.record() for trial in self.trials],
            "constant_guess": self.constant_guess,
            "decided": self.decided,
            "steps": self.plan.steps,
            "train_rows": len(self.plan.train.targets),
            "dev_rows": len(self.plan.dev.targets),
            "share_of_training": round(self.plan.share, 4),
            "seed": self.plan.seed,
            "seconds": round(self.seconds, 2),
        }


def plan_search(
    task: Task, options: SearchedFitOptions, head: SearchedHeadOptions, seeds: tuple[int, ...]
) -> Plan | None:
    """How to find what the options leave open; None where they leave nothing open.

    The trials take at most a third of the steps of the training with all seeds, but 20 steps each, and never more each
    than 300 or than one training has. Their seed is none of the training's.
    """
    rates = RATES if options.lr == "auto" else (options.lr,)
    poolings: tuple[Pooling, ...] = ("mean", "cls")
    if head.classifier_pooling != "auto":
        poolings = (head.classifier_pooling,)
    trials = len(rates) + len(poolings) - 1
    if trials == 1:
        return None
    rows, seed = len(task.train.targets), max(seeds) + 1
    whole = options.at(rates[0], rows)
    one = whole.steps(rows)
    dev = _stratified(task.dev, min(_DEV_ROWS, len(task.dev.targets)), seed)
    validation = len(dev.targets) / whole.batch_size / _BACKWARD  # in training steps
    steps = trial_steps(one, len(seeds), trials, validation)
    epochs = math.ceil(steps / whole.steps_an_epoch(rows))
    train = _stratified(task.train, min(rows, max(2, steps // epochs * whole.batch_size)), seed)
    each = dataclasses.replace(
        whole, epochs=epochs, warmup_steps=round(whole.warmup_steps * steps / one), patience=None
    )  # fmt: skip
    steps = each.steps(len(train.targets))
    each = dataclasses.replace(each, validate_every=steps)
    share = trials * (steps + validation) / (one * len(seeds))
    return Plan(rates, poolings, steps, each, train, dev, share, seed)


def trial_steps(one: int, trainings: int, trials: int, validation: float) -> int:
    """Steps of each trial before trainings of `one` steps each; its validation costs as much as so many steps."""
    affordable = int(SHARE * one * trainings / trials - validation)
    return min(one, _MOST_STEPS, max(_LEAST_STEPS, affordable))


def _stratified(split: Split, rows: int, seed: int) -> Split:
    """So many rows: evenly spaced in the order of the targets, so that shares of classes and extremes stay."""
    shuffled = np.random.default_rng(seed).permutation(len(split.targets))
    ranked = shuffled[np.argsort(split.targets[shuffled], kind="stable")]
    return split.take(np.sort(ranked[np.linspace(0, len(ranked) - 1, rows).round().astype(int)]))


def search(
    plan: Plan,
    encoder: Encoder,
    task: Task,
    head: SearchedHeadOptions,
    from_scratch: bool,
    precision: Precision,
    show: Callable[[int, int, str], None] = lambda step, steps, text: None,
    tell: Callable[[Trial], None] = lambda trial: None,
) -> Search:
    """Carry out a plan. The lowest dev loss wins; of equal ones the first, which is the lowest rate.

    Args:
        show: is told the step, the number of steps, and what is tried.
        tell: is told every trial when it is done.

    Raises:
        TrainingError: no setting has a finite loss.
    """
    started = time.perf_counter()
    small = dataclasses.replace(task, train=plan.train, dev=plan.dev, test=plan.dev)
    trials: list[Trial] = []

    def attempt(lr: float, pooling: Pooling) -> None:
        done, text = len(trials) * plan.steps, f"lr {lr:g}, pooling {pooling}"
        network = make_classifier(encoder, task.labels, head.at(pooling), plan.seed, from_scratch)
        network.to(precision.device)
        options = dataclasses.replace(plan.fit, lr=lr)
        try:
            fitted = fit(
                network, small, options, plan.seed, precision,
                lambda step, steps, _: show(done + step, plan.trials * steps, text),
            )  # fmt: skip
            loss = fitted.best.dev_loss
        except TrainingError:  # a rate that is too high for this model: the others are tried
            loss = math.inf
        trials.append(Trial(lr, pooling, loss))
        tell(trials[-1])

    for lr in plan.rates:
        attempt(lr, plan.poolings[0])
    fastest = min(trials, key=lambda trial: trial.dev_loss)
    for pooling in plan.poolings[1:]:
        attempt(fastest.lr, pooling)
    guess = constant_guess(task, plan)
    return Search(plan, tuple(trials), guess, _choose(trials, guess), time.perf_counter() - started)


def _choose(trials: list[Trial], guess: float) -> Trial:
    best = min(trials, key=lambda trial: trial.dev_loss)
    if not math.isfinite(best.dev_loss):
        tried = "; ".join(map(str, trials))
        raise TrainingError(f"the loss is not finite with any setting that was tried ({tried}): give a lower --lr")
    if _learned(tuple(trials), guess):
        return best
    rate = _UNDECIDED_RATE if len({trial.lr for trial in trials}) > 1 else best.lr
    usual = [trial for trial in trials if trial.lr == rate and math.isfinite(trial.dev_loss)]
    return usual[0] if usual else best


def _learned(trials: tuple[Trial, ...], guess: float) -> bool:
    return min(trial.dev_loss for trial in trials) < (1 - _MARGIN) * guess


def constant_guess(task: Task, plan: Plan) -> float:
    """The plan's dev loss of what needs no sequence: the shares of the classes, or the mean, of the training rows."""
    if task.labels is None:
        return float(np.square(TargetScale.of(plan.train.targets).standardized(plan.dev.targets)).mean())
    shares = np.bincount(task.train.targets, minlength=task.outputs) / len(task.train.targets)
    return float(-np.log(shares[plan.dev.targets]).mean())
