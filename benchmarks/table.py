"""What the benchmarks share: the machine's name, times, the check before a time, and tables that survive a stop.

A row is a dictionary: labels say what was measured, values what came out. Where nothing did, `reason` says why.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

try:
    from triton.errors import TritonError
except ImportError:  # not installed, so nothing raises it

    class TritonError(Exception):  # type: ignore[no-redef]
        """Stands in for the errors of Triton's compiler."""


Row = dict[str, Any]

FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    subprocess.SubprocessError,
    TritonError,
)
"""What may go wrong while one thing is measured, and must not end the others: a wrong result, a version that lacks a
function, a compiler or a driver that refuses. Errors of Triton's compiler derive from Exception alone."""


# ---- the machine -----------------------------------------------------------------------------------------------------


def machine(device: torch.device) -> dict[str, str]:
    """What a time depends on: the GPU or the processor, and the versions of torch and, on a GPU, Triton."""
    if device.type != "cuda":
        threads = torch.get_num_threads()
        name = f"{processor()}, {threads} thread{'s' if threads > 1 else ''}"
        return {"machine": name, "torch": torch.__version__}
    import triton

    return {
        "machine": f"{torch.cuda.get_device_name(device)}, {processor()}",
        "torch": torch.__version__,
        "Triton": triton.__version__,
    }


def machine_line(facts: dict[str, Any]) -> str:
    """One line from the facts of a table: the machine, then the versions that are known."""
    versions = [f"{name} {facts[name]}" for name in ("torch", "Triton", "transformers") if name in facts]
    return f"{facts['machine']}; {', '.join(versions)}"


def processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


# ---- time and memory -------------------------------------------------------------------------------------------------


def seconds_of(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call, to the end of the device's work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def median_seconds(call: Callable[[], Any], device: torch.device, rounds: int) -> float:
    """The median of some calls, after two that are not timed."""
    call()
    call()
    return statistics.median(seconds_of(call, device) for _ in range(rounds))


def gpu_milliseconds(call: Callable[[], Any], rep: int = 60) -> float:
    """Median over about `rep` ms of calls by Triton's timer, which clears the L2 cache before each."""
    from triton.testing import do_bench

    return do_bench(call, warmup=rep // 3, rep=rep, return_mode="median")


def peak_mib(call: Callable[[], Any]) -> float:
    """MiB that one call allocates on the GPU beyond what was allocated before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


# ---- right before timed ----------------------------------------------------------------------------------------------


class Expected(NamedTuple):
    """Exact results, and how far an implementation may be from each.

    The rule: error <= 4 * error of plain PyTorch in the same dtype + eps(dtype), where an error is the largest over a
    tensor, and eps is taken at the largest exact value. The tests' rule has 2 instead of 4. Here PyTorch's own fused
    kernels must pass too: in fp32 on a CPU, the error of SDPA's local dQ is 2.5 times that of plain products.
    """

    exact: tuple[Tensor, ...]
    allowed: tuple[float, ...]

    @classmethod
    def beside(cls, exact: tuple[Tensor, ...], pytorch: tuple[Tensor, ...], dtype: torch.dtype) -> Expected:
        """The rule for results of plain PyTorch in a dtype beside the exact ones, which are fp64."""
        pairs = zip(exact, pytorch, strict=True)
        eps = torch.finfo(dtype).eps
        return cls(exact, tuple(4 * largest_error(ours, truth) + eps * largest(truth) for truth, ours in pairs))

    def check(self, name: str, results: tuple[Tensor, ...]) -> None:
        """
        Raises:
            AssertionError: the implementation is wrong, and must not be timed.
        """
        for number, (ours, exact, allowed) in enumerate(zip(results, self.exact, self.allowed, strict=True)):
            error = largest_error(ours, exact)
            assert error <= allowed, f"{name} is wrong: result {number} is off by {error:.2e}, allowed {allowed:.2e}"


def largest(x: Tensor) -> float:
    return x.abs().max().item()


def largest_error(ours: Tensor, exact: Tensor) -> float:
    return largest(ours.double() - exact)


def measured(labels: Row, measure: Callable[[], Row]) -> Row:
    """The labels with the values, or with the reason: wrong, missing in this version, or too large for the device."""
    try:
        return labels | measure()
    except FAILURES as error:
        reason = reason_of(error)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return labels | {"reason": reason}


def reason_of(error: BaseException) -> str:
    """An error in one line of a table."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:160]


# ---- tables ----------------------------------------------------------------------------------------------------------


def markdown_table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table of texts."""
    titles = list(titles)
    lines = [titles, *rows]
    text = ["| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines]
    return "\n".join([text[0], "|" + " --- |" * len(titles), *text[1:]])


@dataclass
class Table:
    """Rows of one benchmark, written to PATH.json and PATH.md anew after each."""

    facts: dict[str, Any]
    """What all rows have in common; `machine` and the versions stand above the table."""
    labels: tuple[str, ...]
    """Keys of what was measured, which are also the titles."""
    values: dict[str, tuple[str, str]]
    """Key of each value -> its title and format."""
    path: Path | None = None
    """Without an ending; None writes no file."""
    note: str = ""
    """A sentence for the line above the table."""
    rows: list[Row] = field(default_factory=list)

    def fill(self, rows: Iterable[Row], seconds: float = math.inf) -> None:
        """Take rows as they are measured; after so many seconds, ask for no more."""
        start = time.monotonic()
        for row in rows:
            self.rows.append(row)
            self.save()
            if time.monotonic() - start > seconds:
                self.facts["unfinished"] = f"stopped after {seconds:.0f} s"
                break
        self.save()

    def save(self) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.facts | {"rows": self.rows}, indent=1)
        self.path.with_suffix(".json").write_text(text, encoding="utf-8")
        self.path.with_suffix(".md").write_text(self.markdown() + "\n", encoding="utf-8")

    def markdown(self) -> str:
        """The machine's line and the table, for a page."""
        titles = [*self.labels, *(title for title, _ in self.values.values())]
        head = " ".join(filter(None, [f"{machine_line(self.facts)}.", self.note, self.facts.get("unfinished", "")]))
        return f"{head}\n\n{markdown_table(titles, map(self._cells, self.rows))}"

    def _cells(self, row: Row) -> list[str]:
        labels = [str(row.get(label, "")) for label in self.labels]
        if "reason" in row:
            return [*labels, row["reason"], *[""] * (len(self.values) - 1)]
        values = ((row.get(key), spec) for key, (_, spec) in self.values.items())
        return labels + ["" if value is None else format(value, spec) for value, spec in values]


# ---- command lines ---------------------------------------------------------------------------------------------------


def command_line(description: str, name: str) -> argparse.ArgumentParser:
    """The flags of every program that fills a table."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help=f"folder for {name}.json and {name}.md")
    parser.add_argument("--seconds", type=float, default=math.inf, help="start no new measurement after so long")
    return parser


def gpu_table(description: str, name: str, table: Table, rows: Callable[[], Iterable[Row]]) -> None:
    """The program of a table that needs a GPU; its facts begin with the machine."""
    parser = command_line(description, name)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error(f"the full table needs a GPU; on a CPU run: pytest benchmarks/bench_{name}.py --benchmark-only")
    table.facts = machine(torch.device("cuda")) | table.facts
    table.path = options.out / name
    table.fill(rows(), options.seconds)
    print(table.markdown())
