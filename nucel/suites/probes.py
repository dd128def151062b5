"""Frozen probes of a model beside their controls, all on one task.

model, untrained encoders, MLM control --one pass each--> vectors of all layers --heads--> fits
one-hot bases, dinucleotides, 1- to 6-mers ----------------------------------------^
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from ..model.encoder import Encoder
from ..runtime.cli import progress_bar
from ..runtime.device import Precision
from ..tasks.classifier import HeadOptions, make_classifier
from ..tasks.features import (
    POOLINGS,
    EncoderFeatures,
    FeatureOptions,
    composition_features,
    longest,
    one_hot_features,
    one_hot_maps,
    untrained,
)
from ..tasks.fit import FitOptions, fit
from ..tasks.metrics import metrics_of
from ..tasks.network_heads import Inputs
from ..tasks.predictions import evaluate
from ..tasks.probe import DRAWN, HeadName, ProbeHeadOptions, fit_head, labels_of
from ..tasks.task import Split, Task
from .probe_table import (
    CONSTANT,
    CONTROL,
    DINUCLEOTIDES,
    FINE_TUNED,
    KMERS,
    MODEL,
    ONE_HOT,
    UNTRAINED,
    Fit,
    main_metric,
)

COMPOSITIONS = {DINUCLEOTIDES: (2,), KMERS: (1, 2, 3, 4, 5, 6)}


@dataclass(frozen=True)
class Plan:
    """What is fitted.

    Attributes:
        layers: counted from 0, ascending.
        poolings: of the vectors.
        seeds: of untrained encoders, MLPs, CNNs and fine-tuning.
    """

    heads: tuple[HeadName, ...]
    poolings: tuple[str, ...]
    layers: tuple[int, ...]
    seeds: tuple[int, ...]
    features: FeatureOptions = field(default_factory=FeatureOptions)
    options: ProbeHeadOptions = field(default_factory=ProbeHeadOptions)

    @property
    def vector_heads(self) -> tuple[HeadName, ...]:
        return tuple(head for head in self.heads if head != "cnn")


class Source(NamedTuple):
    """Where embeddings are from."""

    name: str
    encoder: Encoder
    seed: int | None = None
    """Of an untrained encoder's weights."""


class Vectors(NamedTuple):
    """One vector per row of each table, and what they are."""

    features: str
    pooling: str
    layer: int | None
    seed: int | None
    splits: tuple[Inputs, Inputs, Inputs]
    """Of train, dev and test."""
    layers: tuple[int, ...] = ()
    """All layers that are probed of the same encoder."""


def sources(encoder: Encoder, control: Encoder | None, seeds: tuple[int, ...]) -> Iterator[Source]:
    """The model, untrained encoders of its shape, one for each seed, and the MLM control where there is one."""
    yield Source(MODEL, encoder)
    for seed in seeds:
        yield Source(UNTRAINED, untrained(encoder, seed), seed)
    if control is not None:
        yield Source(CONTROL, control)


def embedded(source: Source, task: Task, plan: Plan, precision: Precision) -> Iterator[Vectors]:
    """The vectors of every layer and pooling, from one pass over each table."""
    reader = EncoderFeatures(source.encoder, plan.features, precision, progress=True)
    layers = plan.layers if source.name != CONTROL else _within(plan.layers, source.encoder)
    tables = [reader.vectors(split, layers) for split in task.splits]
    for i, layer in enumerate(layers):
        for pooling in plan.poolings:
            train, dev, test = (np.ascontiguousarray(table[:, i, POOLINGS.index(pooling)]) for table in tables)
            yield Vectors(source.name, pooling, layer, source.seed, (train, dev, test), layers)


def _within(layers: tuple[int, ...], encoder: Encoder) -> tuple[int, ...]:
    """The layers that an encoder of another depth has."""
    return tuple(sorted({min(layer, encoder.config.layers) for layer in layers}))


def without_network(task: Task) -> Iterator[Vectors]:
    """One-hot bases as one vector, dinucleotides, and 1- to 6-mers."""
    lengths = longest(task)
    yield _vectors(ONE_HOT, task, lambda split: one_hot_features(split, lengths))
    for name, ks in COMPOSITIONS.items():
        yield _vectors(name, task, lambda split, ks=ks: composition_features(split, ks))


def _vectors(name: str, task: Task, make: Any) -> Vectors:
    train, dev, test = (make(split) for split in task.splits)
    return Vectors(name, "", None, None, (train, dev, test))


def all_fits(
    encoder: Encoder,
    control: Encoder | None,
    task: Task,
    plan: Plan,
    precision: Precision,
    also: Callable[[Vectors], None] | None = None,
) -> Iterator[Fit]:
    """Every head on every kind of features; the constant guess comes last.

    Args:
        also: is called with all vectors, while they are held: few-shot curves need no second pass.

    Raises:
        ConfigError, InputError: sequences that a head cannot take, or a cache that is too small.
        TrainingError: a loss that is not finite.
    """
    for source in sources(encoder, control, plan.seeds):
        if plan.vector_heads or also is not None:
            for vectors in embedded(source, task, plan, precision):
                yield from _vector_fits(vectors, task, plan, precision, also)
        if "cnn" in plan.heads:
            yield from _map_fits(source, task, plan, precision)
    for vectors in without_network(task):
        yield from _vector_fits(vectors, task, plan, precision, also)
    if "cnn" in plan.heads:
        train, dev, test = (one_hot_maps(split, longest(task)) for split in task.splits)
        maps = Vectors(ONE_HOT, "per base", None, None, (train, dev, test))
        yield from _fits(maps, "cnn", task, plan, precision)
    yield constant(task)


def _vector_fits(
    vectors: Vectors, task: Task, plan: Plan, precision: Precision, also: Callable[[Vectors], None] | None
) -> Iterator[Fit]:
    """Every head that reads vectors."""
    for head in plan.vector_heads:
        yield from _fits(vectors, head, task, plan, precision)
    if also is not None:
        also(vectors)


def _map_fits(source: Source, task: Task, plan: Plan, precision: Precision) -> Iterator[Fit]:
    reader = EncoderFeatures(source.encoder, plan.features, precision, progress=True)
    for layer in _within(plan.layers, source.encoder):
        train, dev, test = (reader.maps(split, layer, longest(task)) for split in task.splits)
        maps = Vectors(source.name, "per base", layer, source.seed, (train, dev, test))
        yield from _fits(maps, "cnn", task, plan, precision)


def _fits(vectors: Vectors, head: HeadName, task: Task, plan: Plan, precision: Precision) -> Iterator[Fit]:
    """One fit; where the head is drawn and the features are not, one for each seed."""
    given = vectors.seed
    seeds = plan.seeds if head in DRAWN and given is None else (given,)
    for seed in seeds:
        yield fit_one(vectors, head, task, plan, precision, seed)


def fit_one(vectors: Vectors, head: HeadName, task: Task, plan: Plan, precision: Precision, seed: int | None) -> Fit:
    """A head on one kind of features, and its outputs for the test table."""
    started = time.perf_counter()
    train, dev, test = vectors.splits
    what = f"{head} on {vectors.features}"
    with progress_bar() if head in DRAWN else contextlib.nullcontext(_show_nothing) as show:

        def named(done: int, total: int, text: str) -> None:
            show(done, total, f"{what}, {text}")

        fitted = fit_head(head, train, dev, labels_of(task), plan.options, seed or 0, precision.device, named)
    outputs, dev_outputs = fitted.predict(test), fitted.predict(dev)
    found = _measured(task.test, outputs, task)
    dev_value = _measured(task.dev, dev_outputs, task)[main_metric(task)]
    seconds = time.perf_counter() - started
    place = (vectors.features, vectors.pooling, vectors.layer, head, seed)
    return Fit(*place, dev_value, found, outputs, fitted.notes, seconds)


def _show_nothing(done: int, total: int, text: str) -> None:
    """For heads that are fitted at once."""


def _measured(split: Split, outputs: np.ndarray, task: Task) -> dict[str, float]:
    return metrics_of(split.targets, outputs, task.labels is not None)


def constant(task: Task) -> Fit:
    """The shares of the classes in the training table, or its means: what needs no sequence."""
    targets = task.train.targets
    if task.labels is not None:
        guess = np.bincount(targets, minlength=len(task.labels)) / len(targets)
        head = "majority class"
    else:
        guess, head = np.nanmean(targets.reshape(len(targets), -1), 0), "mean"
    outputs, dev = (np.tile(guess.astype(np.float32), (len(s.targets), 1)) for s in (task.test, task.dev))
    value = _measured(task.dev, dev, task)[main_metric(task)]
    return Fit(CONSTANT, "", None, head, None, value, _measured(task.test, outputs, task), outputs, {}, 0.0)


def fine_tuned(
    encoder: Encoder, task: Task, head: HeadOptions, options: FitOptions, seeds: tuple[int, ...], precision: Precision
) -> Iterator[Fit]:
    """The whole network trained on the task, once for each seed; the encoder that is given stays as it is."""
    both = options.average_reverse_complement
    for seed in seeds:
        network = make_classifier(encoder, task.labels, head, seed, from_scratch=False).to(precision.device)
        with progress_bar() as show:
            result = fit(network, task, options, seed, precision, show)
        dev, test = (evaluate(network, task, split, precision, both) for split in (task.dev, task.test))
        notes = {"dev_loss": result.best.dev_loss}
        place = (FINE_TUNED, head.classifier_pooling, None, "fine-tuning", seed)
        yield Fit(*place, dev.metrics[main_metric(task)], test.metrics, test.outputs, notes, result.seconds)


def limited(task: Task, rows: int | None) -> Task:
    """A task of at most so many rows of each table, drawn once, in their order; leaks are those of the whole task."""
    if rows is None:
        return task

    def some(split: Split) -> Split:
        if len(split.targets) <= rows:
            return split
        return split.take(np.sort(np.random.default_rng(0).permutation(len(split.targets))[:rows]))

    return replace(task, train=some(task.train), dev=some(task.dev), test=some(task.test))
