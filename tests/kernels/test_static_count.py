"""The counter of machine code, on listings small enough to count by hand."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.gpu import sass

LISTING = """
\t.headerflags\t@"EF_CUDA_SM90"
.section .text.kernel
.text.kernel:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/                   ISETP.GE.AND P0, PT, R2, R3, PT ;
        /*0020*/               @P0 BRA `(.L_x_1) ;
.L_x_0:
        /*0030*/                   LDG.E.128 R4, desc[UR4][R8.64] ;
.L_x_2:
        /*0040*/                   FADD R4, R4, R5 ;
        /*0050*/              @!P1 BRA `(.L_x_2) ;
        /*0060*/                   HGMMA.64x32x16.F32.BF16 R24, gdesc[UR8], R24 ;
        /*0070*/              @!P2 BRA `(.L_x_0) ;
.L_x_1:
        /*0080*/              @UP3 BRA `(.L_x_3) ;
        /*0090*/                   HGMMA.64x32x16.F32.BF16 R24, gdesc[UR8], R24 ;
.L_x_3:
        /*00a0*/               @P4 EXIT ;
        /*00b0*/                   STG.E desc[UR4][R8.64], R4 ;
        /*00c0*/                   EXIT ;
.L_x_4:
        /*00d0*/                   BRA `(.L_x_4);
        /*00e0*/                   NOP;
"""
"""An outer loop from 0x30 to 0x70, an inner one in it, a product that a branch at 0x80 skips, the endless last line."""


def test_instructions_have_a_predicate_an_opcode_and_operands():
    code = sass.parse(LISTING)
    assert len(code.instructions) == 15
    assert code.instructions[2] == (0x20, "@P0", "BRA", "`(.L_x_1)")
    assert code.instructions[3] == (0x30, "", "LDG.E.128", "R4, desc[UR4][R8.64]")
    assert code.labels == {".L_x_0": 0x30, ".L_x_2": 0x40, ".L_x_1": 0x80, ".L_x_3": 0xA0, ".L_x_4": 0xD0}


def test_backward_branches_are_loops_and_the_endless_last_one_is_not():
    assert sass.loops(sass.parse(LISTING)) == [(0x30, 0x70), (0x40, 0x50)]


def test_trip_counts_of_nested_loops_multiply():
    total, bodies = sass.count(sass.parse(LISTING), [3, 4])
    assert bodies == [5, 2]
    assert total["LDG.E.128"] == 3
    assert total["FADD"] == 12
    assert total["BRA"] == 1 + 12 + 3 + 1 + 1
    assert total["EXIT"] == 2
    assert "NOP" not in total


def test_a_product_that_a_branch_skips_does_not_run():
    total, _ = sass.count(sass.parse(LISTING), [3, 4])
    assert total["HGMMA.64x32x16.F32.BF16"] == 3


def test_a_loop_that_never_runs_takes_what_prepares_it_along():
    total, _ = sass.count(sass.parse(LISTING), [0, 4])
    assert total["HGMMA.64x32x16.F32.BF16"] == total["LDG.E.128"] == total["FADD"] == 0
    assert total["ISETP.GE.AND"] == total["STG.E"] == 1


def test_other_loops_than_expected_are_refused():
    with pytest.raises(ValueError, match="2 loops, 1 trip counts"):
        sass.count(sass.parse(LISTING), [3])


@pytest.mark.parametrize(
    ("opcode", "unit", "h200", "a100"),
    [
        ("FFMA", "fma", 1, 2),
        ("IMAD.WIDE", "fma", 2, 2),
        ("F2FP.BF16.F32.PACK_AB", "alu", 2, 2),
        ("MUFU.EX2", "xu", 8, 8),
        ("SHFL.BFLY", "lsu", 4, 4),
        ("LDS.64", "lsu", 8, 8),
        ("LDSM.16.M88.4", "lsu", 16, 16),
        ("LDG.E.U8", "lsu", 4, 4),
        ("LDGSTS.E.BYPASS.128", "lsu", 16, 16),
        # 2 * 64 * 32 * 16 operations by four warps, at 4,096 or 2,048 a cycle
        ("HGMMA.64x32x16.F32.BF16", "tensor", 16, 32),
        ("HMMA.16816.F32.BF16", "tensor", 4, 8),
    ],
)
def test_cycles_of_a_unit(opcode, unit, h200, a100):
    """Four warps, one to a scheduler: one instruction each."""
    for architecture, expected in ((90, h200), (80, a100)):
        used = sass.cycles(Counter({opcode: 1}), 4, sass.GPUS[architecture])
        assert used["issue"] == 1
        assert used[unit] == expected


def test_bytes_through_l2_are_those_of_wide_accesses():
    used = sass.cycles(Counter({"LDG.E.128": 2, "STG.E.64": 1, "LDG.E": 5, "LDS.128": 7}), 4, sass.GPUS[90])
    assert used["l2"] == 4 * 32 * (2 * 16 + 8)


def test_times_are_those_of_all_programs_on_all_multiprocessors():
    gpu = sass.GPUS[90]
    times = sass.milliseconds(Counter(issue=1700, l2=1000), 132 * 1000, gpu)
    assert times["issue"] == pytest.approx(1.0)
    assert times["l2"] == pytest.approx(132e6 / gpu.l2_bytes_per_s * 1e3)


@pytest.mark.parametrize(
    ("registers", "shared", "warps", "programs"),
    [(128, 0, 4, 4), (129, 0, 4, 3), (168, 0, 4, 3), (32, 0, 4, 16), (16, 0, 1, 32), (64, 100_000, 4, 2)],
    ids=["all registers", "one more", "three", "warps", "programs", "shared memory"],
)
def test_programs_on_a_multiprocessor(registers, shared, warps, programs):
    assert sass.programs_per_multiprocessor(registers, shared, warps, sass.GPUS[90]) == programs
