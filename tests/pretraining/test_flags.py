"""The flags of pre-training in groups: the same settings as without groups."""

from __future__ import annotations

import dataclasses
import typing

import pytest

from nucel.pretraining.config import PRESETS, TrainConfig
from nucel.pretraining.flags import TrainFlags


@pytest.mark.parametrize("preset", PRESETS)
def test_groups_and_back_is_the_same_configuration(preset):
    config = dataclasses.replace(PRESETS[preset](), threads=3, resume="auto", hold_out=("chr1",), seed=7)
    assert TrainFlags.of(config).config() == config != PRESETS[preset]()


def test_every_setting_is_in_one_group():
    groups = typing.get_type_hints(TrainFlags)
    inside = [one.name for name, kind in groups.items() if name != "model" for one in dataclasses.fields(kind)]
    assert sorted([*inside, "model"]) == sorted(one.name for one in dataclasses.fields(TrainConfig))
    assert len(inside) > 40
