"""The page in a browser: no wider than a phone, pictures shown, light and dark, and printed on paper."""

from __future__ import annotations

import html
import re
import subprocess
from pathlib import Path

import pytest
from support.browser import command

from nucel.suites.report_page import answer, page
from nucel.suites.report_sections import Comparison, Figure, Section, Table, picture

LONG = "a_name_that_" + "goes_on_" * 20
SCREENS = {"desktop": (1280, 2600), "phone": (390, 4200)}


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> list[str]:
    return command(tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A page with everything that a section can hold, with long names."""
    figure = pytest.importorskip("matplotlib.figure")
    folder = tmp_path_factory.mktemp("page")
    drawing = figure.Figure(figsize=(9, 2))
    drawing.subplots().plot([0, 1], [1, 0])
    drawing.savefig(folder / "p.svg")
    drawing.savefig(folder / "p.png")
    values = (Figure(0.5, 0.4, 0.6), Figure(0.2, 0.1, 0.3), Figure(0.3, 0.2, 0.4))
    compared = [Comparison.of(task, "MCC", "untrained", *values) for task in ("one", LONG)]
    rows = [["probe on a layer", value.cell, value.cell] for value in values] + [[LONG, "0" * 90, "x"]]
    pictures = [picture(folder / name, f"A picture, {name}.") for name in ("p.svg", "p.png")]
    section = Section(
        f"Task {LONG}", ["Text.", LONG], compared, [Table("Test", ["probe", "MCC", "AUROC"], rows)], pictures,
        [f"python -m nucel.probe {LONG}"], [LONG],
    )  # fmt: skip
    path = folder / "r.html"
    path.write_text(page(LONG, answer(compared), [section, section], ["python -m nucel.report"]), encoding="utf-8")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("screen", SCREENS)
def test_nothing_sticks_out_and_every_picture_is_shown(made, browser, screen, tmp_path):
    """Another page, which may run scripts, opens this one in a frame and looks at it."""
    frame = tmp_path / "frame.html"
    size = f'width="{SCREENS[screen][0]}" height="800"'
    frame.write_text(
        f"""<!doctype html><body><iframe id="f" {size} src="{made.as_uri()}"></iframe>
<script>onload = () => {{
  const inner = document.getElementById("f").contentDocument, root = inner.documentElement;
  const images = [...inner.images], shown = images.filter((image) => image.complete && image.naturalWidth).length;
  document.body.append(`overhang=${{root.scrollWidth - root.clientWidth}} images=${{images.length}} shown=${{shown}}`);
}};</script>""",
        encoding="utf-8",
    )
    words = [*browser, "--allow-file-access-from-files", "--dump-dom", frame.as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100)
    found = re.search(r"overhang=(-?\d+) images=(\d+) shown=(\d+)", html.unescape(done.stdout))
    assert found, done.stderr
    assert (int(found[1]) <= 0, int(found[2]), int(found[3])) == (True, 4, 4)


@pytest.mark.slow
def test_screenshots_differ_in_light_and_dark(made, browser, tmp_path):
    """To look at too."""
    image = pytest.importorskip("PIL.Image")
    brightness = {}
    for mode, number in {"dark": 0, "light": 1}.items():
        for screen, (width, height) in SCREENS.items():
            target = tmp_path / f"{mode}-{screen}.png"
            flags = [f"--blink-settings=preferredColorScheme={number}", f"--window-size={width},{height}"]
            subprocess.run(
                [*browser, *flags, f"--screenshot={target}", made.as_uri()], check=True, capture_output=True, timeout=60
            )
            with image.open(target) as opened:
                assert opened.width == width and len(opened.convert("L").getcolors()) > 50  # not blank
                brightness[mode, screen] = opened.convert("L").getpixel((3, 3))
    for screen in SCREENS:
        assert brightness["light", screen] > 240 and brightness["dark", screen] < 40


@pytest.mark.slow
def test_it_prints(made, browser, tmp_path):
    target = tmp_path / "r.pdf"
    subprocess.run(
        [*browser, f"--print-to-pdf={target}", "--no-pdf-header-footer", made.as_uri()],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    content = target.read_bytes()
    assert content.startswith(b"%PDF") and content.count(b"/Type /Page\n") + content.count(b"/Type /Page ") >= 2
