"""Files of bases: from FASTA to batches of token windows.

`Genome` opens FASTA files and checks them, `Windows` says which stretches of it are trained on, `WindowSampler` draws
from them. Nothing is loaded: bases are read from the mapped file whenever they are asked for, so a genome costs
address space, not memory, and processes on one machine share what the system has cached.

Coordinates are 0-based and half-open everywhere.
"""

from ..runtime.errors import GenomeError
from . import extension as extension  # refuses another version's before anything uses it
from .fasta import Genome
from .regions import Region, read_regions
from .sampler import WindowBatch, WindowSampler
from .windows import WindowOptions, Windows

__all__ = [
    "Genome",
    "GenomeError",
    "Region",
    "WindowBatch",
    "WindowOptions",
    "WindowSampler",
    "Windows",
    "read_regions",
]
