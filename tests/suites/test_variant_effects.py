"""Scores against measured effects and labels: figures by independent formulas, controls, intervals, tables."""

from __future__ import annotations

import csv
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from support.pair import save_masked_lm, save_pair, tiny_pair
from support.variants import other_base, random_bases, write_fasta

from nucel.genome.fasta import Genome
from nucel.genome.loci import Reference
from nucel.genome.variants import Variant
from nucel.score import main
from nucel.suites.judging import correlations, ranking
from nucel.suites.variant_effects import background_counts, edge_distance, kmer_log_ratio
from nucel.suites.variant_report import PUBLISHED

DATA = Path(os.environ.get("NUCEL_DATA", Path(__file__).parents[2] / "../shared/data"))


# ---- statistics ------------------------------------------------------------------------------------------------------


def drawn(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=n)
    x = 3 * z + rng.normal(size=n) + 1000
    return x, 0.5 * z + 0.2 * x + rng.normal(size=n), z


def test_correlations_are_scipy_s():
    stats = pytest.importorskip("scipy.stats")
    x, y, z = drawn(300)
    size, partial = correlations(x, y, z, np.arange(300), draws=50)
    assert size.value == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-10)
    residuals = [v - np.polyval(np.polyfit(z, v, 1), z) for v in (x, y)]
    assert partial.value == pytest.approx(stats.pearsonr(*residuals).statistic, abs=1e-8)
    assert size.low < size.value < size.high


def test_the_interval_is_as_wide_as_theory_says():
    """Independent pairs: the standard error of r is about (1 - r^2) / sqrt(n); in blocks of copies n counts blocks."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=400), rng.normal(size=400)
    single, _ = correlations(x, y, rng.normal(size=400), np.arange(400), draws=4000)
    assert (single.high - single.low) / (2 * 1.96) == pytest.approx(1 / 20, rel=0.15)
    blocks = np.repeat(np.arange(400), 4)
    given = np.repeat(rng.normal(size=400), 4)
    copied, _ = correlations(np.repeat(x, 4), np.repeat(y, 4), given, blocks, draws=4000)
    apart, _ = correlations(np.repeat(x, 4), np.repeat(y, 4), given, np.arange(1600), draws=4000)
    assert copied.high - copied.low == pytest.approx(single.high - single.low, rel=0.1)
    assert apart.high - apart.low == pytest.approx((single.high - single.low) / 2, rel=0.1)


@pytest.mark.parametrize("ties", [False, True])
def test_ranking_is_scikit_learn_s(ties):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(2)
    labels = rng.random(500) < 0.2
    scores = rng.normal(size=500) + labels
    if ties:
        scores = np.round(scores)
    blocks = rng.choice(["chr1", "chr2", "chr3"], 500, p=[0.5, 0.3, 0.2])
    found = ranking(scores, labels, blocks, draws=50)
    assert found.auroc.value == pytest.approx(metrics.roc_auc_score(labels, scores))
    assert found.auprc.value == pytest.approx(metrics.average_precision_score(labels, scores))
    own = [metrics.average_precision_score(labels[blocks == b], scores[blocks == b]) for b in np.unique(blocks)]
    weights = [(blocks == b).sum() for b in np.unique(blocks)]
    assert found.auprc_by_block.value == pytest.approx(np.average(own, weights=weights))
    assert found.auroc.low <= found.auroc.value <= found.auroc.high


def test_a_contig_of_one_class_is_left_out_of_the_mean():
    labels = np.array([True, False, True, False, False])
    found = ranking(np.array([2.0, 1.0, 0.5, 0.7, 0.1]), labels, np.array(["a", "a", "b", "b", "c"]), draws=20)
    assert found.auprc_by_block.value == pytest.approx((1.0 + 0.5) / 2)


# ---- controls --------------------------------------------------------------------------------------------------------


def test_edge_distance_is_per_element():
    variants = [Variant("c", i, "A", "C") for i in (10, 12, 20, 100, 105)]
    assert edge_distance(variants, ["x", "x", "x", "y", "y"]).tolist() == [0, 2, 0, 0, 0]


def test_seven_mers_are_counted_on_both_strands(tmp_path):
    bases = random_bases(500, 3)
    background = bases[:250] + "N" + bases[251:]
    genome = Genome(write_fasta(tmp_path / "b.fa", {"b": background, "short": "ACGT"}))
    counts = background_counts(genome)
    expected: dict[str, int] = {}
    complement = str.maketrans("ACGT", "TGCA")
    for i in range(500 - 6):
        word = background[i : i + 7]
        if "N" not in word:
            for text in (word, word.translate(complement)[::-1]):
                expected[text] = expected.get(text, 0) + 1
    assert counts.sum() == 4**7 + sum(expected.values())
    number = {text: int("".join(str("ACGT".index(b)) for b in text), 4) for text in expected}
    assert all(counts[number[text]] == 1 + n for text, n in expected.items())
    variants = [Variant("b", 100, bases[100], other_base(bases[100])), Variant("b", 1, bases[1], "A")]
    ratio = kmer_log_ratio(genome, Reference(genome), variants)
    word = bases[97:104]
    changed = word[:3] + variants[0].alt + word[4:]
    assert ratio[0] == pytest.approx(np.log((1 + expected.get(changed, 0)) / (1 + expected[word]))) and np.isnan(
        ratio[1]
    )


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A pair, a masked LM, a genome, and a table of random effects."""
    folder = tmp_path_factory.mktemp("setting")
    contigs = {"chr1": random_bases(200, 41), "chr2": random_bases(200, 42)}
    model, mlm = save_pair(folder / "run", tiny_pair(64)), save_masked_lm(folder / "mlm")
    genome = write_fasta(folder / "g.fa", contigs)
    rng = np.random.default_rng(4)
    rows = ["chrom\tpos\tref\talt\tCoefficient\tElement\tBarcodes\tlabel\n"]
    for contig, name in (("chr1", "LDLR"), ("chr2", "PKLR-24h")):
        for i in range(20, 60):
            base = contigs[contig][i]
            for step in (1, 2):
                change = f"{contig}\t{i + 1}\t{base}\t{other_base(base, step)}"
                rows.append(f"{change}\t{rng.normal():.4f}\t{name}\t{5 * step}\t{step - 1}\n")
            rows.append(f"{contig}\t{i + 1}\t{base}\t-\t{rng.normal():.4f}\t{name}\t20\t0\n")
    table = folder / "measured.tsv"
    table.write_text("".join(rows))
    return model, mlm, genome, table


def run(setting, out, capsys, *arguments):
    model, _, genome, table = setting
    words = [model, table, "--genome", genome, "--out", out, *arguments, "--evaluation.draws", "40"]
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    summary = json.loads(captured.out.splitlines()[-1])
    with open(summary["evaluation"], newline="") as file:
        return list(csv.DictReader(file, delimiter="\t")), Path(summary["evaluation"]).with_suffix(".md").read_text()


def test_mutagenesis_has_every_score_and_every_control(setting, tmp_path, capsys):
    _, mlm, genome, table = setting
    out = tmp_path / "o.tsv"
    rows, page = run(
        setting, out, capsys, "--evaluate", "mutagenesis", "--evaluation.models", f"mlm={mlm}",
        "--evaluation.background", genome,
    )  # fmt: skip
    found = {(r["variants"], r["element"], r["model"], r["score"], r["form"]): r for r in rows}
    assert {r["model"] for r in rows} == {"model", "untrained", "mlm", "control"}
    assert {r["element"] for r in rows} == {"LDLR", "PKLR-24h", "K562, mean"}
    with open(out, newline="") as file:
        scored = [r for r in csv.DictReader(file, delimiter="\t") if r["Element"] == "LDLR" and r["alt"] != "-"]
    effect, rtd = (np.array([float(r[name]) for r in scored]) for name in ("Coefficient", "rtd"))
    row = found["substitutions", "LDLR", "model", "rtd", "-score"]
    assert int(row["n"]) == len(scored) == 80
    assert float(row["r"]) == pytest.approx(np.corrcoef(-rtd, np.abs(effect))[0, 1], abs=1e-5)
    assert float(row["r_signed"]) == pytest.approx(np.corrcoef(rtd, effect)[0, 1], abs=1e-5)
    many = np.array([int(r["Barcodes"]) >= 10 for r in scored])
    assert float(row["r_10_barcodes"]) == pytest.approx(np.corrcoef(-rtd[many], np.abs(effect[many]))[0, 1], abs=1e-5)
    size = found["substitutions", "LDLR", "model", "rtd", "|score|"]
    assert float(size["r"]) == pytest.approx(np.corrcoef(np.abs(rtd), np.abs(effect))[0, 1], abs=1e-5)
    assert ("deletions", "LDLR", "model", "cosine", "score") in found
    assert ("deletions", "LDLR", "model", "rtd", "-score") not in found
    untrained = found["substitutions", "LDLR", "untrained", "rtd", "-score"]
    assert float(untrained["r"]) != float(row["r"])
    assert ("substitutions", "LDLR", "mlm", "llr", "-score") in found
    assert ("substitutions", "LDLR", "control", "7-mer log-ratio", "-score") in found
    edge = found["substitutions", "LDLR", "control", "distance to the element's edge", "score"]
    assert edge["r_given_edge"] == "nan"
    assert "Published" in page and "Enformer" in page and "noise" in page
    assert table.exists()


def test_labels_are_ranked(setting, tmp_path, capsys):
    metrics = pytest.importorskip("sklearn.metrics")
    rows, page = run(setting, tmp_path / "o.parquet", capsys, "--evaluate", "labels", "--scores", "llr", "rtd")
    expected = itertools.product(("model", "untrained"), ("llr", "rtd"), ("-score", "|score|"))
    assert {(r["model"], r["score"], r["form"]) for r in rows} == set(expected)
    parquet = pytest.importorskip("pyarrow.parquet")
    scored = [r for r in parquet.read_table(tmp_path / "o.parquet").to_pylist() if r["status"] == "ok"]
    (row,) = (r for r in rows if (r["model"], r["score"], r["form"]) == ("model", "rtd", "-score"))
    labels = [int(r["label"]) for r in scored]
    assert float(row["auroc"]) == pytest.approx(metrics.roc_auc_score(labels, [-r["rtd"] for r in scored]), abs=1e-5)
    assert int(row["positives"]) == sum(labels) and "share of positives" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--evaluate", "mutagenesis", "--evaluation.effect-column", "effect"), "no column 'effect'"),
        (("--evaluate", "labels", "--evaluation.label-column", "Barcodes"), "must be 0 or 1"),
        (("--evaluate", "labels", "--evaluation.label-column", "Element"), "not a number"),
    ],
)
def test_tables_that_cannot_be_judged_leave_no_file(setting, tmp_path, capsys, arguments, message):
    model, _, genome, table = setting
    code = main([str(word) for word in (model, table, "--genome", genome, "--out", tmp_path / "o.tsv", *arguments)])
    assert code == 2 and message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_published_figures_name_their_source():
    with open(PUBLISHED, newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == 14 and all(row["source"] for row in rows)
    assert all(-1 <= float(row[cell]) <= 1 for row in rows for cell in ("HepG2", "K562"))


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "variants").is_dir(), reason=f"no variants in {DATA} (set NUCEL_DATA)")
def test_controls_of_the_real_elements_are_those_computed_elsewhere(setting, tmp_path, capsys):
    """From the same files by other code: the distance to the edge, and 7-mers of 1 Mb of chr22."""
    model = setting[0]
    variants = DATA / "variants"
    rows, _ = run(
        (model, None, variants / "cagi5_elements_GRCh38.fa", variants / "cagi5_elements.tsv.gz"), tmp_path / "o.tsv",
        capsys, "--evaluate", "mutagenesis", "--scores", "cosine_site", "--no-average-reverse-complement",
        "--evaluation.no-untrained", "--evaluation.background", DATA / "genomes" / "human_chr22_20-21M.fa",
    )  # fmt: skip
    found = {(r["element"], r["score"], r["form"]): r for r in rows if r["variants"] == "substitutions"}
    edge = {"LDLR": 0.495, "SORT1": 0.377, "F9": -0.096, "PKLR-24h": -0.153}
    words = {"LDLR": 0.087, "SORT1": -0.053, "F9": 0.061, "PKLR-24h": 0.011}
    counts = {"LDLR": 954, "SORT1": 1790, "F9": 904, "PKLR-24h": 1407}
    for element in edge:
        row = found[element, "distance to the element's edge", "score"]
        assert float(row["r"]) == pytest.approx(edge[element], abs=6e-4) and int(row["n"]) == counts[element]
        assert float(found[element, "7-mer log-ratio", "-score"]["r"]) == pytest.approx(words[element], abs=6e-4)
