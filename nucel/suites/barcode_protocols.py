"""What is done with embeddings of barcodes, after BarcodeMAE and BarcodeBERT, and how it is scored.

| evaluation | protocol | main figure |
|---|---|---|
| genus of unseen species | the nearest row, by cosine, among the species that are not held out | accuracy |
| species | the nearest training row | accuracy |
| species, linear probe | one linear layer on frozen vectors, trained on the training rows | accuracy |
| clusters | of test rows and unseen species: UMAP (or PCA) to 50 dimensions, then Ward's | AMI x 100, species |

Each is scored twice: on all rows, and without rows whose sequence is that of a reference row.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..runtime.errors import require
from ..tasks.intervals import Interval
from .barcode_sets import BarcodeSet, held_out_species

Embedding = Callable[[Sequence[np.ndarray]], np.ndarray]
"""From n arrays of tokens to vectors, (n, C)."""
Nearest = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From the numbers of reference rows and of query rows to each query's nearest reference row, by its number."""
GENUS, SPECIES, PROBE, CLUSTERS = "genus of unseen species", "species", "species, linear probe", "clusters"
ALL, NEW = "all", "not identical"
_BATCH, _EPOCHS, _LR, _MOMENTUM, _DECAY = 64, 200, 0.01, 0.9, 1e-5
_DIMENSIONS, _NEIGHBOURS, _UMAP_SEED = 50, 10, 42


@dataclass(frozen=True, kw_only=True)
class ProtocolOptions:
    """How embeddings of barcodes are evaluated."""

    split_seed: int = 0
    """Of the draw of the species that are held out as unseen."""
    unseen_share: float = 1 / 3
    """Share of the species that are held out, among those whose genus has two or more."""
    reduction: str = "auto"
    """umap or pca before clustering; auto takes umap if umap-learn is installed."""
    draws: int = 1000
    """Of the bootstrap over sequences that gives the 95 % intervals; a tenth of them for clusters."""

    def __post_init__(self) -> None:
        require(0 < self.unseen_share < 1, f"unseen_share must lie between 0 and 1, got {self.unseen_share}")
        require(self.reduction in ("auto", "umap", "pca"), f"reduction must be auto, umap or pca, not {self.reduction}")
        require(self.draws >= 10, f"draws must be at least 10, got {self.draws}")
        missing = self.reduction == "umap" and importlib.util.find_spec("umap") is None
        require(not missing, "--reduction umap needs umap-learn, which is not installed: pip install 'nucel[barcodes]'")

    @property
    def chosen_reduction(self) -> str:
        if self.reduction != "auto":
            return self.reduction
        return "pca" if importlib.util.find_spec("umap") is None else "umap"


class Row(NamedTuple):
    """One line of the table."""

    set: str
    evaluation: str
    method: str
    seed: int
    rows: str
    """ALL, or NEW: without rows that are identical to a reference row."""
    n: int
    metrics: dict[str, float]
    """The main figure first."""
    low: float
    high: float
    """95 % interval of the main figure."""


class World(NamedTuple):
    """Which rows of a set are reference and which are asked for, int64 arrays of their numbers."""

    unseen: np.ndarray
    """Rows of species that are held out, of both files."""
    reference: np.ndarray
    """All other rows, of both files."""
    train: np.ndarray
    test: np.ndarray
    """Of the test file, those whose species the training file has."""
    clustered: np.ndarray
    """Of the test file, or unseen."""

    @classmethod
    def of(cls, barcodes: BarcodeSet, options: ProtocolOptions) -> World:
        held = np.isin(barcodes.species, held_out_species(barcodes, options.split_seed, options.unseen_share))
        known = np.isin(barcodes.species, barcodes.species[~barcodes.in_test])
        masks = (held, ~held, ~barcodes.in_test, barcodes.in_test & known, barcodes.in_test | held)
        return cls(*map(np.flatnonzero, masks))


def evaluate(
    barcodes: BarcodeSet,
    method: str,
    embed: Embedding,
    options: ProtocolOptions | None = None,
    seeds: Sequence[int] = (0,),
) -> list[Row]:
    """All rows of the table for one set and one way of embedding.

    Args:
        method: its name in the table.
        embed: gives a vector for each sequence; it is called once, with all of the set.
        seeds: one linear probe for each. What draws nothing is computed once, under the first of them.
    """
    options = options or ProtocolOptions()
    vectors = np.asarray(embed(barcodes.tokens), np.float32)
    world = World.of(barcodes, options)
    rows = by_neighbours(barcodes, method, cosine_neighbours(vectors), options, seeds[0])
    for seed in seeds:
        found = linear_probe(vectors[world.train], barcodes.species[world.train], vectors[world.test], seed)
        rows += _scored(barcodes, PROBE, method, world.train, world.test, barcodes.species, found, options, seed)
    return rows + _clustered(barcodes, method, vectors, world.clustered, options, seeds[0])


def _clustered(
    barcodes: BarcodeSet, method: str, vectors: np.ndarray, queries: np.ndarray, options: ProtocolOptions, seed: int
) -> list[Row]:
    species = barcodes.species[queries]
    found = clusters(vectors[queries], len(np.unique(species)), options.chosen_reduction)
    same = barcodes.identical(np.setdiff1d(np.arange(len(barcodes)), queries), queries)
    rows = []
    for kept, which in ((np.full(len(same), True), ALL), (~same, NEW)):
        if kept.sum() < 4:
            continue
        value, low, high = mutual_information(species[kept], found[kept], max(10, options.draws // 10), seed)
        metrics = {"ami": value, "classes": float(len(np.unique(species[kept])))}
        name = f"{CLUSTERS}, {options.chosen_reduction}"
        rows.append(Row(barcodes.name, name, method, seed, which, int(kept.sum()), metrics, low, high))
    return rows


def by_neighbours(
    barcodes: BarcodeSet, method: str, nearest: Nearest, options: ProtocolOptions | None = None, seed: int = 0
) -> list[Row]:
    """The rows of the table that need no vectors, but each sequence's nearest one."""
    options = options or ProtocolOptions()
    world = World.of(barcodes, options)
    tasks = [(GENUS, world.reference, world.unseen, barcodes.genus)] if len(world.unseen) else []
    tasks.append((SPECIES, world.train, world.test, barcodes.species))
    rows = []
    for evaluation, reference, queries, labels in tasks:
        predicted = labels[nearest(reference, queries)]
        rows += _scored(barcodes, evaluation, method, reference, queries, labels, predicted, options, seed)
    return rows


def _scored(
    barcodes: BarcodeSet, evaluation: str, method: str, reference: np.ndarray, queries: np.ndarray, labels: np.ndarray,
    predicted: np.ndarray, options: ProtocolOptions, seed: int,
) -> list[Row]:  # fmt: skip
    same = barcodes.identical(reference, queries)
    rows = []
    for kept, which in ((np.full(len(same), True), ALL), (~same, NEW)):
        if not kept.any():
            continue
        true, guess = labels[queries[kept]], predicted[kept]
        low, high = accuracy_interval(true == guess, options.draws, seed)
        metrics = classification(true, guess)
        rows.append(Row(barcodes.name, evaluation, method, seed, which, int(kept.sum()), metrics, low, high))
    return rows


# ---- the pieces ------------------------------------------------------------------------------------------------------


def cosine_neighbours(vectors: np.ndarray) -> Nearest:
    """Nearest rows by cosine of vectors (n, C), computed in fp64; the first of those equally near."""
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True).clip(1e-30)

    def nearest(reference: np.ndarray, queries: np.ndarray) -> np.ndarray:
        blocks = [unit[queries[i : i + 256]] @ unit[reference].T for i in range(0, len(queries), 256)]
        # Equal vectors may differ by the rounding of their products: the first of all within that is taken.
        return reference[np.concatenate([(b >= b.max(1, keepdims=True) - 1e-12).argmax(1) for b in blocks])]

    return nearest


def linear_probe(train: np.ndarray, labels: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Labels (m,) of test vectors (m, C) by one linear layer with softmax, trained on vectors (n, C).

    All numbers are shifted and scaled by one mean and one standard deviation, those of the training vectors. SGD with
    learning rate 0.01, momentum 0.9 and weight decay 1e-5, for 200 epochs; the batch of 64 is our choice.
    """
    from sklearn.exceptions import ConvergenceWarning  # optional dependency
    from sklearn.neural_network import MLPClassifier

    mean, deviation = train.mean(), max(train.std(), 1e-12)
    batch = min(_BATCH, len(train))
    # Without a hidden layer it is a linear layer. Its penalty is a half of alpha |W|^2 over the batch's rows.
    network = MLPClassifier(
        (), solver="sgd", alpha=_DECAY * batch, batch_size=batch, learning_rate_init=_LR, momentum=_MOMENTUM,
        nesterovs_momentum=False, max_iter=_EPOCHS, n_iter_no_change=_EPOCHS, tol=0.0, random_state=seed,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # all epochs are wanted
        network.fit((train - mean) / deviation, labels)
    return network.predict((test - mean) / deviation)


def clusters(vectors: np.ndarray, classes: int, reduction: str) -> np.ndarray:
    """Each row's cluster, int64 (n,), of vectors (n, C) in so many classes, without any label.

    Ward's agglomerative clustering after `reduction` to 50 dimensions: "umap" by cosine with 10 neighbours and seed 42,
    as BarcodeMAE has it, or "pca".
    """
    from sklearn.cluster import AgglomerativeClustering  # optional dependency
    from sklearn.decomposition import PCA

    n = len(vectors)
    if reduction == "umap":
        from umap import UMAP  # optional dependency

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its seed, which makes it use one thread
            reducer = UMAP(
                n_components=max(2, min(_DIMENSIONS, n - 2)), n_neighbors=min(_NEIGHBOURS, n - 1), metric="cosine",
                random_state=_UMAP_SEED, n_jobs=1,
            )  # fmt: skip
            reduced = reducer.fit_transform(vectors)
    else:
        reduced = PCA(min(_DIMENSIONS, n, vectors.shape[1]), random_state=0).fit_transform(vectors)
    return AgglomerativeClustering(n_clusters=classes, linkage="ward").fit_predict(reduced)


def classification(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Accuracy, balanced accuracy (of the classes that are there), and F1 in three means, as scikit-learn has them."""
    from sklearn import metrics  # optional dependency

    hits = [(predicted[true == one] == one).mean() for one in np.unique(true)]
    f1 = {
        f"f1_{mean}": float(metrics.f1_score(true, predicted, average=mean, zero_division=0))
        for mean in ("micro", "macro", "weighted")
    }
    return {"accuracy": float((true == predicted).mean()), "balanced_accuracy": float(np.mean(hits)), **f1}


def accuracy_interval(right: np.ndarray, draws: int, seed: int) -> Interval:
    """95 % interval of an accuracy by bootstrap over the sequences, from which of them are right, bool (n,)."""
    drawn = np.random.default_rng(seed).binomial(len(right), right.mean(), draws) / len(right)
    return Interval.of(drawn)


def mutual_information(true: np.ndarray, found: np.ndarray, draws: int, seed: int) -> tuple[float, float, float]:
    """Adjusted mutual information x 100, and its 95 % interval by random halves.

    Halves are drawn without replacement, since rows drawn twice would agree with their own copies; their spread about
    their mean is that of a bootstrap.
    """
    from sklearn.metrics import adjusted_mutual_info_score as score  # optional dependency

    value, rng = 100 * float(score(true, found)), np.random.default_rng(seed)
    halves = []
    for _ in range(draws):
        rows = rng.permutation(len(true))[: len(true) // 2]
        halves.append(100 * float(score(true[rows], found[rows])))
    low, high = Interval.of(np.array(halves) - np.mean(halves))
    return value, value + low, min(100.0, value + high)
