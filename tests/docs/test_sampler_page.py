"""The Python of docs/sampler.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

from support.genomes import random_bases, wrap, write

PAGE = (Path(__file__).parents[2] / "docs" / "sampler.md").read_text(encoding="utf-8")


def test_the_page_s_python_runs(tmp_path, monkeypatch):
    write(tmp_path / "genome.fa", f">c\n{wrap(random_bases(400_000))}")
    monkeypatch.chdir(tmp_path)
    one, other = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names: dict = {}
    exec(one, names)
    assert names["batch"].tokens.shape == (192, 1024) and len(names["batch"].rows) == 192
    exec(other.replace("range(100)", "range(2)"), names)
    assert names["tokens"].shape == (192, 1024) and (names["tokens"].numpy() == names["sampler"].batch(1).tokens).all()
