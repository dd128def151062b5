"""The objectives, by the names that `--objective` has for them."""

from __future__ import annotations

from .electra import Electra
from .mae import MaskedAutoencoder
from .mlm import MaskedLM

Objective = Electra | MaskedLM | MaskedAutoencoder
OBJECTIVES: dict[str, type[Objective]] = {"electra": Electra, "mlm": MaskedLM, "mae": MaskedAutoencoder}
