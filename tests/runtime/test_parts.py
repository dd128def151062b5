"""Parts of a long command's result: kept whole, given back as they were, never mixed with another's."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nucel.runtime.errors import ConfigError
from nucel.runtime.parts import Parts


def test_a_part_is_made_once_and_comes_back_with_all_its_digits(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"x": np.float32([[0.1, math.pi]]), "empty": np.empty((3, 0))}

    for _ in range(2):  # the second time as another call of the command
        parts = Parts(tmp_path / "out", "test", {"seed": 1})
        found = parts.once(4, make)
        assert set(found) == {"x", "empty"} and found["empty"].shape == (3, 0)
        np.testing.assert_array_equal(found["x"], np.float32([[0.1, math.pi]]))
        rows = parts.once_json(5, lambda: [("a", 1, {"f1": math.pi / 3}, np.float64(1e-300))])
        assert rows == [["a", 1, {"f1": math.pi / 3}, 1e-300]]
        assert parts.seconds > 0
    assert made == [1]
    parts.remove()
    assert not list(tmp_path.iterdir())


def test_what_fails_keeps_no_part(tmp_path):
    parts = Parts(tmp_path / "out", "test", {"seed": 1})
    with pytest.raises(ZeroDivisionError):
        parts.once_json(0, lambda: 1 / 0)
    assert 0 not in parts
    parts.remove_if_empty()
    assert not list(tmp_path.iterdir())


def test_parts_of_another_identity_are_refused_with_what_differs(tmp_path):
    Parts(tmp_path / "out", "test", {"seed": 1, "weights": ["a"]}).once_json(0, lambda: 1)
    with pytest.raises(ConfigError, match=r"of another test:\n  seed: the run has 1, given is 2\nDelete it"):
        Parts(tmp_path / "out", "test", {"seed": 2, "weights": ["a"]})
