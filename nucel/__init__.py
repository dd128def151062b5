"""NucEL: pre-train single-nucleotide ELECTRA encoders on any genome, and put them to use."""

from .embed import embed  # the function hides the verb's package, which `python -m nucel.embed` finds all the same
from .genome import Genome, Windows, WindowSampler
from .genome.sequences import SequenceOptions, read_sequences
from .inference.attention import attention_weights
from .inference.embedding import embed_positions
from .interpretation.attribution import Attribution, attribute
from .interpretation.networks import load_pair
from .interpretation.saturation import saturation_mutagenesis
from .interpretation.variant_effect import score_variants
from .model.encoder import Encoder
from .model.hub import load, load_classifier
from .model.networks import Classifier
from .objectives.electra import Electra
from .runtime.errors import (
    CheckpointError,
    ConfigError,
    GenomeError,
    HubError,
    InputError,
    NucelError,
    TrainingError,
)
from .runtime.version import __version__
from .tasks.probe import Probe, fit_probe
from .tasks.task import Task, read_task
from .tokenizers.nucleotide import decode, encode

__all__ = [
    "Attribution",
    "CheckpointError",
    "Classifier",
    "ConfigError",
    "Electra",
    "Encoder",
    "Genome",
    "GenomeError",
    "HubError",
    "InputError",
    "NucelError",
    "Probe",
    "SequenceOptions",
    "Task",
    "TrainingError",
    "WindowSampler",
    "Windows",
    "__version__",
    "attention_weights",
    "attribute",
    "decode",
    "embed",
    "embed_positions",
    "encode",
    "fit_probe",
    "load",
    "load_classifier",
    "load_pair",
    "read_sequences",
    "read_task",
    "saturation_mutagenesis",
    "score_variants",
]
