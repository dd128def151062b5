"""Machine code (SASS) counted: which instructions a program runs, and how long each unit of a GPU needs for them.

Every backward branch is a loop; its body is weighted with the loop's trip count, everything else runs once. What comes
out is a lower bound per unit, as if nothing else had to be waited for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple


class Instruction(NamedTuple):
    offset: int
    predicate: str
    """`@P0` or `@!UP1`; empty where it always runs."""
    opcode: str
    """With its modifiers: `LDG.E.128`."""
    operands: str

    @property
    def base(self) -> str:
        return self.opcode.split(".")[0]


class Code(NamedTuple):
    instructions: list[Instruction]
    labels: dict[str, int]
    """Offset of the instruction that follows a label."""


class Gpu(NamedTuple):
    """What one GPU does per clock, and what a multiprocessor holds.

    Cycles are those of one of the four schedulers for an instruction of a warp; tensor rates those of a multiprocessor.
    """

    name: str
    multiprocessors: int
    ghz: float
    fma_cycles: int
    """fp32 add, multiply, fused multiply-add."""
    matrix_flop: int
    """16-bit floating-point operations of the tensor cores per clock of a multiprocessor."""
    shared_bytes: int
    """Shared memory of a multiprocessor, 1 KiB of it reserved for each program."""
    memory_bytes_per_s: float
    l2_bytes_per_s: float


GPUS = {
    # Arithmetic: CUDA C++ Programming Guide, "Throughput of native arithmetic instructions", columns 9.0 and 8.0.
    # H200: 1.70 GHz is what a product of large matrices leaves of 1.98; memory measured by a copy (bytes read and
    # written); L2 from published microbenchmarks of H100, not verified. Matrix rate: 989 TFLOP/s at 1.83 GHz.
    90: Gpu("H200", 132, 1.70, 1, 4096, 228 * 1024, 4.3e12, 5.5e12),
    # A100 whitepaper: 108 multiprocessors, 1.41 GHz, 312 TFLOP/s, 164 of 192 KiB as shared memory, 2.04 TB/s,
    # and 5,120 bytes per clock from L2. These are peaks, never measured here.
    80: Gpu("A100", 108, 1.41, 2, 2048, 164 * 1024, 2.04e12, 5120 * 1.41e9),
}

SCHEDULERS = 4
REGISTERS, MAX_WARPS, MAX_PROGRAMS = 65_536, 64, 32
"""Of a multiprocessor, sm_80 and sm_90 alike."""

ALU = frozenset((
    "BMSK", "FCHK", "FLO", "FMNMX", "FSEL", "FSET", "FSETP", "F2FP", "IABS", "IADD", "IADD3", "IMNMX", "ISET", "ISETP",
    "LEA", "LOP", "LOP3", "MOV", "P2R", "PLOP3", "POPC", "PRMT", "R2P", "SEL", "SGXT", "SHF", "VABSDIFF", "VIADD",
    "VIADDMNMX", "VIMNMX", "VIMNMX3", "VOTE",
))  # fmt: skip
"""16 lanes to a scheduler: 2 cycles (64 results per clock and multiprocessor)."""
FMA = frozenset(("FADD", "FFMA", "FMUL", "HADD2", "HFMA2", "HMUL2"))
INTEGER_FMA = frozenset(("IDP", "IMAD"))
"""On the same pipe, 2 cycles on either GPU."""
XU = frozenset(("F2F", "F2I", "FRND", "I2F", "I2FP", "MUFU"))
"""Exponentials, reciprocals, conversions of integers: 16 results per clock and multiprocessor, so 8 cycles."""
UNITS = ("issue", "fma", "alu", "xu", "lsu", "tensor", "l2")


# ---- reading a listing -----------------------------------------------------------------------------------------------


def parse(listing: str) -> Code:
    """The code of one kernel from what `nvdisasm -c` prints."""
    instructions, labels, pending = [], {}, []
    for line in listing[listing.index(".text.") :].splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            pending.append(label[1])
        elif found := re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)(.*);", line):
            offset = int(found[1], 16)
            labels |= dict.fromkeys(pending, offset)
            pending.clear()
            instructions.append(Instruction(offset, (found[2] or "").strip(), found[3], found[4].strip()))
    return Code(instructions, labels)


def branch_target(code: Code, instruction: Instruction) -> int | None:
    """Where a branch goes; None for other instructions."""
    if instruction.base != "BRA":
        return None
    label = re.search(r"\.L_x_\d+", instruction.operands)
    return code.labels.get(label[0]) if label else None


def loops(code: Code) -> list[tuple[int, int]]:
    """First and last offset of each loop, in order of appearance, without the endless one that ends every kernel."""
    found: dict[int, int] = {}
    for instruction in code.instructions:
        target = branch_target(code, instruction)
        if target is not None and target < instruction.offset:
            found[target] = max(found.get(target, 0), instruction.offset)
    return sorted(found.items())


def skipped(code: Code, trips: Sequence[int]) -> list[tuple[int, int]]:
    """Stretches that a conditional forward branch jumps over and that do not run.

    Those are the ones that multiply matrices and hold no loop that runs: the masked last tile of keys, which a length
    that is a multiple of the tile does not have, and a loop with 0 trips and what prepares it.
    """
    bodies = loops(code)
    stretches = []
    for instruction in code.instructions:
        target = branch_target(code, instruction)
        if not instruction.predicate or target is None or target <= instruction.offset:
            continue
        if any(first <= instruction.offset <= last for first, last in bodies):
            continue
        inside = [other.base for other in code.instructions if instruction.offset < other.offset < target]
        runs = any(n > 0 and instruction.offset < first < target for (first, _), n in zip(bodies, trips, strict=True))
        if not runs and ("HGMMA" in inside or "HMMA" in inside):
            stretches.append((instruction.offset + 1, target - 1))
    return stretches


def count(code: Code, trips: Sequence[int]) -> tuple[Counter[str], list[int]]:
    """How often a warp runs each opcode, and the instructions in each loop's body.

    Args:
        trips: how often each loop runs, in order of appearance; loops inside a loop multiply.

    Raises:
        ValueError: there are not as many loops as trip counts.
    """
    bodies = loops(code)
    if len(bodies) != len(trips):
        raise ValueError(f"{len(bodies)} loops, {len(trips)} trip counts")
    idle = skipped(code, trips)
    total: Counter[str] = Counter()
    sizes = [0] * len(bodies)
    for instruction in code.instructions:
        weight = 0 if any(first <= instruction.offset <= last for first, last in idle) else 1
        for number, (first, last) in enumerate(bodies):
            if first <= instruction.offset <= last:
                weight *= trips[number]
                sizes[number] += 1
        if instruction.base != "NOP":
            total[instruction.opcode] += weight
    return total, sizes


# ---- units -----------------------------------------------------------------------------------------------------------


def lane_bytes(opcode: str) -> int:
    """Bytes that a lane reads or writes."""
    for part, size in ((".128", 16), (".64", 8), (".U16", 2), (".S16", 2), (".U8", 1), (".S8", 1)):
        if part in opcode:
            return size
    return 4


def cycles(total: Counter[str], warps: int, gpu: Gpu) -> Counter[str]:
    """Cycles of one multiprocessor that a program of so many warps takes on each unit, and `l2`: bytes.

    L2's bytes are the global accesses of 8 and 16 bytes a lane, as if L1 kept nothing. Narrower ones are scalars and
    vectors over rows, whose lanes mostly repeat one another.
    """
    used: Counter[str] = Counter()
    for opcode, times in total.items():
        base, runs = opcode.split(".")[0], times * warps
        used["issue"] += runs / SCHEDULERS
        if base in FMA:
            used["fma"] += runs * gpu.fma_cycles / SCHEDULERS
        elif base in INTEGER_FMA:
            used["fma"] += runs * 2 / SCHEDULERS
        elif base in ALU:
            used["alu"] += runs * 2 / SCHEDULERS
        elif base in XU:
            used["xu"] += runs * 8 / SCHEDULERS
        elif base == "HGMMA":  # by the four warps of a group together
            m, n, k = map(int, re.search(r"\.(\d+)x(\d+)x(\d+)", opcode).groups())
            used["tensor"] += runs / 4 * 2 * m * n * k / gpu.matrix_flop
        elif base == "HMMA":  # HMMA.16816: m16n8k16
            m, n, k = map(int, re.search(r"\.(16)(8)(8|16)", opcode).groups())
            used["tensor"] += runs * 2 * m * n * k / gpu.matrix_flop
        elif base == "SHFL":
            used["lsu"] += runs
        elif base in ("LDSM", "STSM"):
            used["lsu"] += runs * (4 if ".4" in opcode else 2 if ".2" in opcode else 1)
        elif base in ("LDG", "STG", "LDGSTS", "LDS", "STS", "LDL", "STL"):  # 128 bytes per clock
            used["lsu"] += runs * max(1, lane_bytes(opcode) / 4)
            if base in ("LDG", "STG", "LDGSTS") and lane_bytes(opcode) >= 8:
                used["l2"] += runs * 32 * lane_bytes(opcode)
    return used


def milliseconds(used: Counter[str], programs: int, gpu: Gpu) -> dict[str, float]:
    """Each unit's time for a launch of so many programs."""
    per_cycle = programs / gpu.multiprocessors / gpu.ghz / 1e6
    times = {unit: used[unit] * per_cycle for unit in UNITS if unit != "l2"}
    return times | {"l2": used["l2"] * programs / gpu.l2_bytes_per_s * 1e3}


def programs_per_multiprocessor(registers: int, shared: int, warps: int, gpu: Gpu) -> int:
    """How many programs a multiprocessor holds at a time; registers are given to warps in units of 256."""
    by_registers = REGISTERS // (-(-registers * 32 // 256) * 256 * warps)
    return min(by_registers, gpu.shared_bytes // (shared + 1024), MAX_WARPS // warps, MAX_PROGRAMS)
