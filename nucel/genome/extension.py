"""The compiled extension `_nucel` stands beside the package, so that it can be another version's."""

from __future__ import annotations

import _nucel

from ..runtime.version import __version__


def require_same_version(compiled: str = _nucel.__version__) -> None:
    """Refuse an extension that was compiled from other sources than these.

    Raises:
        ImportError: its version is not the package's.
    """
    if compiled != __version__:
        raise ImportError(
            f"nucel is version {__version__}, and its compiled extension {_nucel.__file__} is version {compiled}; "
            "install both again from the same sources: pip install --force-reinstall --no-deps ."
        )


require_same_version()
