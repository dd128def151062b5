"""What the tables of a GPU round have in common: a command line, memory, and files that survive an interruption."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Result = dict[str, Any]


def peak_mib(call: Callable[[], Any]) -> float:
    """What one call allocates beyond what was there."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def main(
    name: str,
    description: str,
    table: Callable[[float, Callable[[Result], None]], Result],
    markdown: Callable[[Result], str],
) -> None:
    """Fill NAME.json and NAME.md in --out, anew after each row, so that a round that is stopped keeps what it has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True, help=f"folder for {name}.json and {name}.md")
    parser.add_argument("--seconds", type=float, default=math.inf, help="start no new measurement after so long")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error(f"the full table needs a GPU; on a CPU run: pytest benchmarks/bench_{name}.py --benchmark-only")
    options.out.mkdir(parents=True, exist_ok=True)

    def save(result: Result) -> None:
        (options.out / f"{name}.json").write_text(json.dumps(result, indent=1))
        (options.out / f"{name}.md").write_text(markdown(result) + "\n")

    result = table(options.seconds, save)
    save(result)
    print(markdown(result))
