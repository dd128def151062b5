"""NucEL: pre-train single-nucleotide ELECTRA encoders on any genome, and put them to use."""

from .electra import Electra
from .embed import attention_weights, embed  # the function hides the module; `from nucel.embed import ...` reaches it
from .genome import Genome, GenomeError, Windows, WindowSampler
from .hub import HubError, load, load_classifier
from .model import Classifier, Encoder
from .sequences import InputError, read_sequences
from .vocab import decode, encode

__all__ = [
    "Classifier",
    "Electra",
    "Encoder",
    "Genome",
    "GenomeError",
    "HubError",
    "InputError",
    "WindowSampler",
    "Windows",
    "attention_weights",
    "decode",
    "embed",
    "encode",
    "load",
    "load_classifier",
    "read_sequences",
]
