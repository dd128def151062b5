"""FASTA bytes to token windows, and kernels for CPUs. Use it through nucel.genome and nucel.kernels, which check."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

__version__: str

# The classes of bases, bits that a table of 256 bytes adds up.
GC: Final[int]
MASKED: Final[int]
UNKNOWN: Final[int]

class FormatError(ValueError):
    """The file is not a regular FASTA; the message names record and line."""

class Fasta:
    """A mapped FASTA file that was checked."""

    def __init__(self, path: bytes, classes: NDArray[np.uint8], threads: int) -> None:
        """Reads every byte; ``classes``, uint8 (256,), gives each byte the sum of its classes.

        Raises:
            FormatError: not a regular FASTA.
            OSError: it cannot be read, or was changed meanwhile.
        """
    @property
    def names(self) -> list[bytes]:
        """First word of each header, n of them."""
    @property
    def entries(self) -> NDArray[np.int64]:
        """As in a .fai index, int64 (n, 4): length, offset, line_bases, line_width."""
    @property
    def gc_bp(self) -> NDArray[np.int64]:
        """Bases of each record in class GC, int64 (n,)."""
    @property
    def masked_bp(self) -> NDArray[np.int64]:
        """Bases of each record in class MASKED, int64 (n,)."""
    @property
    def unknown_bp(self) -> NDArray[np.int64]:
        """Bases of each record in class UNKNOWN, int64 (n,)."""
    @property
    def byte_counts(self) -> NDArray[np.int64]:
        """Bases of the file by byte, int64 (256,)."""
    def header_line(self, record: int) -> int:
        """1-based number of the line with a record's header."""
    def require_unchanged(self) -> None:
        """Raises OSError if the file is not what it was when opened."""

class Genome:
    """The contigs of several files, numbered through."""

    def __init__(self, files: Sequence[Fasta]) -> None: ...
    def fetch(self, contig: int, start: int, end: int, table: NDArray[np.uint8], reverse: bool) -> NDArray[np.uint8]:
        """table[letter] of the bases [start, end), read backwards on demand; uint8 (end - start,).

        Raises:
            IndexError: the contig does not have these bases.
            OSError: its file was changed.
        """
    def sum(
        self, contig: NDArray[np.int32], start: NDArray[np.int64], count: int, table: NDArray[np.uint8], threads: int
    ) -> NDArray[np.int64]:
        """Sums of table[letter] over ``count`` bases from each start, int64 (n,).

        Raises:
            IndexError: a contig does not have these bases.
            OSError: a file was changed.
        """

class Sampler:
    """Rows as a pure function of (seed, row number)."""

    def __init__(
        self,
        genome: Genome,
        contig: NDArray[np.int32],
        start: NDArray[np.int64],
        groups: NDArray[np.int64],
        window_bp: int,
        context: int,
        seed: int,
        both_strands: bool,
        forward: NDArray[np.uint8],
        reverse: NDArray[np.uint8],
        first_token: int,
    ) -> None:
        """Draws from windows of ``window_bp`` bases; window i begins at base start[i] of contig contig[i].

        ``contig`` and ``start``, (n,), are not copied, and must not be changed. ``groups``, (g, 2), has the windows and
        the rows of an epoch for each group. ``forward`` and ``reverse``, (256,), give the token of a letter and of its
        complement; ``first_token`` opens every row.

        Raises:
            ValueError: arrays whose shapes do not fit, groups that do not cover the windows, or a context below 2 or
                of more bases than a window has.
        """
    def rows(
        self, first_row: int, count: int, threads: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.int64], NDArray[np.int8]]:
        """Tokens (count, context), contig, start and strand (count,) of the rows from ``first_row`` on.

        Raises:
            IndexError: a window is not inside its contig.
            OSError: a file was changed.
        """

def permutation(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of n windows in an epoch, int64 (n,)."""

def instruction_sets() -> list[str]:
    """What the kernels were compiled for and run on this processor, the fastest first; "plain" is always there."""

class Attention:
    """One call of attention, forward or, with ``grad_qkv``, backward. B batch, T positions, H heads, D head width."""

    def __init__(
        self,
        kernels: str,
        bf16: bool,
        sizes: Sequence[int],
        radius: int,
        qkv: int,
        qkv_strides: Sequence[int],
        cos: int,
        sin: int,
        lengths: int,
        out: int,
        lse: int,
        grad_out: int = ...,
        grad_out_strides: Sequence[int] = ...,
        grad_qkv: int = ...,
    ) -> None:
        """All tensors are addresses, and none is checked; strides are in elements, and that of D is 1.

        ``kernels`` is one of `instruction_sets`, ``sizes`` is (B, T, H, D), ``qkv`` (B, T, 3, H, D) with the strides of
        its first four axes, ``cos`` and ``sin`` (T, D/2) in fp32, ``lengths`` int64 (B,) within [0, T], or 0.
        ``out`` (B, T, H, D) and ``lse`` (B, H, T) in fp32 are written by the forward pass and read by the backward,
        which writes ``grad_qkv`` from ``grad_out``, with its strides of B, T, H. All others are contiguous, in bf16 or
        fp32.

        Raises:
            ValueError: this processor cannot run these kernels.
        """
    def scratch(self) -> int:
        """Floats of scratch that each thread needs."""
    def run(self, scratch: int, threads: int) -> None:
        """Computes, on up to ``threads`` threads; ``scratch`` is the address of theirs."""

def geglu(kernels: str, bf16: bool, rows: int, width: int, x: int, out: int, grad: int, threads: int) -> None:
    """GeGLU (rows, width) of x (rows, 2 * width), or, with grad (rows, width), the gradient (rows, 2 * width).

    Addresses of contiguous tensors in bf16 or fp32; none is checked.

    Raises:
        ValueError: this processor cannot run these kernels.
    """

def norm(
    kernels: str,
    rows: int,
    width: int,
    eps: float,
    x: int,
    weight: int,
    mean: int,
    rstd: int,
    out: int,
    grad: int,
    grad_x: int,
    grad_weight: int,
    threads: int,
) -> None:
    """LayerNorm of x (rows, width) as out, with mean and rstd (rows,); or, with grad (rows, width), its gradients.

    Addresses of contiguous tensors, out and grad in bf16 and all others in fp32; none is checked. The forward pass
    writes out, mean and rstd. The backward pass reads mean and rstd, and writes grad_x and grad_weight
    (norm_tasks(kernels, rows), width), which is still to be summed over its rows.

    Raises:
        ValueError: this processor cannot run these kernels.
    """

def rtd_logits(
    kernels: str,
    bf16: bool,
    rows: int,
    width: int,
    eps: float,
    dense: int,
    projection: int,
    logits: int,
    grad: int,
    grad_dense: int,
    grad_projection: int,
    threads: int,
) -> None:
    """LayerNorm(gelu(dense)) . projection of dense (rows, width) as logits (rows,); or, with grad (rows,), gradients.

    Addresses of contiguous tensors; dense and grad_dense are in bf16 or fp32, all others in fp32; none is checked. The
    width is at most 4096. grad_projection is (norm_tasks(kernels, rows), width), still to be summed over its rows.

    Raises:
        ValueError: this processor cannot run these kernels.
    """

def norm_tasks(kernels: str, rows: int) -> int:
    """Rows of grad_weight that norm writes, and of grad_projection."""
