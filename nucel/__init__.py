"""NucEL: pre-train single-nucleotide ELECTRA encoders on any genome, and put them to use."""

from .electra import Electra
from .genome import Genome, GenomeError, Windows, WindowSampler
from .hub import HubError, load
from .model import Encoder
from .vocab import decode, encode

__all__ = [
    "Electra",
    "Encoder",
    "Genome",
    "GenomeError",
    "HubError",
    "WindowSampler",
    "Windows",
    "decode",
    "encode",
    "load",
]
