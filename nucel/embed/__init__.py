"""The verb `python -m nucel.embed`. The name `nucel.embed` is the function, which importing this package keeps."""

from ..inference.embedding import embed

__all__ = ["embed"]
