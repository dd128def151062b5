"""`pytest benchmarks --benchmark-only`: a table for each kind of work, with rates, instead of pytest-benchmark's own.

pytest-benchmark's table is wider than a terminal and has no column for tokens/s. Its options for saving and comparing
(--benchmark-json, --benchmark-compare, ...) work as ever; with -v its table is printed as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from benchmarks.table import machine, machine_line

RESULTS = pytest.StashKey[list[dict[str, Any]]]()


@pytest.fixture
def timed(benchmark) -> Callable[..., None]:
    """Time a call: one of several implementations of the same work."""

    def run(group: str, implementation: str, call: Callable[[], Any], rounds: int, amounts: dict[str, float]) -> None:
        """amounts: how much one call does, by unit; {"tokens": 4096} is shown as tokens/s."""
        benchmark.group, benchmark.name = group, implementation
        benchmark.pedantic(call, rounds=rounds, warmup_rounds=1)
        if benchmark.stats:
            seconds = benchmark.stats.stats.median
            benchmark.extra_info |= {f"{unit}/s": amount / seconds for unit, amount in amounts.items()}

    return run


def pytest_configure(config: pytest.Config) -> None:
    config.option.benchmark_quiet = True


@pytest.hookimpl(wrapper=True)
def pytest_benchmark_group_stats(config: pytest.Config, benchmarks: list[dict[str, Any]]) -> Iterator[None]:
    config.stash[RESULTS] = benchmarks
    return (yield)


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    results = config.stash.get(RESULTS, [])
    if not results:
        return
    terminalreporter.section("benchmarks")
    terminalreporter.line(machine_line(machine(torch.device("cpu"))))
    for group in dict.fromkeys(result["group"] for result in results):
        terminalreporter.line("")
        for line in group_lines(group, [result for result in results if result["group"] == group]):
            terminalreporter.line(line)


def group_lines(group: str, results: list[dict[str, Any]]) -> Iterator[str]:
    """One line for each implementation, the fastest first: median time, how much slower, and its rates."""
    rates = list(dict.fromkeys(rate for result in results for rate in result["extra_info"]))
    yield f"{group:<58}{'median ms':>12}{'slower':>9}" + "".join(f"{rate:>13}" for rate in rates)
    # Where implementations do different amounts in a call, the first rate tells which is the fastest.
    speed = [result["extra_info"][rates[0]] for result in results]
    for result, own in sorted(zip(results, speed, strict=True), key=lambda pair: -pair[1]):
        cells = "".join(f"{rounded(result['extra_info'][rate]):>13}" for rate in rates)
        yield f"  {result['name']:<56}{1e3 * result['median']:>12,.3f}{max(speed) / own:>8.2f}x{cells}"


def rounded(value: float) -> str:
    """Four digits, or all those before the point."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
