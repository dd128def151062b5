"""What a trained pair says about sequences: the effects of variants, surprise along a genome."""

from __future__ import annotations
