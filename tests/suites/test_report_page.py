"""The page as a document: it parses, fetches nothing, escapes what it is given, and says what the figures say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pages import HOSTILE, Reader, fetched

from nucel.suites.report_page import answer, page
from nucel.suites.report_sections import Comparison, Figure, Kept, Picture, Section, Table, difference, picture


def compared(task: str, control: str, low: float, high: float, pretrained: bool = False) -> Comparison:
    middle = (low + high) / 2
    return Comparison.of(
        task, "MCC", control, Figure(0.5, 0.4, 0.6), Figure(0.5 - middle, 0, 1), Figure(middle, low, high), pretrained
    )


def test_hostile_text_is_text_everywhere():
    section = Section(
        HOSTILE, [HOSTILE], [compared(HOSTILE, HOSTILE, 0.1, 0.2)], [Table(HOSTILE, [HOSTILE], [[HOSTILE]])],
        [Picture(HOSTILE, "data:image/png;base64,AA==")], [HOSTILE], [HOSTILE],
    )  # fmt: skip
    text = page(HOSTILE, answer(section.comparisons), [section], [HOSTILE])
    read = Reader(text)
    tags = [tag for tag, _ in read.tags]
    assert "script" not in tags and tags.count("img") == 1 and fetched(read) == []
    assert not any(name.startswith("on") for _, attrs in read.tags for name in attrs)
    assert "\u202e" not in text and "\x07" not in text
    assert sum("<script>alert(1)</script>" in one for one in read.texts) >= 9  # as text, in each of the places
    policy = next(attrs["content"] for tag, attrs in read.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "url(" not in text and "@import" not in text and "@font-face" not in text


@pytest.mark.parametrize(
    ("found", "mood", "begins"),
    [
        ([], "open", "Open: no labelled data"),
        ([("a", "untrained", 0.1, 0.2), ("a", "one-hot", 0.01, 0.2)], "yes", "Yes: on the one task"),
        ([("a", "untrained", 0.1, 0.2), ("b", "untrained", 0.1, 0.2)], "yes", "Yes: on all 2 tasks"),
        (
            [("a", "untrained", 0.1, 0.2), ("a", "one-hot", -0.01, 0.2)],
            "no",
            "No: on the one task that was given, the model is not better than every control. It is better",
        ),
        ([("a", "untrained", 0.1, 0.2), ("b", "one-hot", 0.0, 0.2)], "open", "In part: on 1 of 2 tasks"),
        (
            [("a", "untrained", -0.3, -0.2), ("b", "one-hot", 0.0, 0.2)],
            "no",
            "No: on none of 2 tasks is the model better than every control. It is not better than",
        ),
    ],
)
def test_the_first_word_is_what_the_intervals_say(found, mood, begins):
    said = answer([compared(*one) for one in found])
    assert said.mood == mood and said.headline.startswith(begins)


def test_the_mlm_control_does_not_decide():
    found = [compared("a", "untrained", 0.1, 0.2), compared("a", "MLM control", -0.3, -0.2, pretrained=True)]
    said = answer(found)
    assert said.mood == "yes"
    assert said.lines == [
        "a: MCC 0.500. Better than untrained (+0.150, 0.100 to 0.200); "
        "worse than MLM control (\N{MINUS SIGN}0.250, \N{MINUS SIGN}0.300 to \N{MINUS SIGN}0.200)."
    ]
    assert answer(found[1:]).mood == "open"


def test_figures_that_are_not_known_are_not_shown_as_numbers():
    unknown = Comparison.of("a", "MCC", "x", Figure(math.nan), Figure(0.1), Figure(math.nan))
    section = Section(
        "s", comparisons=[unknown], tables=[Table("t", ["v"], [[Figure(math.nan).cell], [[1.0, None, None]]])]
    )
    text = page("run", answer([unknown]), [section], [])
    Reader(text)
    assert not unknown.better and not unknown.worse and "nan" not in text.lower()


@given(
    *(st.floats(0, 1) for _ in range(2)),
    *(st.floats(0.01, 0.3) for _ in range(4)),
)
def test_the_interval_of_a_difference(one, other, a, b, c, d):
    """It turns around with the difference, and is the wider the wider its parts are."""
    first, second = Figure(one, one - a, one + b), Figure(other, other - c, other + d)
    forward, back = difference(first, second), difference(second, first)
    assert forward.value == pytest.approx(-back.value) and forward.low == pytest.approx(-back.high)
    assert forward.low <= forward.value - max(a, d) and forward.high >= forward.value + max(b, c)
    assert difference(first, Figure(other, other, other)) == pytest.approx(
        (one - other, one - other - a, one - other + b)
    )


def test_the_interval_of_a_difference_covers_as_often_as_it_says():
    """Two independent accuracies of 200 sequences: 95 % of the intervals hold the true difference, 0.2."""
    draws, held = np.random.default_rng(0), 0
    for _ in range(1000):
        rights = draws.binomial(200, (0.7, 0.5)) / 200
        figures = [
            Figure(p, p - 1.96 * math.sqrt(p * (1 - p) / 200), p + 1.96 * math.sqrt(p * (1 - p) / 200)) for p in rights
        ]
        found = difference(*figures)
        held += found.low <= 0.2 <= found.high
    assert 925 <= held <= 972


def test_sections_are_kept_until_what_they_depend_on_changes(tmp_path):
    kept, made = Kept(tmp_path / "r.html"), []
    (tmp_path / "p.svg").write_text("<svg/>")

    def make(folder):
        made.append(folder)
        assert not folder.exists()
        folder.mkdir(parents=True)
        (folder / "table.tsv").write_text("x\n")
        return Section("t", ["p"], [compared("a", "b", 0, 1)], [Table("c", ["h"], [["x"], [[1.0, None, 2.0]]])],
                       [picture(tmp_path / "p.svg", "c")], ["cmd"], ["n"])  # fmt: skip

    first = kept.section("tf/0", {"model": 1, "seeds": (0, 1)}, make)
    again = Kept(tmp_path / "r.html").section("tf/0", {"model": 1, "seeds": (0, 1)}, make)
    assert first == again and len(made) == 1 and first.pictures[0].uri == "data:image/svg+xml;base64,PHN2Zy8+"
    kept.section("tf/1", {"model": 1, "seeds": (0, 1)}, make)
    kept.section("tf_0", {"model": 1, "seeds": (0, 1)}, make)
    assert len(made) == 3 and len({folder.name for folder in made}) == 3  # names that look alike stay apart
    assert all(folder.parent == kept.folder for folder in made)
    kept.section("tf/0", {"model": 2, "seeds": (0, 1)}, make)
    assert len(made) == 4 and made[3] == made[0]
    damaged = made[0].with_name(made[0].name + ".json")
    damaged.write_text(damaged.read_text()[:-20])
    kept.section("tf/0", {"model": 2, "seeds": (0, 1)}, make)
    assert len(made) == 5


@pytest.mark.parametrize("name", ["../up", "/etc/x", "..", ".", "a\x00b", "\u00e9"])
def test_no_name_leaves_the_folder(tmp_path, name):
    kept = Kept(tmp_path / "r.html")
    places = []
    kept.section(name, {}, lambda folder: places.append(folder) or Section("t"))
    assert places[0].parent == kept.folder and [path.parent for path in kept.folder.rglob("*.json")] == [kept.folder]
