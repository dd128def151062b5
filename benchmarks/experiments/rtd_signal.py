"""How much replaced-token detection can tell a discriminator, by the DNA's entropy and the generator's temperature.

    python -m benchmarks.experiments.rtd_signal --out benchmarks/results/rtd_signal.md

A model of the task, with nothing trained. At each position the conditional distribution p over the four bases is
softmax(s x), x standard normal, with s such that p has the given mean entropy. The generator proposes from
q = softmax(ln p / temperature): it knows all that can be known. The discriminator is ideal and knows the same. Then the
two masses of a shown base b are

    original   p(b) (1 - r + r q(b))        not masked, or masked and drawn right
    replaced   r q(b) (1 - p(b))

and all else follows: the signal is the entropy of "replaced or not" less the discriminator's loss, in nats per
position. Beside it stands what masked-language modelling tells: r (ln 4 - H) nats per position.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score

from nucel.interpretation.variant_scores import log_softmax
from nucel.objectives.metrics import constant_guess_cross_entropy

from ..table import markdown_table

MASK_RATE = 0.15
ENTROPIES = (1.35, 1.33, 1.31, 1.25, 1.1, 0.8)
TEMPERATURES = (1.0, 2.0, 3.0, 1000.0)
POSITIONS = 100_000


class Signal(NamedTuple):
    """What an ideal discriminator gains."""

    nats: float
    """Per position, over a constant guess."""
    auroc: float


def conditionals(entropy: float, positions: int = POSITIONS, seed: int = 0) -> np.ndarray:
    """Distributions over the four bases, (positions, 4), with this mean entropy in nats."""
    x = np.random.default_rng(seed).normal(size=(positions, 4))
    low, high = 0.0, 20.0
    for _ in range(50):
        scale = (low + high) / 2
        p = np.exp(log_softmax(scale * x))
        mean = -(p * np.log(p.clip(1e-300))).sum(1).mean()
        low, high = (scale, high) if mean > entropy else (low, scale)
    return p


def proposals(p: np.ndarray, temperature: float) -> np.ndarray:
    """What a generator that knows p proposes from, (positions, 4)."""
    return np.asarray(np.exp(log_softmax(np.log(p.clip(1e-300)), temperature)))


def signal(p: np.ndarray, q: np.ndarray, mask_rate: float = MASK_RATE) -> Signal:
    """Of an ideal discriminator that knows p, where the generator proposes from q; both (positions, 4)."""
    original = p * (1 - mask_rate + mask_rate * q)
    replaced = mask_rate * q * (1 - p)
    posterior = replaced / (original + replaced)
    with np.errstate(divide="ignore", invalid="ignore"):
        loss = -np.nansum(original * np.log1p(-posterior) + replaced * np.log(posterior), axis=1).mean()
    blind = constant_guess_cross_entropy(replaced.sum(1).mean())
    labels = np.repeat([0, 1], p.size)
    weights = np.concatenate([original.ravel(), replaced.ravel()])
    auroc = roc_auc_score(labels, np.tile(posterior.ravel(), 2), sample_weight=weights)
    return Signal(float(blind - loss), float(auroc))


def table() -> str:
    """One row per entropy, in Markdown."""
    titles = ["H, nats per base", "masked LM, nats per position"]
    titles += [f"RTD, T = {t:g}" if t < 100 else "RTD, uniform" for t in TEMPERATURES]
    rows = []
    for entropy in ENTROPIES:
        p = conditionals(entropy)
        found = [signal(p, proposals(p, t)) for t in TEMPERATURES]
        rows.append(
            [f"{entropy:.2f}", f"{MASK_RATE * (np.log(4) - entropy):.4f}"]
            + [f"{one.nats:.4f} (AUROC {one.auroc:.3f})" for one in found]
        )
    return markdown_table(titles, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a Markdown file")
    out: Path = parser.parse_args().out
    text = (
        "How much can replaced-token detection teach, in nats per position, where the generator knows as much as the "
        f"discriminator? {MASK_RATE:.0%} of the bases are masked; T is the generator's temperature. "
        f"`python -m benchmarks.experiments.rtd_signal --out {out}`\n\n{table()}\n"
    )
    out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
