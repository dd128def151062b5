"""The ladder of budgets: its runs, its table, and that nothing is trained twice."""

import sys

import pytest
from support.genomes import random_bases
from support.real_data import TASKS, write_data, zipped
from support.training import train_in_process

from benchmarks import table
from benchmarks.experiments import ladder, ladder_page


@pytest.mark.slow
def test_a_small_ladder(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    data, out = write_data(tmp_path / "data"), tmp_path / "out"
    fasta = zipped(data / "genomes" / "ecoli_K12_MG1655.fa.gz", f">chromosome\n{random_bases(60_000, 0)}\n")
    before = {path for path in data.rglob("*") if path.is_file()}
    monkeypatch.setattr(ladder, "JUDGED_BASES", 100)
    monkeypatch.setattr(ladder, "train", train_in_process)
    page, picture = tmp_path / "page.md", tmp_path / "page.png"
    words = [str(data), "--out", str(out), "--arms", "uniform", "mlm", "--mega-tokens", "0.008", "--rows", "30"]
    words += ["--page", str(page), "--picture", str(picture), "--", "--validation-windows", "8"]
    words += ["--model.discriminator.layers", "1", "--model.generator.layers", "1"]
    monkeypatch.setattr(sys, "argv", ["ladder", *words])
    ladder.main()
    first = (out / "ladder.md").read_text()
    uniform, mlm, markov, untrained, kmers = first.splitlines()[-5:]
    assert uniform.startswith("| ecoli | uniform | 0.008 | 0 | ")
    assert "--model.temperature 1000" in uniform and "--steps 1 " in uniform
    assert "--objective mlm" in mlm and "Markov chain, order" in markov
    assert 0.5 < float(uniform.split("|")[6]) < 4  # one step from new weights
    assert "| untrained |" in untrained and "| 1- to 6-mers |" in kmers
    assert all(-1 <= float(line.split("|")[9]) <= 1 for line in (uniform, mlm, untrained, kmers))
    assert {path for path in data.rglob("*") if path.is_file()} == before and fasta in before
    assert first.strip() in page.read_text() and str(tmp_path) not in page.read_text()
    assert picture.read_bytes().startswith(b"\x89PNG")

    stamps = {path: path.stat().st_mtime_ns for path in [*out.rglob("summary.json"), *out.rglob("*.npz")]}
    assert len(stamps) == 2 + 4 * 4 + 1  # the runs, each kind of features on each task, and the pair's own nats
    ladder.main()
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert (out / "ladder.md").read_text() == first


def test_probes_tell_a_planted_motif(tmp_path):
    """Two classes that differ by a motif: its 6-mers are read out of the counts, and scores are kept."""
    pytest.importorskip("sklearn")
    probes = ladder.Probes(write_data(tmp_path / "data"), tmp_path / "work", 60, "fp32")
    assert set(probes.tasks) == TASKS
    found = probes.of_kmers()
    assert 0.2 < found <= 1  # splice sites are random here, the other three are not
    assert probes.of_kmers() == found


def test_means_stand_with_their_spread():
    rows = [{"data": "x", "arm": "pair", "M tokens": "2", "seed": seed, "masked": 1.0 + seed} for seed in (0, 1)]
    rows += [{"data": "x", "arm": "Markov chain", "masked": 1.25}]
    shown = table.Table(
        facts={"machine": "a machine"}, labels=("data", "arm", "M tokens", "seed"),
        values={"masked": ("nats", ".2f"), "command": ("command", "")}, rows=rows,
    )  # fmt: skip
    means = ladder_page.page(shown, "command").split("## Every run")[0]
    assert "| x | pair | 2 | 2 | 1.50 ± 0.71 |" in means
    assert "| x | Markov chain |  |  | 1.25 |" in means


def test_training_sequences_of_gue_are_written_once(tmp_path):
    for task in ("tf/0", "tf/1"):
        folder = tmp_path / "gue" / task
        folder.mkdir(parents=True)
        (folder / "train.csv").write_text("sequence,label\nACGT,0\nGGCC,1\n")
        (folder / "test.csv").write_text("sequence,label\nTTTT,0\n")
    ladder.write_gue(tmp_path / "gue", tmp_path / "gue.fa")
    assert (tmp_path / "gue.fa").read_text() == ">0\nACGT\n>1\nGGCC\n"
