"""The version of these sources, which the compiled extension must share."""

__version__ = "0.1.0"
