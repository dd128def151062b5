"""The GPU round, run without a GPU: stand-ins on PATH record what the script asks for, fail and hang."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu" / "round.sh"
SECTIONS = {
    ("kernels",): [
        "build", "check", "static_count", "kernel_times", "counters", "tiles", "rtd_loss", "attention", "tests",
        "memory_checker",
    ],
    ("train",): ["build", "train", "profile", "step_tests"],
    ("run", "genomes"): ["build", "run"],
    ("run", "genomes", "tasks"): ["build", "run", "tasks"],
}  # fmt: skip
"""Of each round, in order."""

pytestmark = pytest.mark.skipif(shutil.which("timeout") is None, reason="needs GNU coreutils")

STAND_INS = {
    # FAIL and HANG: part of a command line. A command that hangs says which process it is.
    "python3": """
        echo "python3 $*" >> "$CALLS"
        case "$*" in
        *benchmarks.gpu.kernel_times*) echo "| times |" > "$RESULTS/kernel_times.md" ;;
        *real_run*) mkdir -p "$WORK/run/electra" && touch "$WORK/run/electra/"{metrics.jsonl,model.safetensors} ;;
        esac
        case "$*" in *"${HANG:-no such command}"*) echo working; echo $$ > "$HANGING"; exec sleep 600 ;; esac
        case "$*" in *"${FAIL:-no such command}"*) echo "it broke"; exit 3 ;; esac
        """,
    "nvidia-smi": 'case "$*" in *compute_cap*) echo 9.0 ;; *) echo "NVIDIA Stand-in, 1.0" ;; esac',
    "ncu": 'echo "ncu $*" >> "$CALLS"',
    "compute-sanitizer": 'echo "compute-sanitizer $*" >> "$CALLS"',
}


class Machine:
    """A PATH of stand-ins, and the script started under it."""

    def __init__(self, folder: Path):
        self.out, self.calls, self.hanging, self.bin = (folder / name for name in ("out", "calls", "hanging", "bin"))
        self.bin.mkdir()
        for name, text in STAND_INS.items():
            self.install(name, text)
        self.environment = os.environ | {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "OUT": str(self.out),
            "WORK": str(folder / "work"),
            "CALLS": str(self.calls),
            "HANGING": str(self.hanging),
        }
        self.environment.pop("PYTHON", None)

    def install(self, name: str, text: str) -> None:
        (self.bin / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (self.bin / name).chmod(0o755)

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [SCRIPT, *arguments], env=self.environment | variables, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def run(self, *arguments: str, **variables: str) -> int:
        process = self.start(*arguments, **variables)
        output, _ = process.communicate(timeout=120)
        assert "line " not in output, output  # bash names the line of an error of its own
        return process.returncode

    def table(self) -> list[dict[str, str]]:
        titles, *rows = (line.split("\t") for line in (self.out / "round.tsv").read_text().splitlines())
        return [dict(zip(titles, row, strict=True)) for row in rows]

    def statuses(self) -> dict[str, str]:
        return {row["section"]: row["exit_status"] for row in self.table()}

    def archive(self) -> dict[str, str]:
        with tarfile.open(self.out / "round.tgz") as archive:
            return {
                member.name.removeprefix("./"): archive.extractfile(member).read().decode()
                for member in archive
                if member.isfile()
            }

    def wait_for_the_one_that_hangs(self) -> int:
        deadline = time.monotonic() + 60
        while not (self.hanging.exists() and self.hanging.read_text().strip()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return int(self.hanging.read_text())


@pytest.fixture
def machine(tmp_path):
    machine = Machine(tmp_path)
    yield machine
    if machine.hanging.exists():
        with contextlib.suppress(ProcessLookupError, ValueError):
            os.kill(int(machine.hanging.read_text()), signal.SIGKILL)


def is_alive(process: int) -> bool:
    state = Path(f"/proc/{process}/stat")
    return state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.slow
@pytest.mark.parametrize("arguments", SECTIONS, ids=" ".join)
def test_every_section_runs_in_order_of_value_and_leaves_its_results(machine, arguments):
    assert machine.run(*arguments) == 0
    rows = machine.table()
    assert [row["section"] for row in rows] == SECTIONS[arguments]
    assert {row["exit_status"] for row in rows} == {"0"}
    assert sum(int(row["planned_s"]) for row in rows) < 540
    # What comes last may use what was left, but not go on for more than nine minutes.
    assert int(rows[-1]["planned_s"]) <= int(rows[-1]["limit_s"]) <= 540
    assert {path.name for path in machine.out.iterdir()} == {"round.tgz", "round.tsv", "summary.md"}
    archive = machine.archive()
    assert {f"{name}.log" for name in SECTIONS[arguments]} <= archive.keys()
    assert archive["round.tsv"] == (machine.out / "round.tsv").read_text()
    assert "NVIDIA Stand-in" in (machine.out / "summary.md").read_text()
    if arguments == ("kernels",):
        assert "| times |" in (machine.out / "summary.md").read_text()
        assert "--once" in machine.calls.read_text()
    if "genomes" in arguments:
        assert "run-electra-metrics.jsonl" in archive
        assert not any("safetensors" in name for name in archive)


@pytest.mark.slow
def test_a_section_that_fails_stops_no_other_and_fails_the_round(machine):
    assert machine.run("kernels", FAIL="benchmarks.gpu.kernel_times") == 1
    assert [row["section"] for row in machine.table()] == SECTIONS["kernels",]
    assert {name for name, status in machine.statuses().items() if status != "0"} == {"kernel_times"}
    assert machine.statuses()["kernel_times"] == "3"
    assert "it broke" in (machine.out / "summary.md").read_text()
    assert "it broke" in machine.archive()["kernel_times.log"]


@pytest.mark.slow
def test_a_section_that_hangs_is_ended_by_its_limit(machine):
    machine.install("timeout", f'shift 2; exec {shutil.which("timeout")} --kill-after=1 2 "$@"')
    assert machine.run("train", HANG="benchmarks.gpu.profile_step") == 1
    assert machine.statuses() == {"build": "0", "train": "0", "profile": "124", "step_tests": "0"}
    assert not is_alive(int(machine.hanging.read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=lambda how: how.name)
def test_what_was_done_survives_a_cut(machine, how):
    process = machine.start("kernels", HANG="benchmarks.gpu.tune_tiles")
    hanging = machine.wait_for_the_one_that_hangs()
    os.kill(process.pid, how)
    if how == signal.SIGTERM:
        assert process.wait(timeout=30) == 130
        deadline = time.monotonic() + 30
        while is_alive(hanging):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert "working" in machine.archive()["tiles.log"]
    else:
        assert process.wait(timeout=30) == -signal.SIGKILL
    done = SECTIONS["kernels",][: SECTIONS["kernels",].index("tiles")]
    assert [row["section"] for row in machine.table()] == done
    assert "| times |" in machine.archive()["kernel_times.md"]
    assert len(list(machine.out.iterdir())) <= 8


@pytest.mark.slow
def test_a_running_section_s_log_reaches_the_archive(machine):
    process = machine.start("train", HANG="benchmarks.bench_train")
    machine.wait_for_the_one_that_hangs()
    deadline = time.monotonic() + 60
    while "working" not in machine.archive().get("train.log", ""):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    process.kill()
    process.wait()


@pytest.mark.slow
def test_wheels_stand_in_for_a_build_that_fails(machine):
    """The build itself may fail; the section fails only if the extension cannot be imported after all."""
    machine.run("train", FAIL="--no-build-isolation")
    assert machine.statuses()["build"] == "0"
    assert machine.run("train", FAIL="import _nucel") == 1
    assert machine.statuses()["build"] == "3"


@pytest.mark.slow
def test_profilers_that_are_missing_are_skipped_and_said(machine):
    names = ("ncu", "compute-sanitizer")
    for name in names:
        (machine.bin / name).unlink()
    if any(shutil.which(name) for name in names):
        pytest.skip("this machine has them")
    assert machine.run("kernels") == 0
    assert "skipped: ncu" in machine.archive()["counters.log"]
    assert "skipped: compute-sanitizer" in machine.archive()["memory_checker.log"]


@pytest.mark.parametrize("arguments", [("everything",), ("run",)], ids=" ".join)
def test_what_it_does_not_understand_it_refuses(machine, arguments):
    assert machine.run(*arguments) == 2
    assert not machine.out.exists()
