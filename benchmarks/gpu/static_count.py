"""What every kernel costs by its machine code, at the model's shapes, without a GPU.

    python -m benchmarks.gpu.static_count [--architectures 90 80] [--json FILE]
    python -m benchmarks.gpu.static_count --compare NAME=FILE NAME=FILE ... --markdown FILE

Compiles the kernels for H200 (sm_90) and A100 (sm_80) with the Triton of this environment, counts the instructions that
they run, and divides by what each unit of the GPU does per clock (`sass.GPUS` says by which source). The slowest unit
gives the bound: no launch is faster, and a real one also waits. Bytes count twice: `memory` is what the tensors hold,
each read or written once; `l2` is what all programs load and store, as if L1 kept nothing. The second command puts
counts of several versions, of the code or of Triton, into one page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton

from benchmarks.gpu import sass
from benchmarks.gpu.compiling import Launch, launches, without_data
from benchmarks.table import markdown_table
from nucel.kernels import attention_triton, rtd_loss_triton
from nucel.kernels.attention import visible_pairs

BATCH, POSITIONS, HEADS, WIDTH, RADIUS = 192, 1024, 16, 32, 64
TOKENS, CHANNELS = BATCH * POSITIONS, HEADS * WIDTH
SHAPES = (
    f"B = {BATCH}, T = {POSITIONS}, H = {HEADS}, D = {WIDTH}, C = {CHANNELS}, bf16, without lengths, "
    f"radius {RADIUS} in local layers."
)
Options = dict[str, Any]


class Work(NamedTuple):
    """What a count of one kernel needs to know beyond its machine code."""

    trips: Callable[[Options], list[int]]
    """Trip counts of its loops in order of appearance, from the launch's options."""
    tensors: float
    """bf16 tensors of (B, T, C) that it must read or write."""
    row_bytes: int = 0
    """Other bytes, per token."""


def steps(options: Options) -> int:
    return POSITIONS // options["STEP"]


LSE = 4 * HEADS
WORK = {
    ("local forward", "walk_forward"): Work(lambda o: [POSITIONS // o["BLOCK"]], 4, LSE),
    ("local backward", "walk_backward"): Work(lambda o: [POSITIONS // o["BLOCK"]], 8, LSE),
    ("global forward", "rotate"): Work(lambda o: [HEADS], 2),
    ("global forward", "loop_forward"): Work(lambda o: [1, steps(o), 0], 4, LSE),
    ("global backward", "prepare_backward"): Work(lambda o: [HEADS], 6.5, LSE),
    ("global backward", "global_backward_queries"): Work(lambda o: [steps(o)], 5.5),
    ("global backward", "global_backward_keys"): Work(lambda o: [steps(o)], 6.5),
    ("RTD", "forward"): Work(lambda o: [o["BLOCK"] // o["STEP"]], 1, 4),
    ("RTD", "position_losses"): Work(lambda o: [], 0, 5),
    ("RTD", "finish_forward"): Work(lambda o: [1], 0),
    ("RTD", "position_grads"): Work(lambda o: [], 0, 9),
    ("RTD", "backward"): Work(lambda o: [o["BLOCK"] // o["STEP"]], 2, 4),
    ("RTD", "finish_backward"): Work(lambda o: [12, 1], 0),
}
"""By group and kernel."""

GROUPS: dict[str, tuple[str, float, int]] = {
    # group            elements              layers of a step                       tokens x ...
    "local forward": ("visible pair", 17.5, BATCH * HEADS * visible_pairs(POSITIONS, RADIUS)),
    "local backward": ("visible pair", 17.5, BATCH * HEADS * visible_pairs(POSITIONS, RADIUS)),
    "global forward": ("visible pair", 10, BATCH * HEADS * POSITIONS**2),
    "global backward": ("visible pair", 10, BATCH * HEADS * POSITIONS**2),
    "RTD": ("element of a row", 1, TOKENS * CHANNELS),
}
"""What an element is, layers in a step, and elements of a layer.

The discriminator has 22 layers, 8 of them global. The generator's 11 are half as wide and count as 2 global and 3.5
local ones.
"""


def compile_group(group: str, architecture: int) -> list[Launch]:
    """The launches of one layer's pass, or of the RTD loss in both directions."""
    dtype = torch.bfloat16
    with launches(architecture) as done:
        if group == "RTD":
            dense, weight = without_data(BATCH, POSITIONS, CHANNELS, dtype=dtype), without_data(CHANNELS)
            original = without_data(BATCH, POSITIONS, dtype=torch.bool)
            loss, logits = rtd_loss_triton.rtd_loss_forward(dense, weight, weight, without_data(), original, None, 1e-5)
            rtd_loss_triton.rtd_loss_backward(loss, dense, weight, weight, original, logits, None, 1e-5)
            return done
        qkv = without_data(BATCH, POSITIONS, 3, HEADS, WIDTH, dtype=dtype)
        angles, lse = without_data(POSITIONS, WIDTH // 2), without_data(BATCH, HEADS, POSITIONS)
        out = without_data(BATCH, POSITIONS, HEADS, WIDTH, dtype=dtype)
        radius = RADIUS if group.startswith("local") else None
        if group.endswith("forward"):
            attention_triton.attention_forward(qkv, angles, angles, radius, None)
        else:
            attention_triton.attention_backward(out, qkv, angles, angles, out, lse, radius, None)
    return done


def row(group: str, launch: Launch, architecture: int) -> dict[str, Any]:
    """The count of one launch.

    Raises:
        ValueError: its loops are not those that `WORK` describes.
    """
    gpu, warps, work = sass.GPUS[architecture], launch.options["num_warps"], WORK[group, launch.kernel]
    try:
        total, bodies = sass.count(sass.parse(launch.listing()), work.trips(launch.options))
    except ValueError as error:
        raise ValueError(f"{launch.kernel} on sm_{architecture}: {error}") from error
    used, resources = sass.cycles(total, warps, gpu), launch.resources()
    programs = sass.programs_per_multiprocessor(resources["REG"], launch.binary.metadata.shared, warps, gpu)
    times = sass.milliseconds(used, launch.programs, gpu)
    times["memory"] = (work.tensors * TOKENS * CHANNELS * 2 + work.row_bytes * TOKENS) / gpu.memory_bytes_per_s * 1e3
    limiter = max(times, key=times.get)
    return {
        "group": group,
        "kernel": launch.kernel,
        "sm": architecture,
        "triton": triton.__version__,
        "registers": resources["REG"],
        "spilled_bytes": resources["STACK"],
        "shared_bytes": launch.binary.metadata.shared,
        "serialized": launch.is_serialized(),
        "programs": launch.programs,
        "programs_per_sm": programs,
        "warps_per_scheduler": programs * warps / sass.SCHEDULERS,
        "instructions_per_warp": total.total(),
        "loop_bodies": bodies,
        "instructions_per_element": total.total() * warps * 32 * launch.programs / GROUPS[group][2],
        "ms": times,
        "bound_ms": times[limiter],
        "limiter": limiter,
    }


def sums(rows: list[dict[str, Any]]) -> Iterator[tuple[int, str, float, float]]:
    """Architecture, group, bound of a layer and of a step; then the sum of attention and of everything."""
    for sm in dict.fromkeys(row["sm"] for row in rows):
        step = {}
        for group, (_, layers, _) in GROUPS.items():
            layer = sum(row["bound_ms"] for row in rows if row["sm"] == sm and row["group"] == group)
            step[group] = layers * layer
            yield sm, group, layer, step[group]
        attention = sum(ms for group, ms in step.items() if group != "RTD")
        yield sm, "attention", float("nan"), attention
        yield sm, "all", float("nan"), attention + step["RTD"]


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table of kernels and that of a step."""
    units = list(rows[0]["ms"])
    titles = [
        "group", "kernel", "sm", "registers", "spilled bytes", "programs/SM", "instructions/warp", "per element",
        *units, "bound, ms", "limiter",
    ]  # fmt: skip
    cells = (
        [
            row["group"], row["kernel"] + (" (wgmma serialised)" if row["serialized"] else ""), str(row["sm"]),
            str(row["registers"]), str(row["spilled_bytes"]), str(row["programs_per_sm"]),
            str(row["instructions_per_warp"]), f"{row['instructions_per_element']:.1f}",
            *(f"{row['ms'][unit]:.3f}" for unit in units), f"{row['bound_ms']:.3f}", row["limiter"],
        ]
        for row in rows
    )  # fmt: skip
    step = (
        [str(sm), name, "" if layer != layer else f"{layer:.3f}", f"{ms:.1f}"] for sm, name, layer, ms in sums(rows)
    )
    return "\n\n".join(
        (
            f"Triton {rows[0]['triton']}; ms of each unit at the clock of {', '.join(_clocks(rows))}.",
            markdown_table(titles, cells),
            markdown_table(["sm", "group", "bound of a layer, ms", "of a step, ms"], step),
        )
    )


def _clocks(rows: list[dict[str, Any]]) -> Iterator[str]:
    for sm in dict.fromkeys(row["sm"] for row in rows):
        yield f"{sass.GPUS[sm].name} (sm_{sm}), {sass.GPUS[sm].ghz:.2f} GHz"


def comparison(counts: dict[str, list[dict[str, Any]]]) -> str:
    """A page: the bounds of each group's layer and of a step, one column for each count, then every count's table."""
    bounds: dict[tuple[int, str], dict[str, str]] = {}
    for name, rows in counts.items():
        for sm, group, layer, step in sums(rows):
            of_step = layer != layer
            title = f"{group}, ms of a step" if of_step else f"{group}, ms of a layer"
            bounds.setdefault((sm, title), {})[name] = f"{step:.1f}" if of_step else f"{layer:.3f}"
    lines = ([str(sm), title, *(cells.get(name, "") for name in counts)] for (sm, title), cells in bounds.items())
    head = f"Lower bounds counted from machine code by `benchmarks.gpu.static_count`, not measured. {SHAPES}"
    parts = ["# Static bounds of the kernels", head, markdown_table(["sm", "bound", *counts], lines)]
    for name, rows in counts.items():
        parts += [f"## {name}", markdown(rows)]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architectures", type=int, nargs="+", choices=sass.GPUS, default=list(sass.GPUS))
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--compare", nargs="+", metavar="NAME=FILE", help="read counts from these files, count nothing")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--markdown", type=Path, help="write the page to this file")
    options = parser.parse_args()
    if options.compare:
        files = (pair.split("=", 1) for pair in options.compare)
        page = comparison({name: json.loads(Path(file).read_text()) for name, file in files})
    else:
        rows = [
            row(group, launch, architecture)
            for architecture in options.architectures
            for group in options.groups
            for launch in compile_group(group, architecture)
        ]
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1))
        page = markdown(rows)
    if options.markdown:
        options.markdown.write_text(page + "\n")
    print(page)


if __name__ == "__main__":
    main()
