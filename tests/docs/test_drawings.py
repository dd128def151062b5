"""The drawings of the site are those that their program makes, and what they show is so."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from website import drawings


@pytest.mark.parametrize("name", ["band", "walk", "bounds", "flow"])
def test_committed_drawings_are_up_to_date(name):
    """Else: python -m website.drawings."""
    drawn = getattr(drawings, name)()
    assert (drawings.PICTURES / f"{name}.svg").read_text(encoding="utf-8") == drawn
    assert ElementTree.fromstring(drawn).tag.endswith("svg")


@pytest.mark.parametrize("block", [32, 64, 128])
def test_visible_shares_are_those_of_the_mask(block):
    """Counted in the matrix of a long row, for the tiles that hold any visible score of some query tile's reach."""
    positions = 40 * block
    i, j = np.arange(positions)[:, None], np.arange(positions)[None, :]
    visible = abs(i - j) <= drawings.RADIUS
    middle = slice(20 * block, 21 * block)
    tiles = visible[middle].reshape(block, -1, block).any(axis=(0, 2)).sum()
    share = visible[middle].sum() / (tiles * block * block)
    assert drawings.visible_share(block) == pytest.approx(share)
