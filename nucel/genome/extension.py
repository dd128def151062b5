"""The compiled extension `_nucel` stands beside the package: it can be missing, or be another version's."""

from __future__ import annotations

from ..runtime.version import __version__

try:
    import _nucel
except ModuleNotFoundError as missing:
    if missing.name != "_nucel":
        raise
    raise ImportError(
        f"nucel {__version__} is here without its compiled sampler, _nucel, so it cannot read genomes; "
        "install a wheel for this Python and system, or build one: pip install . in the sources, with a C++17 compiler"
    ) from missing


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
