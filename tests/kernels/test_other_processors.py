"""The kernels for CPUs on an ARM processor, which an emulator stands for: cross-compiled, beside plain loops."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which(COMPILER) and shutil.which(EMULATOR)),
    reason=f"needs {COMPILER} and {EMULATOR}; Debian: apt-get install g++-aarch64-linux-gnu qemu-user",
)
def test_the_kernels_are_right_on_arm(tmp_path):
    words = [COMPILER, "-std=c++17", "-O3", "-ffp-contract=fast", "-Wno-psabi", "-DNUCEL_ISA=plain", "-static"]
    sources = [CSRC / "kernels_isa.cpp", CSRC / "team.cpp", Path(__file__).with_name("check_kernels.cpp")]
    program = tmp_path / "check_kernels"
    subprocess.run([*words, *sources, "-pthread", "-o", program], check=True)
    done = subprocess.run([EMULATOR, program], capture_output=True, text=True)
    assert done.returncode == 0 and "plain: largest error" in done.stdout, done.stdout + done.stderr
