"""The verb that judges a run: its sections, its figures beside the tables they come from, going on, what it refuses."""

from __future__ import annotations

import csv
import gzip
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from support.pages import HOSTILE, Reader, fetched
from support.pair import save_masked_lm
from support.tiny import write_task
from support.tiny_run import MODEL, write_genome

from nucel import probe, report, score, train
from nucel.suites import report as content
from nucel.suites.report_sections import Kept, Section

for library in ("matplotlib", "logomaker", "sklearn"):
    pytest.importorskip(library)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of a tiny pair, whose genome lies beside it."""
    folder = tmp_path_factory.mktemp("trained")
    genome = write_genome(folder / "genome.fa")
    words = (*MODEL, "--steps", "4", "--genome", str(genome), "--out", str(folder / "run"))
    assert train.main([*words]) == 0
    return folder / "run"


@pytest.fixture
def judge(run, tmp_path, capsys):
    """Calls the verb; returns its exit code, the summary or None, what stood on stderr, and the page."""

    def call(*words, out=tmp_path / "r.html"):
        code = report.main([str(run), "--out", str(out), "--device", "cpu", *map(str, words)])
        captured = capsys.readouterr()
        summary = json.loads(captured.out.splitlines()[-1]) if code == 0 else None
        return code, summary, captured.err, out.read_text(encoding="utf-8") if out.exists() else None

    return call


def stored(tmp_path: Path, name: str) -> dict:
    return json.loads((tmp_path / "r.html.parts" / f"{name}.json").read_text())["section"]


def test_without_data_the_page_tells_of_the_run(judge, run, tmp_path):
    code, summary, errors, text = judge("--logos", 1)
    assert code == 0 and summary["sections"] == ["The run", "What the model says of single bases"]
    read = Reader(text)
    assert fetched(read) == [] and "Open: no labelled data were given" in text
    assert [tag for tag, _ in read.tags].count("img") == 2
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    newest = [line for line in lines if line["split"] == "validation"][-1]
    shown = stored(tmp_path, "run")["tables"]
    tables = {table["caption"]: {row[0]: row[1] for row in table["rows"]} for table in shown}
    losses = tables["Cross-entropy of a held-out base, nats"]
    assert [name for name in losses if "Markov" in name] == [f"Markov model of order {k}" for k in (0, 2, 5, 8, 10)]
    assert losses["generator of the run, both sides known"] == f"{newest['generator_loss']:.4f}"
    auroc = next(table["rtd_auroc"] for table in tables.values() if "rtd_auroc" in table)
    final = json.loads((run / "summary.json").read_text())
    assert auroc.startswith(f"{newest['rtd_auroc']:.4f} (95 %") and f"{final['val_rtd_auroc_low']:.4f}" in auroc
    assert "petaflop/s-days" in tables["What it was trained on"]["cost"]
    header, bases = (tmp_path / "r.html.parts" / "logos" / "windows.fa").read_text().split()[1:]
    first, last = map(int, header.removeprefix("contig:").split("-"))
    assert bases == (run.parent / "genome.fa").read_text().split("\n")[1][first - 1 : last] and len(bases) == 80
    assert "give labelled data" in errors.splitlines()[-1]


@pytest.mark.slow
def test_tasks_stand_beside_their_controls_and_the_figures_are_the_table_s(judge, tmp_path, capsys):
    write_task(tmp_path / "tasks" / "one", 60, 30, 40)
    control = save_masked_lm(tmp_path / "mlm")
    words = ("--tasks", tmp_path / "tasks", "--seeds", 0, "--control", control, "--logos", 0, "--max-rows", 50)
    code, summary, _, text = judge(*words)
    assert code == 0 and summary["comparisons"] == 6
    section = stored(tmp_path, "task one")
    folder = tmp_path / "r.html.parts" / "task one"
    with open(folder / "table.tsv") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    shown = [row[1] for row in section["tables"][0]["rows"]]
    for (value, low, high), row in zip(shown, rows, strict=True):
        expected = [float(row[f"test_mcc{end}"]) for end in ("", "_low", "_high")]
        assert [value, low, high] == pytest.approx(expected, abs=1e-5)
    assert [one["control"] for one in section["comparisons"]] == [
        "untrained", "MLM control", "one-hot", "dinucleotides", "1- to 6-mers", "constant guess",
    ]  # fmt: skip
    for one in section["comparisons"]:
        of_it = [row for row in rows if row["features"] == one["control"]]
        best = max(of_it, key=lambda row: float(row["dev_mcc"]))
        assert one["other"][0] == pytest.approx(float(best["test_mcc"]), abs=1e-5)
        assert one["difference"][0] == pytest.approx(one["model"][0] - one["other"][0], abs=1e-5)
        assert one["pretrained"] == (one["control"] == "MLM control")
        assert f"{one['model'][0]:.3f}".replace("-", "\N{MINUS SIGN}") in text.replace("-", "\N{MINUS SIGN}")
    # The command by hand gives the same table.
    (command,) = section["commands"]
    assert command in "".join(Reader(text).texts)
    words = shlex.split(command)[3:]
    assert probe.main([*words[:-1], str(tmp_path / "probes"), "--device", "cpu"]) == 0
    with open(tmp_path / "probes" / "table.tsv") as file:
        by_hand = list(csv.DictReader(file, delimiter="\t"))
    assert [{**row, "seconds": ""} for row in by_hand] == [{**row, "seconds": ""} for row in rows]


def test_the_same_command_goes_on(judge, tmp_path, monkeypatch):
    write_task(tmp_path / "tasks" / "one", 40, 20, 30)
    words = ("--tasks", tmp_path / "tasks", "--seeds", 0, "--logos", 0)
    made: list[str] = []
    of_task, of_run = content.report_data.task, content.report_run.training

    def stopped(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(content.report_run, "training", lambda *given: made.append("run") or of_run(*given))
    monkeypatch.setattr(content.report_data, "task", stopped)
    with pytest.raises(KeyboardInterrupt):
        judge(*words)
    assert not (tmp_path / "r.html").exists() and made == ["run"]
    monkeypatch.setattr(content.report_data, "task", lambda *given: made.append("task") or of_task(*given))
    code, _, _, first = judge(*words)
    assert code == 0 and made == ["run", "task"]
    _, _, _, second = judge(*words)
    assert made == ["run", "task"]
    date = r"\d{4}-\d\d-\d\d \d\d:\d\d [^<]*"
    assert re.sub(date, "", first) == re.sub(date, "", second)
    write_task(tmp_path / "tasks" / "two", 40, 20, 30)
    judge(*words)
    assert made == ["run", "task", "task"]
    (tmp_path / "tasks" / "one" / "test.csv").write_text("sequence,label\nACGTACGT,0\nTTTTTATA,1\n" * 6)
    judge(*words)
    assert made == ["run", "task", "task", "task"]


def test_a_genome_that_has_moved_is_said_and_can_be_named(judge, run, tmp_path):
    genome = run.parent / "genome.fa"
    moved = tmp_path / "moved.fa"
    genome.rename(moved)
    try:
        code, _, errors, text = judge("--logos", 0)
        assert code == 0 and "No Markov models were fitted" in text and "--trained-on says where" in errors
        packed = tmp_path / "data" / "moved.fa.gz"
        packed.parent.mkdir()
        packed.write_bytes(gzip.compress(moved.read_bytes()))
        words = ("--trained-on", packed, "--cache-dir", tmp_path / "cache")
        code, _, _, text = judge("--logos", 0, *words)
        assert code == 0 and "Markov model of order 2" in text
        assert list(packed.parent.iterdir()) == [packed] and len(list((tmp_path / "cache").glob("*.fa"))) == 1
        other = tmp_path / "other.fa"
        other.write_text(moved.read_text().replace("A", "C", 1))
        _, _, _, text = judge("--logos", 0, "--trained-on", other)
        assert "is not the genome that" in text
    finally:
        moved.rename(genome)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--out", "r.txt"), "must end with .html"),
        (("--variants", "v.tsv"), "--variants needs the --genome"),
        (("--tasks", "nowhere"), "nowhere is not a folder"),
        (("--barcodes", "nowhere"), "nowhere is not a folder"),
        (("--max-rows", "3"), "max_rows must be at least 10"),
        (("--out", "nowhere/r.html"), "there is no folder nowhere"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_computed(run, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    try:
        status = report.main([str(run), *words])
    except SystemExit as ended:  # refused by the options themselves
        status = ended.code
    assert status == 2 and message in re.sub(r"[\s│]+", " ", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == [] and not (run / "report.html.parts").exists()


def test_it_is_a_run_that_is_judged(tmp_path, capsys):
    assert report.main([str(save_masked_lm(tmp_path / "mlm")), "--out", str(tmp_path / "r.html")]) == 2
    assert "run.json" in capsys.readouterr().err


def test_names_of_files_and_tasks_are_escaped(judge, tmp_path, monkeypatch):
    """Folders of tasks, which others may have named."""
    name = HOSTILE.replace("/", "").replace("\x07", "").replace("\u202e", "")
    write_task(tmp_path / "tasks" / name, 40, 20, 30)
    section = Section("x", ["made"])
    monkeypatch.setattr(content.report_run, "training", lambda *given: section)
    code, _, _, text = judge("--tasks", tmp_path / "tasks", "--seeds", 0, "--logos", 0)
    read = Reader(text)
    assert code == 0 and "script" not in [tag for tag, _ in read.tags] and fetched(read) == []
    assert sum(name in one for one in read.texts) >= 3
    assert {path.parent for path in Kept(tmp_path / "r.html").folder.glob("*.json")} == {tmp_path / "r.html.parts"}


# ---- barcodes, biotypes, variants ------------------------------------------------------------------------------------


def changed(bases: str, number: int, draws: np.random.Generator) -> str:
    letters = list(bases)
    for place in draws.choice(len(letters), number, replace=False):
        letters[place] = str(draws.choice(list("ACGT")))
    return "".join(letters)


def write_barcodes(folder: Path) -> Path:
    folder.mkdir()
    draws, texts = np.random.default_rng(0), {"train": "", "test": ""}
    for genus in ("Abra", "Bufo", "Conus"):
        ancestor = "".join(draws.choice(list("ACGT"), 60))
        for species in ("alba", "nigra", "rubra"):
            kind = changed(ancestor, 12, draws)
            for row in range(3):
                texts["test" if row == 2 else "train"] += f">x|{genus}_{species}|{row}\n{changed(kind, 2, draws)}\n"
    for part, text in texts.items():
        (folder / f"made_{part}.fasta").write_text(text)
    return folder


def read(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.slow
def test_barcodes_are_compared_on_rows_that_are_not_identical(judge, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)  # whose first use takes long
    folder = write_barcodes(tmp_path / "sets")
    code, summary, _, text = judge("--barcodes", folder, "--seeds", 0, 1, "--logos", 0)
    assert code == 0 and "Barcodes: made" in summary["sections"]
    section = stored(tmp_path, "barcodes made")
    rows = read(tmp_path / "r.html.parts" / "barcodes made" / "table.tsv")
    own = [row for row in rows if row["evaluation"] == "genus of unseen species" and row["rows"] == "not identical"]
    assert {one["control"] for one in section["comparisons"]} == {"4-mers", "6-mers", "edit distance", "untrained"}
    for one in section["comparisons"]:
        seeds = [row for row in own if row["method"] == one["control"]]
        for place, name in enumerate(("accuracy", "low", "high")):
            assert one["other"][place] == pytest.approx(np.mean([float(row[name]) for row in seeds]), abs=1e-5)
        assert one["difference"][0] == pytest.approx(one["model"][0] - one["other"][0], abs=1e-5)
    assert len(section["tables"]) == len({row["evaluation"] for row in rows})
    stored_command = json.loads((tmp_path / "r.html.parts" / "barcodes made" / "result.json").read_text())["command"]
    assert [stored_command] == section["commands"] and stored_command.startswith("python -m nucel.suite barcodes ")
    assert stored_command in "".join(Reader(text).texts)


@pytest.mark.slow
def test_biotypes_are_compared_by_macro_f1(judge, tmp_path, monkeypatch):
    pytest.importorskip("xgboost")
    monkeypatch.setitem(sys.modules, "umap", None)
    draws, text = np.random.default_rng(3), ""
    for i in range(220):
        bases = "".join(draws.choice(list("ACGT"), 50, p=[0.4, 0.1, 0.1, 0.4] if i % 2 else None))
        text += f">T{i} chromosome:v1:{i % 5}:1:50:1 gene_biotype:{'<b>lnc</b>' if i % 2 else 'miRNA'}\n{bases}\n"
    (tmp_path / "genes.fa").write_text(text)
    code, summary, _, page = judge("--biotypes", tmp_path / "genes.fa", "--seeds", 0, "--logos", 0)
    assert code == 0 and summary["sections"][-1] == "Biotypes"
    section = stored(tmp_path, "biotypes")
    by_method = {row["method"]: row for row in read(tmp_path / "r.html.parts" / "biotypes" / "table.tsv")}
    assert [one["control"] for one in section["comparisons"]] == [name for name in by_method if name != "model"]
    for one in section["comparisons"]:
        assert one["other"][0] == pytest.approx(float(by_method[one["control"]]["macro_f1"]), abs=1e-5)
    read_page = Reader(page)
    assert "b" not in [tag for tag, _ in read_page.tags] and "&lt;b&gt;lnc&lt;/b&gt;" in page
    assert section["pictures"][0]["uri"].startswith("data:image/png;base64,")


@pytest.mark.slow
def test_biotypes_of_several_genomes_show_each_and_name_what_is_left_out(judge, tmp_path, monkeypatch):
    pytest.importorskip("xgboost")
    monkeypatch.setitem(sys.modules, "umap", None)
    monkeypatch.setattr("nucel.runtime.environment.available_cpus", lambda: 1)
    words: list[object] = ["--seeds", 0, 1, "--logos", 0]
    draws, files = np.random.default_rng(4), []
    for name in ("genus_one", "genus_two", "genus_three"):
        bases = "".join(draws.choice(list("ACGT"), 4000))
        (tmp_path / f"{name}.fa").write_text(f">{name}\n{bases}\n")
        kinds = [*["CDS", "tRNA"] * 34, "rRNA"]
        lines = [f"{name}\t{50 * i}\t{50 * i + 40 + i % 9}\t{kind}\t0\t+\n" for i, kind in enumerate(kinds)]
        (tmp_path / f"{name}.bed").write_text("".join(lines))
        files.append(tmp_path / name)
    words += ["--biotypes", *(f"{path}.bed" for path in files), "--genome", *(f"{path}.fa" for path in files)]
    assert judge(*words)[0] == 0
    section = stored(tmp_path, "biotypes")
    assert section["paragraphs"] == ["204 sequences: CDS 102, tRNA 102; left out, as rarer than 100: rRNA."]
    whole, each = section["tables"]
    rows = read(tmp_path / "r.html.parts" / "biotypes" / "table.tsv")
    assert each["header"] == ["method", "genus one", "genus three"]  # in the order of the files' names
    for mean, own in zip(whole["rows"], each["rows"], strict=True):
        found = [float(row["macro_f1"]) for row in rows if row["method"] == own[0]]
        assert [cell[0] for cell in own[1:]] == pytest.approx(found, abs=1e-5)
        assert mean[0] == own[0] and mean[1][0] == pytest.approx(np.mean(found), abs=1e-5)
    assert section["notes"][0].startswith("2 of 3 genomes were held out")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mutagenesis", "labels"])
def test_variants_are_compared_in_one_score(judge, run, tmp_path, kind):
    draws = np.random.default_rng(1)
    contigs = {name: "".join(draws.choice(list("ACGT"), 90)) for name in ("one", "two")}
    (tmp_path / "g.fa").write_text("".join(f">{name}\n{bases}\n" for name, bases in contigs.items()))
    lines = ["chrom\tpos\tref\talt\t" + ("Coefficient\tElement" if kind == "mutagenesis" else "label")]
    for name, bases in contigs.items():
        for i in range(5, 85, 4):
            value = f"{draws.normal():.3f}\t{name}" if kind == "mutagenesis" else str(int(draws.integers(2)))
            lines.append(f"{name}\t{i + 1}\t{bases[i]}\t{'ACGT'[('ACGT'.index(bases[i]) + 1) % 4]}\t{value}")
    (tmp_path / "v.tsv").write_text("\n".join(lines) + "\n")
    words = ("--variants", tmp_path / "v.tsv", "--genome", tmp_path / "g.fa", "--logos", 0, "--seeds", 0)
    code, summary, _, _ = judge(*words)
    assert code == 0 and summary["sections"][-1] == "Variants"
    section = stored(tmp_path, "variants")
    rows = read(tmp_path / "r.html.parts" / "variants" / "scores.tsv.evaluation.tsv")
    figure, form = ("r", "|score|") if kind == "mutagenesis" else ("auroc", "-score")
    controls = {"untrained", "7-mer log-ratio"} | (
        {"distance to the element's edge"} if kind == "mutagenesis" else set()
    )
    assert {one["control"] for one in section["comparisons"]} == controls
    for one in section["comparisons"]:
        here = [row for row in rows if row["form"] == form and row["score"] == "rtd_corrected"]
        if kind == "mutagenesis":
            element = one["task"].removeprefix("variants, ")
            here = [row for row in here if row["element"] == element and row["variants"] == "substitutions"]
        model = next(row for row in here if row["model"] == "model")
        assert one["model"] == pytest.approx(
            [float(model[f"{figure}{end}"]) for end in ("", "_low", "_high")], abs=1e-5
        )
        if one["control"] == "untrained":
            other = next(row for row in here if row["model"] == "untrained")
            assert one["other"][0] == pytest.approx(float(other[figure]), abs=1e-5)
    if kind == "labels":
        return
    # The command by hand gives the same table.
    words = shlex.split(section["commands"][0])[3:]
    words[words.index("--out") + 1] = str(tmp_path / "scores.tsv")
    assert score.main([*words, "--device", "cpu"]) == 0
    assert read(tmp_path / "scores.tsv.evaluation.tsv") == rows
