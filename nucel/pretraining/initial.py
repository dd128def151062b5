"""Weights to start from: those of another run, instead of new ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..model import hub
from ..model.config import EncoderConfig
from ..model.hub_config import Network, encoder_config, encoder_of
from ..model.hub_files import WEIGHTS, existing, first_not_finite, read_json
from ..model.networks import Generator
from ..runtime.errors import HubError
from ..runtime.files import sha256

_SHAPES = ("layers", "width", "heads", "intermediate")
_BEHAVIOUR = ("radius", "global_every", "global_theta", "local_theta", "norm_eps")


def start_from(source: Path, model: Any, announce: Callable[[str], None]) -> dict[str, str]:
    """Load the weights of another run, or of a folder with model directories, into a model's networks.

    All are read and compared before any is loaded. `announce` is told of other settings they were trained with. The
    decoder of a masked autoencoder, which no directory holds, stays as it was drawn.

    Returns:
        the SHA-256 of each network's weights.

    Raises:
        HubError: a network is missing, damaged, not finite or of another shape; names the differences.
    """
    networks: dict[str, Network] = hub.networks_of(model)
    folders = {name: _folder(source, name, alone=len(networks) == 1) for name in networks}
    states = {}
    for name, network in networks.items():
        _require_same_shape(name, network, folders[name], announce)
        states[name] = hub.weights_for(network, folders[name], "as this run's settings say")
        if tensor := first_not_finite(states[name]):
            raise HubError(f"{folders[name] / WEIGHTS}: {tensor} holds values that are not finite; start from others")
    for name, network in networks.items():
        network.load_state_dict(states[name])
    return {name: sha256(folder / WEIGHTS) for name, folder in folders.items()}


def _folder(source: Path, name: str, alone: bool) -> Path:
    """Where a network's files are: in a folder of its name, or in the source itself if there is no other network."""
    if (source / name).is_dir():
        return source / name
    if alone and (source / "config.json").is_file():
        return source
    there = sorted(path.parent.name for path in source.glob("*/config.json")) if source.is_dir() else []
    raise HubError(
        f"--init-from {source} holds no {name}/ but {', '.join(there) or 'no model at all'}; give a run of the same "
        "--objective, or a folder with its model directories"
    )


def _require_same_shape(name: str, network: Any, folder: Path, announce: Callable[[str], None]) -> None:
    """Refuse weights of another shape; announce what else differs."""
    settings = existing(folder, "config.json")
    content = read_json(settings)
    try:
        theirs, ours = encoder_config(content), encoder_of(network).config
    except HubError as error:
        raise HubError(f"{settings}: {error}") from None
    lines = _differences(theirs, ours, _SHAPES)
    if isinstance(network, Generator) and content.get("tie_word_embeddings") is not network.tied:
        lines.append(f"tie_embeddings is {content.get('tie_word_embeddings')} there, {network.tied} here")
    if lines:
        raise HubError(
            f"--init-from {folder} does not fit the {name.replace('_', ' ')} of this run: {'; '.join(lines)}"
        )
    if lines := _differences(theirs, ours, _BEHAVIOUR):
        announce(f"The weights of {folder} were trained with other settings: {'; '.join(lines)}")


def _differences(theirs: EncoderConfig, ours: EncoderConfig, names: tuple[str, ...]) -> list[str]:
    return [
        f"{name} is {getattr(theirs, name)} there, {getattr(ours, name)} here"
        for name in names
        if getattr(theirs, name) != getattr(ours, name)
    ]
