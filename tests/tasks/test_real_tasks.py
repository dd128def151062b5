"""The tables of GUE and the splice junctions of UCI, where the data folder is present."""

from __future__ import annotations

from support.data import DATA, real

from benchmarks.experiments.finetune_data import split_splice, write_unlabelled
from nucel.genome.fasta import Genome
from nucel.tasks.folders import find_tasks
from nucel.tasks.task import read_task
from nucel.tokenizers import nucleotide

pytestmark = real("gue")


def test_gue_is_read_and_its_leaks_are_counted():
    """The folder's README counts the distinct sequences; one of them is in the test table twice."""
    tasks = {name: read_task(*paths) for name, paths in find_tasks((DATA / "gue",)).items()}
    assert {"tf/0", "tf/1", "tf/2", "mouse/0", "mouse/2", "prom/prom_core_all"} <= tasks.keys()
    assert all(task.labels == ("0", "1") for task in tasks.values())
    assert tasks["tf/0"].sizes() == {
        "train": 32378,
        "dev": 1000,
        "test": 1000,
        "leaked": 0,
        "leaked_reverse": 0,
        "leaked_dev": 1,
    }
    core = tasks["prom/prom_core_all"]
    train, test = ({tokens.tobytes() for tokens in s.sequences.tokens} for s in (core.train, core.test))
    assert core.leaked == 43 and len(train & test) == 42


def test_splice_junctions_become_a_task_without_leaks(tmp_path):
    sizes = split_splice(DATA / "uci" / "splice.data.txt", tmp_path / "splice")
    assert sum(sizes.values()) == 3190
    task = read_task(*find_tasks((tmp_path,))["splice"])
    assert task.labels == ("EI", "IE", "N") and task.leaked == 0
    splits = (task.train, task.dev, task.test)
    assert [len(s.targets) for s in splits] == [sizes[part] for part in ("train", "dev", "test")]
    assert {len(tokens) for s in splits for tokens in s.sequences.tokens} == {60}
    unknown = sum(int((tokens == nucleotide.UNK).sum()) for s in splits for tokens in s.sequences.tokens)
    assert 0 < unknown < 100  # D, N, R and S are read as [UNK]


def test_unlabelled_sequences_hold_nothing_of_dev_and_test(tmp_path):
    tasks = {name: paths for name, paths in find_tasks((DATA / "gue",)).items() if name.startswith("mouse/")}
    found = write_unlabelled(tasks, tmp_path / "u.fa")
    genome = Genome(tmp_path / "u.fa")
    assert len(genome.contigs) == found["sequences"] and genome.lengths.sum() == found["bases"]
    written = {genome.fetch(i).tobytes() for i in range(len(genome.contigs))}
    assert len(written) == found["sequences"]
    for paths in tasks.values():
        for tokens in read_task(*paths).test.sequences.tokens:
            assert not {tokens.tobytes(), nucleotide.reverse_complement(tokens).tobytes()} & written
