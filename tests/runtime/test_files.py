"""Files that are replaced at once: by several processes at the same time, and by one that fails or is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nucel.runtime import files

_WRITER = """
import sys
from pathlib import Path
from nucel.runtime import files
path, letter = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for _ in range(200):
    with files.replacing(path) as temporary:
        with open(temporary, "w") as file:
            for _ in range(50):
                file.write(letter * 1000)
                file.flush()
"""


def test_two_processes_that_replace_one_file_do_not_meet(tmp_path):
    """Each writes 200 times at the same time as the other: nobody fails, and every reader sees one whole file."""
    path = tmp_path / "vectors.npz"
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)])}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path), letter],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for letter in "ab"
    ]  # fmt: skip
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    wholes = {letter * 50_000 for letter in "ab"}
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            assert path.read_text() in wholes
    for writer in writers:
        assert writer.wait() == 0, writer.stderr.read()
        for pipe in (writer.stdin, writer.stdout, writer.stderr):
            pipe.close()
    assert path.read_text() in wholes
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("folder", [False, True])
def test_a_failure_leaves_what_was_there_and_no_trace(tmp_path, folder):
    path = tmp_path / "result"
    if not folder:
        path.write_text("old")
    with pytest.raises(ZeroDivisionError), files.replacing(path) as temporary:
        if folder:
            temporary.mkdir()
            (temporary / "part").write_text("new")
        else:
            temporary.write_text("new")
        raise ZeroDivisionError
    assert [file.name for file in tmp_path.iterdir()] == ([] if folder else ["result"])
    assert folder or path.read_text() == "old"


def test_a_folder_appears_whole(tmp_path):
    with files.replacing(tmp_path / "model") as temporary:
        temporary.mkdir()
        (temporary / "config.json").write_text("{}")
        assert not (tmp_path / "model").exists()
    assert (tmp_path / "model" / "config.json").read_text() == "{}"
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_what_a_killed_process_leaves_is_known_by_its_name(tmp_path):
    for name in ("a", "a.b", "a[1]"):
        child = os.fork()
        if child == 0:
            with files.replacing(tmp_path / name) as temporary:
                temporary.write_text("half")
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
    for name in ("a", "a.b", "a[1]"):
        (leftover,) = files.leftovers(tmp_path / name)
        assert leftover.name.startswith(f".nucel-{name}.") and leftover.read_text() == "half"
    (tmp_path / "mine.tmp").write_text("mine")
    files.remove_temporary(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.tmp"]


def test_two_processes_that_embed_to_one_file_both_end_well(tmp_path):
    """The verb itself, twice at once: both exit with 0, and the file is readable."""
    np = pytest.importorskip("numpy")
    from support.tiny import save_tiny_model

    model, out = save_tiny_model(tmp_path / "model"), tmp_path / "vectors.npz"
    sequences = tmp_path / "a.fa"
    sequences.write_text("".join(f">s{i}\n{'ACGTTGCA' * 6}\n" for i in range(200)))
    command = [sys.executable, "-m", "nucel.embed", str(model), str(sequences), "--out", str(out), "--device", "cpu"]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)])}
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    with np.load(out) as archive:
        assert archive["embeddings"].shape == (200, 32) and len(archive["names"]) == 200
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.fa", "model", "vectors.npz"]
