"""The site in a browser, as wide as a desktop and as a phone: nothing sticks out, every picture is there."""

from __future__ import annotations

import html
import json
import re
import subprocess

import pytest
from support.browser import command

WIDTHS = {"desktop": 1280, "phone": 390}
FRAMES = """<!doctype html><body><script>
const pages = %s, found = {};
let waiting = pages.length;
for (const [page, width] of pages) {
  const frame = document.createElement("iframe");
  frame.width = width; frame.height = 800; frame.src = page;
  frame.onload = () => {
    const inner = frame.contentDocument, root = inner.documentElement;
    const broken = [...inner.images].filter((image) => !image.complete || !image.naturalWidth).map((i) => i.src);
    found[page + " " + width] = {overhang: root.scrollWidth - root.clientWidth, broken, title: inner.title};
    if (--waiting === 0) {
      const answer = document.createElement("pre");
      answer.id = "answer"; answer.textContent = JSON.stringify(found);
      document.body.append(answer);
    }
  };
  document.body.append(frame);
}
</script></body>"""
"""A page that opens others in frames of given widths, and says of each how far it is wider than its frame.

It counts as loaded, and is printed, when all of them are.
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> list[str]:
    return command(tmp_path_factory.mktemp("profile"))


@pytest.mark.slow
def test_no_page_is_wider_than_its_screen_and_every_picture_is_shown(site, browser):
    pages = [path for path in sorted(site.rglob("*.html")) if path.name != "404.html"]
    wanted = [(path.as_uri(), width) for path in pages for width in WIDTHS.values()]
    frames = site / "frames.html"
    frames.write_text(FRAMES % json.dumps(wanted), encoding="utf-8")
    flags = ["--allow-file-access-from-files", "--dump-dom"]
    done = subprocess.run([*browser, *flags, frames.as_uri()], capture_output=True, text=True, timeout=100)
    frames.unlink()
    answer = re.search(r'<pre id="answer">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    assert answer, done.stderr
    found = json.loads(html.unescape(answer[1]))
    assert len(found) == len(wanted) > 50
    assert {page: one for page, one in found.items() if one["overhang"] > 0 or one["broken"] or not one["title"]} == {}


@pytest.mark.slow
@pytest.mark.parametrize("screen", WIDTHS)
def test_a_picture_of_a_page_can_be_taken(site, browser, screen, tmp_path):
    """To look at: pages that are wide, or have drawings."""
    image = pytest.importorskip("PIL.Image")
    for page in ("index", "kernels"):
        picture = tmp_path / f"{page}.png"
        flags = [f"--window-size={WIDTHS[screen]},1600", f"--screenshot={picture}", (site / f"{page}.html").as_uri()]
        subprocess.run([*browser, *flags], check=True, capture_output=True, timeout=60)
        with image.open(picture) as opened:
            assert opened.width == WIDTHS[screen]
            assert len(opened.convert("L").getcolors()) > 50  # not blank
