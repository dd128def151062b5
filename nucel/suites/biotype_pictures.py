"""Maps of vectors in two dimensions, coloured by class."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from ..runtime.files import replacing

_COMPONENTS, _PERPLEXITY = 50, 30


def pca(vectors: np.ndarray) -> np.ndarray:
    """The first 50 principal components of vectors (n, C), or as many as there are."""
    from sklearn.decomposition import PCA  # optional dependency

    return PCA(min(_COMPONENTS, *vectors.shape), random_state=0).fit_transform(vectors)


def tsne(vectors: np.ndarray, seed: int) -> np.ndarray:
    """t-SNE (van der Maaten and Hinton 2008), perplexity 30, of vectors (n, C): (n, 2)."""
    from sklearn.manifold import TSNE  # optional dependency

    return TSNE(perplexity=min(_PERPLEXITY, (len(vectors) - 1) / 3), random_state=seed).fit_transform(vectors)


def umap(vectors: np.ndarray, seed: int) -> np.ndarray:
    """UMAP (McInnes et al. 2018) of vectors (n, C): (n, 2)."""
    from umap import UMAP  # optional dependency

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its seed, which makes it use one thread
        return UMAP(n_neighbors=min(15, len(vectors) - 1), random_state=seed, n_jobs=1).fit_transform(vectors)


def draw_map(path: Path, points: np.ndarray, labels: np.ndarray, title: str) -> None:
    """Write a scatter plot of points (n, 2); rare classes lie on top of frequent ones. Needs matplotlib."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    names, counts = np.unique(labels, return_counts=True)
    names = names[np.argsort(-counts, kind="stable")]
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    for i, name in enumerate(names):
        own = points[labels == name]
        colour = colormaps["tab20" if len(names) > 10 else "tab10"](i % 20)
        axes.scatter(own[:, 0], own[:, 1], s=5, lw=0, alpha=0.7, color=colour, label=f"{name} ({len(own):,})")
    axes.set(title=title, xticks=[], yticks=[])
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, markerscale=3, fontsize="small")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
