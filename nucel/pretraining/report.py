"""What a run says at its end, in three lines: whether it learned, where it is, what to type next."""

from __future__ import annotations

from typing import Any

from ..objectives.metrics import composition_cross_entropy
from ..runs.directory import RunDirectory
from ..runtime import cli
from .config import TrainConfig
from .setup import Setup
from .validation import Validation


def stopped(run: RunDirectory, reason: str, step: int, config: TrainConfig, go_on: str) -> tuple[str, ...]:
    """Of a run that a signal ended."""
    return (
        f"{reason}: saved step {step} of {config.steps}; nothing is lost.",
        _where(run),
        f"Go on with: {go_on}",
    )


def trained(run: RunDirectory, validation: Validation, step: int, config: TrainConfig, setup: Setup) -> tuple[str, ...]:
    """Of a session that came to its end: the run's last step, or that of --stop-after."""
    genome, model = setup.genome, setup.state.model
    known_bp = (genome.lengths - genome.unknown_bp).sum()
    composition = composition_cross_entropy(float(genome.gc_bp.sum() / known_bp))
    verdict = model.verdict(metrics_of(validation, setup) | {"composition": composition})
    if step < config.steps:
        next_line = f"Next: train to step {config.steps}: {run.resume_command}"
    elif verdict.learned:
        next_line = f"Next: {cli.command_line('embed', [run, 'SEQUENCES.fa', '--out', 'vectors.npz'])}"
    else:
        next_line = f"Next: train longer: {run.resume_command} --extend-steps {config.steps}"
    return str(verdict), _where(run), next_line


def metrics_of(validation: Validation, setup: Setup) -> dict[str, Any]:
    """A validation's metrics, with their interval."""
    return validation.metrics | setup.state.model.interval(*validation.scores)


def _where(run: RunDirectory) -> str:
    models = " and ".join(f"{folder.name}/" for folder in run.published())
    curves = f", curves in {run.curves.name}" if run.curves.exists() else ""
    return f"The run is in {run}: models in {models}, description in {run.card.name}{curves}."
