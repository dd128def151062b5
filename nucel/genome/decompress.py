"""Compressed FASTA files become plain ones, once: decompressed beside them or in a cache, whole or not at all.

A copy is ``<name>.<digest of the compressed bytes>.nucel.fa``, so that none is taken for a copy of other bytes.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import gzip
import hashlib
import itertools
import os
import re
import shutil
import struct
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from ..runtime import cli, files
from ..runtime.cli import note
from ..runtime.errors import GenomeError

try:
    # Intel's library: three times as fast as zlib. It has no wheels for some platforms.
    from isal import igzip, isal_zlib

    _DAMAGED: tuple[type[Exception], ...] = (EOFError, gzip.BadGzipFile, isal_zlib.error)  # type: ignore[assignment]
except ImportError:
    igzip = None  # type: ignore[assignment]
    _DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)

COPY_SUFFIX = ".nucel.fa"
_DIGITS = 12
_PIECE_BYTES = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_OTHER_MAGIC = {
    b"\xfd7zXZ\x00": "compressed with xz: 'xz -dk' makes it plain",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: 'zstd -d' makes it plain",
    b"BZh": "compressed with bzip2: 'bzip2 -dk' makes it plain",
    b"PK\x03\x04": "a zip archive: 'unzip' makes it plain",
    b"\x43\x27\x41\x1a": "2bit: 'twoBitToFa' makes it FASTA",
    b"\x1a\x41\x27\x43": "2bit: 'twoBitToFa' makes it FASTA",
    b"\xef\xbb\xbf": "text with a byte order mark: save it as UTF-8 without one",
    b"\xff\xfe": "UTF-16 text: save it as ASCII or UTF-8",
    b"@": "FASTQ, perhaps, for it begins with '@': 'seqkit fq2fa' makes it FASTA",
    b"LOCUS": "GenBank: convert it to FASTA",
}
# The last block of every complete file that bgzip wrote: an empty one, since its format was fixed in 2009.
_BGZIP_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_LONG_BYTES = 1 << 27
"""Compressed size above which progress is shown."""


def is_gzip(source: Path) -> bool:
    """Whether a file is gzip or bgzip, as its first bytes have it.

    Raises:
        GenomeError: it is something else that cannot be FASTA, or no regular file.
        FileNotFoundError: there is no such file.
    """
    if not source.exists():
        raise FileNotFoundError(errno.ENOENT, "there is no such FASTA file", str(source))
    if not source.is_file():
        raise GenomeError(f"{source} is not a regular file, and only such can be read at any place; save it first")
    with open(source, "rb") as file:
        head = file.read(8)
    _require_text(source, head)
    return head.startswith(_GZIP_MAGIC)


def _require_text(source: Path, head: bytes) -> None:
    for magic, what in _OTHER_MAGIC.items():
        if head.startswith(magic):
            raise GenomeError(f"{source} is not FASTA but {what}")


def read_in_pieces(source: Path) -> Iterator[bytes]:
    with open(source, "rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece


def default_cache() -> Path:
    if root := os.environ.get("XDG_CACHE_HOME"):
        return Path(root) / "nucel"
    try:
        return Path.home() / ".cache" / "nucel"
    except RuntimeError:
        # A user without a home, as containers have them.
        return Path(tempfile.gettempdir()) / "nucel"


def _is_writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def is_copy_of(file: Path, source: Path) -> bool:
    """Whether a file has the name of a decompressed copy that stands beside `source`."""
    beside = re.escape(str(source)) + rf"\.[0-9a-f]{{{_DIGITS}}}" + re.escape(COPY_SUFFIX)
    return re.fullmatch(beside, str(file)) is not None


def _in_cache(source: Path, cache: Path) -> Path:
    """A name in the cache folder that no file of the same name in another folder shares."""
    where = hashlib.sha256(os.fsencode(os.path.abspath(source))).hexdigest()[:12]
    return cache / f"{where}-{source.name}"


def _digest(source: Path) -> str:
    """SHA-256 of a compressed file, shortened.

    A file can change without a change of its size or time, and gzip's own checksums do not tell: each block of a bgzip
    file has one of its own, and the last block is always the same. CRC-32 would not do either: it is the same for all
    that ends with its own CRC-32.
    """
    digest = hashlib.sha256()
    for piece in read_in_pieces(source):
        digest.update(piece)
    return digest.hexdigest()[:_DIGITS]


@contextlib.contextmanager
def _replacing(target: Path, like: Path) -> Iterator[IO[bytes]]:
    """A file to write, as readable to others as ``like``, that becomes ``target`` when complete or leaves no trace."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        # The lock is held until the file has its name: without it, others take it for a dead process's.
        with contextlib.ExitStack() as open_files, files.exiting_on_sigterm(), files.replacing(target) as temporary:
            file = open_files.enter_context(_create_locked(temporary))
            yield file
            file.flush()
            shutil.copymode(like, temporary)
    except OSError as error:
        reason = f"could not be written ({error.strerror or error}); nothing is left of it"
        raise OSError(error.errno, reason, str(target)) from error


def _create_locked(path: Path) -> IO[bytes]:
    """Create a file that nobody else may read until it has its source's permissions, and lock it while it is open."""
    while True:
        file = open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600))  # noqa: SIM115
        files.try_lock(file, wait=True)
        if path.exists():
            return file
        # Before it was locked, another process took it for a dead one's and removed it.
        file.close()


def _remove_abandoned(base: Path) -> None:
    """Remove what killed processes left of the copies of a source: temporary files that nobody has locked."""
    for temporary in base.parent.glob(f".nucel-{glob.escape(base.name)}.*{COPY_SUFFIX}.*.tmp"):
        with contextlib.suppress(OSError), open(temporary, "r+b") as file:
            if files.try_lock(file, wait=False):
                temporary.unlink(missing_ok=True)


def _remove_outdated(base: Path, copy: Path) -> None:
    """Remove the copies of what the source was before it changed."""
    for old in base.parent.glob(f"{glob.escape(base.name)}.*{COPY_SUFFIX}"):
        if old != copy and is_copy_of(old, base):
            old.unlink(missing_ok=True)


def plain_files(sources: Sequence[Path], cache: Path, beside: bool = True) -> list[Path]:
    """For each source itself, or the decompressed copy of a gzip or bgzip file, which is made where there is none.

    Processes that start at once may each make it: each writes a file of its own, and the last to finish puts an equal
    one, with the same time, in the place of the others'. Who has mapped one of those keeps reading it.

    Args:
        cache: folder for the copies whose source's folder cannot be written to.
        beside: False puts all new copies there.
    """
    plain: list[Path] = []
    missing: dict[int, str] = {}
    for i, source in enumerate(sources):
        plain.append(source)
        if is_gzip(source):
            suffix = f".{_digest(source)}{COPY_SUFFIX}"
            bases = (source, _in_cache(source, cache))
            for base in bases:
                _remove_abandoned(base)
            copies = [base.with_name(base.name + suffix) for base in bases]
            current = next((copy for copy in copies if copy.exists()), None)
            if current is None:
                missing[i] = suffix
            else:
                plain[i] = current
    for i in missing:
        _require_beginning(sources[i], _gunzip(sources[i]))
        _require_end(sources[i])
    with _progress([sources[i] for i in missing]) as show:
        for i, suffix in missing.items():
            plain[i] = _decompress(sources[i], cache, beside, suffix, show)
    return plain


def _decompress(source: Path, cache: Path, beside: bool, suffix: str, show: Callable[[Path, int], None] | None) -> Path:
    """Make the copy of a file, and tell where it is."""
    before = source.stat()
    writable = _is_writable(source.parent)
    base = source if beside and writable else _in_cache(source, cache)
    copy = base.with_name(base.name + suffix)
    note(f"decompressing {source} to {copy} once" + ("" if writable else f" ({source.parent} cannot be written to)"))
    if igzip is None:
        note("with Python's gzip, which takes three times as long as isal: 'pip install isal'")
    with _replacing(copy, like=source) as file:
        for piece in _gunzip(source, show):
            file.write(piece)
        after = source.stat()
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise GenomeError(f"{source} changed while it was decompressed; start again when it is complete")
        file.flush()  # what is written later would change the time
        os.utime(file.fileno(), ns=(before.st_mtime_ns, before.st_mtime_ns))
    _remove_outdated(base, copy)
    return copy


@contextlib.contextmanager
def _progress(sources: Sequence[Path]) -> Iterator[Callable[[Path, int], None] | None]:
    """One bar for all files, called with the one that is read and how far; None where they are soon done."""
    sizes = {source: source.stat().st_size for source in sources}
    total = sum(sizes.values())
    if total <= _LONG_BYTES:
        yield None
        return
    with cli.progress_bar() as bar:
        before = dict(zip(sizes, itertools.accumulate(sizes.values(), initial=0), strict=False))

        def show(source: Path, packed_bytes: int) -> None:
            bar((before[source] + packed_bytes) >> 20, total >> 20, f"MiB, decompressing {source.name}")

        yield show


def _gunzip(source: Path, show: Callable[[Path, int], None] | None = None) -> Iterator[bytes]:
    """Pieces of the decompressed file; its checksums and lengths are compared on the way."""
    shown = 0.0
    try:
        with open(source, "rb") as packed, (igzip or gzip).open(packed, "rb") as file:
            while piece := file.read(_PIECE_BYTES):
                yield piece
                if show and time.monotonic() - shown > 0.2:
                    shown = time.monotonic()
                    show(source, packed.tell())
    except _DAMAGED as error:
        raise GenomeError(f"{source} is a damaged or incomplete gzip file ({error}); fetch it again") from error


def _require_beginning(source: Path, pieces: Iterable[bytes]) -> None:
    """Refuse at once, before gigabytes are written, what cannot be FASTA."""
    for piece in pieces:
        _require_text(source, piece)
        if text := piece.lstrip():
            if not text.startswith(b">"):
                raise GenomeError(f"{source} is not FASTA: its text begins with {text[:20]!r}, and should with '>'")
            return
    raise GenomeError(f"{source} is empty")


def wrong_block_index(source: Path) -> str | None:
    """What is wrong with the .gzi index beside a bgzip file, if there is one and something is."""
    index = source.with_name(source.name + ".gzi")
    try:
        raw = index.read_bytes()
    except OSError:
        return None
    count = int.from_bytes(raw[:8], "little")
    if len(raw) != 8 + 16 * count:
        return f"{index} is damaged: it should have 8 bytes, and 16 for each of {count} blocks, but has {len(raw)}."
    offsets = struct.unpack(f"<{2 * count}Q", raw[8:])
    with open(source, "rb") as file:
        for offset in offsets[::2]:
            file.seek(min(offset, source.stat().st_size))
            if file.read(4) != _GZIP_MAGIC + b"\x08\x04":
                return f"{index} is of another file, or of an older one: no block begins at byte {offset} of {source}."
    return None


def _require_end(source: Path) -> None:
    """A bgzip file cut between two of its blocks is a complete gzip file: only its last block tells."""
    with open(source, "rb") as file:
        head = file.read(18)
        if head[3:4] != b"\x04" or head[12:16] != b"BC\x02\x00":
            return
        file.seek(max(0, source.stat().st_size - len(_BGZIP_END)))
        if file.read() != _BGZIP_END:
            raise GenomeError(
                f"{source} is a damaged or incomplete bgzip file (its last block is missing); fetch it again"
            )
