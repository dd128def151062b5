"""What a trained pair says about sequences: the effects of variants."""

from __future__ import annotations
