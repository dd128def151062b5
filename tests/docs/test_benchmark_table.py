"""The table that `pytest benchmarks --benchmark-only` prints fits a terminal and shows rates."""

from __future__ import annotations

import ast
from pathlib import Path

from benchmarks.conftest import group_lines

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def result(name: str, seconds: float, tokens: float) -> dict:
    rates = {"tokens/s": tokens / seconds, "Mbases/s": 1e-6 * tokens / seconds}
    return {"group": "g", "name": name, "median": seconds, "extra_info": rates}


def test_a_group_shows_rates_the_fastest_first_within_120_columns():
    results = [result("slow one", 2.0, 4096), result("n" * 56, 0.5, 4096)]
    header, first, second = group_lines("g" * 58, results)
    assert max(map(len, (header, first, second))) <= 120
    assert "tokens/s" in header and "Mbases/s" in header and "slower" in header
    assert first.split()[0] == "n" * 56 and first.split()[1:4] == ["500.000", "1.00x", "8,192"]
    assert second.split()[0] == "slow" and "4.00x" in second and "2,048" in second


def test_every_benchmark_is_timed_through_the_table():
    """Whoever calls pytest-benchmark's fixture itself would have no rates."""
    for path in BENCHMARKS.glob("bench_*.py"):
        functions = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]
        arguments = {a.arg for f in functions if f.name.startswith("test_") for a in f.args.args}
        assert "benchmark" not in arguments, path
