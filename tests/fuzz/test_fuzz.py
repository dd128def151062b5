"""The short form of fuzzing, for every run of the tests; README.md in this folder has the long one."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nucel.genome.fasta import Genome

HARNESS = Path(__file__).with_name("fuzz_fasta.cpp")
PAGE = Path(__file__).parents[2] / "docs" / "fasta.md"
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> Path:
    """The examples of docs/fasta.md, and a file with long lines, which vector code reads."""
    folder = tmp_path_factory.mktemp("seeds")
    cells = re.findall(r"\| `(.+?)` \| (?:read|\*\*refused)", PAGE.read_text(encoding="utf-8"))
    texts = [cell.encode().decode("unicode_escape").encode("latin-1") for cell in cells]
    rng = np.random.default_rng(0)
    for width in (60, 333):
        lines = rng.choice(np.frombuffer(b"ACGTNacgtn", np.uint8), (9000 // width, width + 1))
        lines[:, width] = ord("\n")
        texts.append(b">long\n" + lines.tobytes() + b">next x\r\nACGT\r\nNN\r\n")
    for i, text in enumerate(texts):
        (folder / f"{i:02}.fa").write_bytes(text)
    return folder


def build(folder: Path, compiler: str, *flags: str) -> Path:
    """The harness, or a reason to skip where there is no such compiler, or none of its sanitizers."""
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    probe = folder / "probe.cpp"
    probe.write_text('extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }\n')
    link = [] if any("fuzzer" in flag for flag in flags) else ["-shared", "-fPIC"]
    words = [compiler, *SANITIZERS, *flags, *link, str(probe), "-o", str(folder / "probe")]
    if subprocess.run(words, capture_output=True).returncode != 0:
        pytest.skip(f"{compiler} has no sanitizers here")
    program = folder / "fuzz_fasta"
    words = [compiler, "-std=c++17", "-O1", "-g", *SANITIZERS, *flags, str(HARNESS), "-pthread", "-o", str(program)]
    subprocess.run(words, check=True, capture_output=True)
    return program


def run(*words: object) -> str:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, errors="replace", timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def test_altered_files(tmp_path, seeds):
    program = build(tmp_path, os.environ.get("CXX", "g++"), "-DNUCEL_MUTATE")
    assert "nothing found" in run(program, 150, *sorted(seeds.iterdir()))


def test_coverage_guided(tmp_path, seeds):
    clang = next(
        (name for name in ("clang++", "clang++-19", "clang++-16", "clang++-14") if shutil.which(name)), "clang++"
    )
    program = build(tmp_path, clang, "-fsanitize=fuzzer")
    assert "Done" in run(program, "-runs=3000", "-max_len=12000", "-seed=1", seeds)


FASTA = b">one x\nACGTACGTAC\nACGT\n>e\n>two\nACGTN\n"
FAI = b"one\t14\t7\t10\t11\ntwo\t5\t31\t5\t6\n"
WORDS = [b"one", b"two", b"\t", b"\n", b"\r\n", b"14", b"7", b"10", b"0", b"-1"]
pieces = st.lists(st.one_of(st.sampled_from(WORDS), st.binary(max_size=4)), max_size=14).map(b"".join)


@given(st.one_of(pieces, st.tuples(st.integers(0, len(FAI)), st.binary(max_size=3)).map(lambda p: FAI[: p[0]] + p[1])))
@example(FAI)
@example(FAI + b"e\t0\t29\t0\t0\n")
def test_any_index_beside_a_file_changes_nothing(index):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.fa"
        path.write_bytes(FASTA)
        path.with_name("a.fa.fai").write_bytes(index)
        genome = Genome(path)
        assert genome.contigs == ("one", "e", "two") and genome.lengths.tolist() == [14, 0, 5]


@given(st.one_of(st.binary(max_size=60), st.lists(st.integers(0, 2**64 - 1), max_size=7)))
def test_any_block_index_beside_a_file_changes_nothing(index):
    raw = index if isinstance(index, bytes) else np.array([len(index) // 2, *index], np.uint64).tobytes()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.fa.gz"
        path.write_bytes(gzip.compress(FASTA))
        path.with_name("a.fa.gz.gzi").write_bytes(raw)
        assert Genome(path).lengths.tolist() == [14, 0, 5]
