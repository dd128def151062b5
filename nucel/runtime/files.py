"""Files that survive a kill, a full disk and a power cut: whole or absent, with digests that reveal later damage.

POSIX renames a file or a directory atomically. What was written reaches the disk, and survives a power cut, only after
an fsync of the file and, for its name, of the directory.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import math
import os
import platform
import secrets
import shutil
import signal
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


_SUMS = "SHA256SUMS"


_TOKEN_BYTES = 8


def temporary_name(path: Path) -> Path:
    """A new random name beside `path`: no two processes that write the same file ever share one."""
    return path.with_name(f".nucel-{path.name}.{secrets.token_hex(_TOKEN_BYTES)}.tmp")


def leftovers(path: Path) -> list[Path]:
    """What has a temporary name of `path`; where nobody is writing it, a killed process left that."""
    return list(path.parent.glob(glob.escape(f".nucel-{path.name}.") + "?" * 2 * _TOKEN_BYTES + ".tmp"))


def remove_temporary(folder: Path) -> None:
    """Remove what killed processes left in a folder that nobody else is writing to."""
    for leftover in folder.glob(".nucel-*.tmp"):
        remove(leftover)


def remove(path: Path) -> None:
    """Remove a file or a folder with all in it, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name to write a file under, or a folder where `path` has none yet; it then becomes `path`.

    That happens at once and durably, or leaves no trace. Where several processes do it, the last one's stays.
    """
    temporary = temporary_name(path)
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
    except BaseException:
        remove(temporary)
        raise
    fsync(path.parent)


@contextlib.contextmanager
def exiting_on_sigterm() -> Iterator[None]:
    """Let SIGTERM, which ends a process at once unless somebody handles it, clean up as an exception does."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def write_text(path: Path, text: str) -> None:
    """Replace a file's content at once: a reader sees the old text or the new, never a part."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def fsync(path: str | Path) -> None:
    """Force a file's content, or a directory's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush(path: Path) -> None:
    """Force a file, or all of a folder, to the disk: the files first, then the names."""
    for parent, _, names in os.walk(path, topdown=False):
        for name in names:
            fsync(os.path.join(parent, name))
        fsync(parent)
    if not path.is_dir():
        fsync(path)


def write_sums(directory: Path) -> None:
    """Write SHA256SUMS of all files below a directory, in the format of sha256sum, which can check it too."""
    files = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    lines = [f"{sha256(directory / name)}  {name}\n" for name in files]
    (directory / _SUMS).write_text("".join(lines), encoding="utf-8")


def damage(directory: Path, required: tuple[str, ...] = ()) -> list[str]:
    """What is wrong with the files that a directory's SHA256SUMS lists, or with the list; some it must have."""
    try:
        lines = (directory / _SUMS).read_text(encoding="utf-8").splitlines()
        expected = {name: digest for digest, name in (line.split("  ") for line in lines)}
    except OSError as error:
        return [f"{_SUMS} cannot be read ({error.strerror})"]
    except ValueError:
        return [f"{_SUMS} is not a list of digests and files"]
    wrong = [f"{_SUMS} does not list {name}" for name in required if name not in expected]
    for name, digest in expected.items():
        try:
            if sha256(directory / name) != digest:
                wrong.append(f"{name} is not what was written (its SHA-256 differs)")
        except FileNotFoundError:
            wrong.append(f"{name} is missing")
        except OSError as error:
            wrong.append(f"{name} cannot be read ({error.strerror})")
    return wrong


def sha256(path: Path) -> str:
    """A file's digest, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def try_lock(file: IO[bytes], wait: bool) -> bool:
    """Lock an open file until it is closed or its process ends, however that ends; False where that cannot be done."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # another process holds the lock, or the file system has none
        return False
    return True


class NoLocksError(OSError):
    """The system, or the file system, knows no locks."""


def lock(path: Path) -> int:
    """Create and lock a file that says who holds it; returns the descriptor, whose closing ends the lock.

    It is flock's lock, and ends with the process too, however that ends. Remove the file before closing.

    Raises:
        BlockingIOError: another process (or descriptor) holds it; `strerror` is what the file says.
        NoLocksError: there are no locks here.
    """
    if fcntl is None:
        raise NoLocksError(errno.ENOSYS, "this system has no flock", str(path))
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last holder may have removed the file after it was opened here.
            if path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor)):
                holder = f"process {os.getpid()} on {platform.node()} since {datetime.now():%Y-%m-%d %H:%M:%S}\n"
                os.ftruncate(descriptor, 0)
                os.write(descriptor, holder.encode())
                return descriptor
            os.close(descriptor)
        except OSError as error:
            holder = os.read(descriptor, 1000).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise BlockingIOError(error.errno, holder, str(path)) from None
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise NoLocksError(error.errno, f"its file system has no locks ({error.strerror})", str(path)) from None
            raise


def mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def differences(stored: Any, given: Any, name: str = "") -> list[str]:
    """What two JSON values of the same kind differ in, a line for each place."""
    if isinstance(stored, dict) and isinstance(given, dict):
        return [
            line
            for key in {**stored, **given}
            for line in differences(stored.get(key), given.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if stored == given else [f"{name}: the run has {stored}, given is {given}"]


def finite(figures: dict[str, Any]) -> dict[str, Any]:
    """Figures as JSON can hold them: nan and infinities become null."""
    return {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in figures.items()}
