"""Does a model attend to what decides? Fine-tuning on the order of two motifs, and the attention they receive.

    sequences --fit--> classifier --attention of its global layers--> profiles around each motif --> signal to noise

Beside the fine-tuned model stand its controls: the same model before fine-tuning, one trained on the task from new
weights, the one-hot CNN's accuracy, profiles around random places, and, since attention is no proof of use, what the
logit loses when a motif is replaced by random bases.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import tyro
from torch import nn
from tyro.conf import OmitArgPrefixes

from ..genome.sequences import Sequences
from ..interpretation.motif_order import (
    FLANK_BP,
    Drawn,
    Queries,
    SequencePairs,
    SignalToNoise,
    aligned,
    attention_received,
    draw_sequences,
    occlude,
    random_starts,
    signal_to_noise,
)
from ..model import hub
from ..model.networks import Classifier
from ..runtime import cli, environment
from ..runtime.cli import console, progress_bar
from ..runtime.device import DeviceOptions, Precision, choose_precision
from ..runtime.errors import ConfigError, require
from ..runtime.files import finite, replacing, write_text
from ..tasks.classifier import HeadOptions
from ..tasks.fit import FitOptions, fit
from ..tasks.predictions import raw_outputs
from ..tasks.task import Split, Task
from .methods import Method, from_scratch, load_encoder, one_hot_cnn, pretrained

_LABELS = ("B before A", "A before B")
FINE_TUNED, BEFORE, SCRATCH = "fine-tuned", "before fine-tuning", "from scratch"
_NEAR_PERFECT = 0.99


@dataclass(frozen=True, kw_only=True)
class MotifOrderConfig:
    """Attention that two motifs receive from a model that was fine-tuned on their order."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run directory, or a ModernBERT model directory over this alphabet."""
    out: Path
    """Directory for the results; it must be new or empty."""
    sizes: tuple[int, int, int] = (8000, 1000, 1000)
    """Sequences to train on, to select by and to test on; half of each kind of order."""
    aligned_sequences: int = 100
    """Correctly classified test sequences whose attention is averaged, as far as there are so many."""
    scratch: bool = True
    """Train the model's architecture from new weights too."""
    cnn: bool = True
    """Train the one-hot CNN too, for its accuracy."""
    context: int | None = None
    """Longest sequence in tokens; by default that of the windows which the model was trained on."""
    seed: int = 0
    """Of the sequences, and of what training draws."""
    sequences: OmitArgPrefixes[SequencePairs] = field(default_factory=SequencePairs)
    head: OmitArgPrefixes[HeadOptions] = field(default_factory=HeadOptions)
    fit: OmitArgPrefixes[Annotated[FitOptions, tyro.conf.arg(name="training")]] = field(
        default_factory=lambda: FitOptions(epochs=20)
    )
    compute: OmitArgPrefixes[DeviceOptions] = field(default_factory=DeviceOptions)

    def __post_init__(self) -> None:
        require(self.context is None or self.context >= 2, f"context must be at least 2, got {self.context}")
        require(min(self.sizes) >= 4, f"each of the three sizes must be at least 4, got {self.sizes}")
        require(self.aligned_sequences >= 2, f"aligned_sequences must be at least 2, got {self.aligned_sequences}")
        strands = self.fit.augment_reverse_complement or self.fit.average_reverse_complement
        require(not strands, "the other strand has the motifs in the other order: train and predict on one strand")


class Line(NamedTuple):
    """A row of the table: the motif's place in a layer of a network."""

    network: str
    layer: int
    queries: str
    place: str
    """A, B, or random."""
    found: SignalToNoise
    profile: np.ndarray
    """float64 (2 FLANK_BP + width,): mean attention received around the place."""


def motif_order(config: MotifOrderConfig) -> cli.Result:
    """Carry out `interpret motif-order`; returns its summary and report.

    Raises:
        ConfigError, HubError, OSError: bad input; no directory is left.
        TrainingError: training went wrong.
    """
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise ConfigError(f"{config.out} is not an empty directory; choose another --out")
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("the picture needs matplotlib, which is not installed: pip install 'nucel[plots]'")
    precision = choose_precision(config.compute.device, config.compute.dtype)
    encoder = load_encoder(config.model, config.context)
    longest = config.sequences.length_bp + 1
    if encoder.context is not None and longest > encoder.context:
        raise ConfigError(
            f"length_bp must be below the context of {encoder.context} tokens, got {longest - 1}; a longer one may be "
            f"tried: --context {longest}"
        )
    started = time.perf_counter()
    drawn = [draw_sequences(config.sequences, n, 3 * config.seed + i) for i, n in enumerate(config.sizes)]
    train, dev, test = (_split(one) for one in drawn)
    task = Task(_LABELS, train, dev, test, leaked=0, leaked_reverse=0)
    methods = {FINE_TUNED: pretrained(FINE_TUNED, encoder, config.fit, config.head)}
    if config.scratch:
        methods[SCRATCH] = from_scratch(encoder, config.fit, config.head)
    if config.cnn:
        methods["one-hot CNN"] = one_hot_cnn(config.fit)

    accuracies: dict[str, float] = {}
    losses: dict[str, dict[str, list[float]]] = {}
    lines: list[Line] = []
    width = len(config.sequences.motifs[0])
    for name, method in methods.items():
        network = _fitted(name, method, task, config.seed, precision)
        right = _margins(network, drawn[2].tokens, drawn[2].labels, precision) > 0
        accuracies[name] = float(right.mean())
        console.print(f"{name}: accuracy {accuracies[name]:.4f}", markup=False)
        if not isinstance(network, Classifier):
            continue
        chosen = _chosen(drawn[2], right, config.aligned_sequences)
        losses[name] = occlusion(network, chosen, width, config.seed, precision)
        lines += profiles(name, network, chosen, width, config.seed)
        if name == FINE_TUNED:
            before = method.build(task, config.seed).to(precision.device)
            assert isinstance(before, Classifier)
            lines += profiles(BEFORE, before.eval(), chosen, width, config.seed)
            config.out.mkdir(parents=True, exist_ok=True)
            with replacing(config.out / "model") as temporary:
                hub.save(network, temporary)

    write_text(config.out / "snr.tsv", _table(lines, accuracies))
    _plot(config.out / "motif_order.png", lines, config.sequences.motifs)
    best = {place: _largest(lines, FINE_TUNED, place) for place in ("A", "B", "random")}
    summary: dict[str, Any] = {
        "accuracy": accuracies,
        "largest_snr": {place: finite({"layer": one.layer, **one.found._asdict()}) for place, one in best.items()},
        "occlusion": losses,
        "seconds": round(time.perf_counter() - started, 3),
        "device": str(precision.device),
        "out": str(config.out),
    }
    settings = json.loads(json.dumps(finite(dataclasses.asdict(config)), default=str))
    about = {"settings": settings, "versions": environment.versions(precision.device), **summary}
    write_text(config.out / "result.json", json.dumps(about, indent=2) + "\n")
    accuracy = accuracies[FINE_TUNED]
    doubt = "" if accuracy >= _NEAR_PERFECT else "; it has not learned the task, so that its attention means little"
    report = (
        f"Accuracy {accuracy:.3f}{doubt}. Largest SNR over layers: A {best['A'].found.snr:.2f}, "
        f"B {best['B'].found.snr:.2f}, random places {best['random'].found.snr:.2f}.",
        f"All layers and controls are in {config.out / 'snr.tsv'}, the picture is {config.out / 'motif_order.png'}.",
        "Next: compare with the rows of the other networks, and with what the logit loses without a motif",
    )
    return cli.Result(summary, report)


def _split(drawn: Drawn) -> Split:
    names = [str(i) for i in range(len(drawn.tokens))]
    sequences = Sequences(Path("motif order"), names, drawn.tokens, [f"sequence {name}" for name in names], {})
    return Split(sequences, drawn.labels, [_LABELS[label] for label in drawn.labels.tolist()])


def _fitted(name: str, method: Method, task: Task, seed: int, precision: Precision) -> nn.Module:
    """A network trained until it is near perfect on the dev table, or to the end."""
    network = method.build(task, seed).to(precision.device)
    dev = task.dev

    def near_perfect(network: nn.Module) -> bool:
        margins = _margins(network, dev.sequences.tokens, dev.targets, precision)
        return bool((margins > 0).mean() >= _NEAR_PERFECT)

    with progress_bar() as show:

        def named(step: int, steps: int, text: str) -> None:
            show(step, steps, f"{name} {text}")

        fit(network, task, method.fit, seed, precision, named, near_perfect)
    return network


def _margins(network: nn.Module, tokens: Sequence[np.ndarray], labels: np.ndarray, precision: Precision) -> np.ndarray:
    """Logit of the true class minus that of the other, (n,)."""
    outputs = raw_outputs(network, list(tokens), precision, both_strands=False).astype(np.float64)
    rows = np.arange(len(labels))
    return outputs[rows, labels] - outputs[rows, 1 - labels]


def _chosen(drawn: Drawn, right: np.ndarray, number: int) -> Drawn:
    """The first correctly classified sequences of both classes in turn, or all where too few are right."""
    places = [np.flatnonzero(right & (drawn.labels == label))[: number // 2] for label in (0, 1)]
    rows = np.sort(np.concatenate(places))
    if min(map(len, places)) == 0:
        rows = np.arange(min(number, len(drawn.labels)))
    return Drawn([drawn.tokens[i] for i in rows], drawn.labels[rows], drawn.starts[rows])


def _places(drawn: Drawn, width: int, seed: int) -> dict[str, np.ndarray]:
    return {"A": drawn.starts[:, 0], "B": drawn.starts[:, 1], "random": random_starts(drawn, width, seed)}


@torch.no_grad()
def occlusion(network: Classifier, drawn: Drawn, width: int, seed: int, precision: Precision) -> dict[str, list[float]]:
    """What the true class's margin loses when a place gets random bases: mean and standard error, by place."""
    whole = _margins(network, drawn.tokens, drawn.labels, precision)
    found = {}
    for place, starts in _places(drawn, width, seed).items():
        lost = whole - _margins(network, occlude(drawn, starts, width, seed), drawn.labels, precision)
        found[place] = [float(lost.mean()), float(lost.std(ddof=1) / np.sqrt(len(lost)))]
    return found


def profiles(name: str, network: Classifier, drawn: Drawn, width: int, seed: int) -> list[Line]:
    """Signal to noise in every global layer, for both kinds of queries and at all places."""
    config = network.model.config
    layers = [layer for layer in range(config.layers) if config.is_global(layer)]
    received = attention_received(network.model, drawn.tokens, layers)
    places = _places(drawn, width, seed)
    lines = []
    for layer in layers:
        for queries in Queries:
            for place, starts in places.items():
                cut = aligned(received[layer][queries], starts, width)
                lines.append(
                    Line(name, layer, queries, place, signal_to_noise(cut, width, seed), np.nanmean(cut, axis=0))
                )
    return lines


def _largest(lines: Sequence[Line], network: str, place: str) -> Line:
    of_place = [line for line in lines if (line.network, line.queries, line.place) == (network, "all", place)]
    return max(of_place, key=lambda line: line.found.snr)


def _table(lines: Sequence[Line], accuracies: dict[str, float]) -> str:
    rows = ["network\taccuracy\tlayer\tqueries\tplace\tsnr\tlow\thigh\tratio"]
    for line in lines:
        accuracy = f"{accuracies[line.network]:.4f}" if line.network in accuracies else ""
        one = line.found
        numbers = "\t".join(f"{x:.4f}" for x in (one.snr, one.low, one.high, one.ratio))
        rows.append(f"{line.network}\t{accuracy}\t{line.layer}\t{line.queries}\t{line.place}\t{numbers}")
    return "\n".join(rows) + "\n"


def _plot(path: Path, lines: Sequence[Line], motifs: tuple[str, str]) -> None:
    """Profiles of the fine-tuned model's best layers, and SNR by layer with the controls; needs matplotlib."""
    from matplotlib.figure import Figure  # optional dependency

    figure = Figure(figsize=(10, 6), layout="constrained")
    panels = figure.subplots(2, 2)
    for column, (place, motif) in enumerate(zip("AB", motifs, strict=True)):
        best = _largest(lines, FINE_TUNED, place)
        top, bottom = panels[0, column], panels[1, column]
        top.plot(np.arange(len(best.profile)) - FLANK_BP, best.profile, color="tab:blue")
        top.axvspan(-0.5, len(motif) - 0.5, color="tab:orange", alpha=0.3)
        top.set(title=f"{place} = {motif}: layer {best.layer}, SNR {best.found.snr:.1f}")
        top.set(xlabel="base from the motif's start", ylabel="attention received")
        for network in dict.fromkeys(line.network for line in lines):
            for chosen, style in ((place, "-"), ("random", ":")):
                of = [x for x in lines if (x.network, x.queries, x.place) == (network, "all", chosen)]
                label = network + (", random places" if chosen == "random" else "")
                bottom.plot([x.layer for x in of], [x.found.snr for x in of], style, marker="o", label=label)
        bottom.axhline(0, color="0.6", linewidth=0.8)
        bottom.set(xlabel="layer", ylabel="signal to noise")
    panels[1, 0].legend(frameon=False, fontsize="small")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
