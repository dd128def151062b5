"""`python -m nucel.score` as a user meets it: files in and out, odd records, refusals that leave no file."""

from __future__ import annotations

import csv
import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
from support.pair import save_masked_lm, save_pair, tiny_pair
from support.variants import (
    genome_of,
    other_base,
    random_bases,
    substitutions,
    write_fasta,
    write_variant_table,
    write_vcf,
)

import nucel
from nucel.genome.variants import Variant
from nucel.interpretation.variant_scores import NEEDS
from nucel.score import main

CONTIGS = {"chr1": random_bases(300, 21), "chr2": random_bases(90, 22), "chrM": random_bases(70, 23)}
DEFAULT = tuple(name for name in NEEDS if name != "pll")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_pair(tmp_path_factory.mktemp("model") / "run", tiny_pair(64))


@pytest.fixture(scope="module")
def fasta(tmp_path_factory):
    return write_fasta(tmp_path_factory.mktemp("genome") / "g.fa", CONTIGS)


@pytest.fixture
def score(model, fasta, tmp_path, capsys):
    """Calls main; returns the exit code, the summary or None, the output file, and what stood on stderr."""

    def call(variants, *arguments, out="out.tsv", model=model, genome=fasta):
        path = tmp_path / out
        try:
            code = main([str(model), str(variants), "--genome", str(genome), "--out", str(path), *map(str, arguments)])
        except SystemExit as refused:  # of a word on the command line
            code = refused.code
        captured = capsys.readouterr()
        return code, json.loads(captured.out.splitlines()[-1]) if code == 0 else None, path, captured.err

    return call


def rows_of(path: Path) -> list[dict[str, str]]:
    with (gzip.open if path.name.endswith(".gz") else open)(path, "rt", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def snv(contig: str, start_bp: int, step: int = 1) -> Variant:
    base = CONTIGS[contig][start_bp]
    return Variant(contig, start_bp, base, other_base(base, step))


# ---- tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["o.tsv", "o.tsv.gz", "o.parquet"])
def test_a_table_keeps_its_columns_and_gains_scores(score, model, fasta, tmp_path, out):
    base = CONTIGS["chr1"][50]
    two = ",".join(b for b in "ACGT" if b != base)[:3]
    table = tmp_path / "v.csv"
    table.write_text(
        f'note,CHROM,Pos,ref,ALT\nfirst,chr1,51,{base},"{two}"\n"a, b",chr1,201,{CONTIGS["chr1"][200]},-\n'
        f"none,chr2,5,{CONTIGS['chr2'][4]},.\nmito,MT,7,{CONTIGS['chrM'][6]},{other_base(CONTIGS['chrM'][6])}\n"
    )
    code, summary, path, stderr = score(table, out=out)
    assert code == 0 and stderr.count("note:") == 1 and "'MT'" in stderr
    assert summary["records"] == 4 and summary["variants"] == 4 and summary["statuses"] == {"indel": 1, "ok": 3}
    if out.endswith(".parquet"):
        parquet = pytest.importorskip("pyarrow.parquet")
        found = parquet.read_table(path)
        rows, about = found.to_pylist(), json.loads(found.schema.metadata[b"nucel"])
    else:
        rows, about = rows_of(path), json.loads(Path(f"{path}.json").read_text())
    assert about["model_sha256"] and about["window_bp"] == 63 and "nucel.score" in about["command"]
    added = ["window_start", "window_end", "unknown_near", "status", *DEFAULT]
    assert list(rows[0]) == ["note", "CHROM", "Pos", "ref", "ALT", *added]
    assert [row["note"] for row in rows] == ["first", "first", "a, b", "none", "mito"]
    assert [row["ALT"] for row in rows] == [*two.split(","), "-", ".", other_base(CONTIGS["chrM"][6])]
    assert [row["status"] for row in rows] == ["ok", "ok", "indel", "unsupported", "ok"]
    variants = [Variant("chr1", 50, base, alt) for alt in two.split(",")]
    variants += [Variant("chr1", 200, CONTIGS["chr1"][200], ""), snv("chrM", 6)]
    expected = nucel.score_variants(model, variants, fasta)
    scored = [row for row in rows if row["note"] != "none"]
    for name in DEFAULT:
        np.testing.assert_allclose([float(row[name]) for row in scored], expected[name], rtol=1e-6, atol=1e-7)
    assert [int(row["window_start"]) for row in scored] == expected.window_start_bp.tolist()
    assert math.isnan(float(rows[3]["rtd"])) and rows[3]["window_start"] in ("", None)


def test_vcf_and_table_give_the_same_numbers(score, tmp_path):
    variants = [*substitutions(CONTIGS, 6), Variant("chr1", 120, CONTIGS["chr1"][120:124], CONTIGS["chr1"][120])]
    one = score(write_vcf(tmp_path / "v.vcf", variants), out="vcf.tsv")
    two = score(write_variant_table(tmp_path / "v.tsv", variants), out="tsv.tsv")
    assert one[0] == two[0] == 0
    scores = [[[row[name] for name in (*DEFAULT, "status")] for row in rows_of(path)] for path in (one[2], two[2])]
    assert scores[0] == scores[1] and len(scores[0]) == len(variants)


# ---- VCF and BCF -----------------------------------------------------------------------------------------------------

HEADER = """##fileformat=VCFv4.2
##FILTER=<ID=q10,Description="low">
##contig=<ID=chr1,length=300>
##INFO=<ID=AF,Number=A,Type=Float,Description="share">
##INFO=<ID=DB,Number=0,Type=Flag,Description="known">
##INFO=<ID=END,Number=1,Type=Integer,Description="end">
##FORMAT=<ID=GT,Number=1,Type=String,Description="genotype">
##FORMAT=<ID=GL,Number=G,Type=Float,Description="likelihoods">
#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tone\ttwo
"""


def vcf_lines() -> list[str]:
    """Odd records on purpose: two alleles, none, symbolic, an anchor, samples, a contig that the header lacks."""
    one, two = CONTIGS["chr1"], CONTIGS["chr2"]
    alts = f"{other_base(one[49])},{other_base(one[49], 2)}"
    return [
        f"chr1\t50\trs1\t{one[49]}\t{alts}\t29.50\tPASS\tAF=0.5000,1e-3;DB\tGT:GL\t0|1:-1,-2,-3,-4,-5,-6\t./.:.",
        f"chr1\t50\t.\t{one[49:51]}\t{one[49]}\t.\tq10\t.\tGT\t0/0\t1|1",
        f"chr1\t60\tsv\t{one[59]}\t<DEL>\t.\t.\tEND=90\tGT\t.\t.",
        f"chr2\t1\t.\t{two[0]}\t{other_base(two[0])}\t1000\tPASS\tDB\tGT\t0/1\t0/1",
        f"chr1\t70\t.\t{one[69]}\t.\t.\t.\t.\tGT\t0/0\t0/0",
        f"chr1\t40\tback\t{one[39]}\t{other_base(one[39])},*\t.\t.\tAF=.,0.25\tGT\t2/1\t0/0",
    ]


@pytest.fixture
def vcf(tmp_path) -> Path:
    path = tmp_path / "in.vcf"
    path.write_text(HEADER + "".join(line + "\n" for line in vcf_lines()))
    return path


def without_ours(line: str) -> str:
    columns = line.rstrip("\n").split("\t")
    kept = [item for item in columns[7].split(";") if not item.startswith("NUCEL_")]
    return "\t".join([*columns[:7], ";".join(kept) or ".", *columns[8:]])


@pytest.mark.parametrize("out", ["o.vcf", "o.vcf.gz", "o.bcf"])
def test_a_vcf_passes_through_untouched_and_gains_keys(score, vcf, model, fasta, out):
    pysam = pytest.importorskip("pysam")
    code, summary, path, _ = score(vcf, out=out)
    assert code == 0 and summary["records"] == 6 and summary["variants"] == 7
    if not out.endswith(".bcf"):  # byte for byte
        text = (gzip.open if out.endswith(".gz") else open)(path, "rt").read().splitlines()
        body = [line for line in text if not line.startswith("#")]
        assert [without_ours(line) for line in body] == [without_ours(line) for line in vcf_lines()]
        assert [line for line in text if line in HEADER.splitlines()] == HEADER.splitlines()
    with pysam.VariantFile(str(path)) as ours, pysam.VariantFile(str(vcf)) as theirs:
        assert ours.header.info["NUCEL_RTD"].number == "A" and ours.header.info["NUCEL_RTD"].type == "Float"
        assert "chr2" in ours.header.contigs
        assert any("nucel_model_sha256" in str(line) for line in ours.header.records)
        records = list(ours)
        for found, given in zip(records, theirs, strict=True):
            assert (found.chrom, found.pos, found.id, found.alleles) == (
                given.chrom,
                given.pos,
                given.id,
                given.alleles,
            )
            assert found.qual == given.qual and list(found.filter) == list(given.filter) and found.stop == given.stop
            assert {k: v for k, v in found.info.items() if not k.startswith("NUCEL_")} == dict(given.info)
            assert [dict(s) for s in found.samples.values()] == [dict(s) for s in given.samples.values()]
    statuses = [record.info.get("NUCEL_STATUS") for record in records]
    assert statuses == [("ok", "ok"), ("indel",), ("unsupported",), ("ok",), None, ("ok", "unsupported")]
    expected = nucel.score_variants(model, vcf, fasta)
    rtd = [value for record in records for value in record.info.get("NUCEL_RTD", ())]
    for ours, theirs in zip(rtd, expected["rtd"], strict=True):
        assert (ours is None and np.isnan(theirs)) or ours == pytest.approx(theirs, rel=1e-6)


def test_bcf_in_and_a_second_time_replaces_our_keys(score, vcf, tmp_path):
    pytest.importorskip("pysam")
    first = score(vcf, "--scores", "rtd", out="first.bcf")
    second = score(first[2], "--scores", "rtd", "--no-average-reverse-complement", out="second.vcf")
    assert first[0] == second[0] == 0
    text = second[2].read_text()
    assert text.count("##INFO=<ID=NUCEL_RTD,") == 1 and text.count("NUCEL_RTD=") == 5
    again = score(second[2], "--scores", "rtd", out="third.vcf")
    direct = score(vcf, "--scores", "rtd", out="direct.vcf")

    def ours(path: Path) -> list[list[str]]:
        lines = [line.split("\t")[7].split(";") for line in path.read_text().splitlines() if not line.startswith("#")]
        return [[item for item in items if item.startswith("NUCEL")] for items in lines]

    assert ours(again[2]) == ours(direct[2])


def test_undefined_keys_pass_as_text_and_are_defined_for_bcf(score, tmp_path):
    pysam = pytest.importorskip("pysam")
    vcf = tmp_path / "undefined.vcf"
    base = CONTIGS["chr1"][9]
    vcf.write_text(
        "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
        f"chr1\t10\t.\t{base}\t{other_base(base)}\t.\tmine\tFOO=bar\n"
    )
    assert "\tmine\tFOO=bar;NUCEL_" in score(vcf, out="o.vcf")[2].read_text()
    code, _, path, stderr = score(vcf, out="o.bcf")
    assert code == 0, stderr
    with pysam.VariantFile(str(path)) as file:
        (record,) = file
        assert record.info["FOO"] == "bar" and list(record.filter) == ["mine"]


# ---- regions ---------------------------------------------------------------------------------------------------------


def test_a_region_is_all_its_variants_and_a_picture(score, model, fasta, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "map.png"
    code, summary, path, _ = score("chr1:101-112", "--heat-map", picture, "--scores", "rtd")
    rows = rows_of(path)
    assert code == 0 and summary["variants"] == len(rows) == 36
    assert picture.read_bytes()[:4] == b"\x89PNG"
    matrix = nucel.saturation_mutagenesis(model, fasta, ("chr1", 100, 112), "rtd")
    for row in rows:
        value = matrix[int(row["pos"]) - 101, "ACGT".index(row["alt"])]
        assert float(row["rtd"]) == pytest.approx(value, rel=1e-6, abs=1e-6)
    assert score("chr1:299-312")[0] == 2


# ---- refusals --------------------------------------------------------------------------------------------------------


def bad_cases(folder: Path) -> dict[str, tuple]:
    good = substitutions({"chr1": CONTIGS["chr1"]}, 20)
    mismatched = [*good[:18], *(v._replace(ref=other_base(v.ref, 3), alt=v.ref) for v in good[18:])]
    bgzip = folder / "cut.vcf.gz"
    pysam = pytest.importorskip("pysam")
    write_vcf(folder / "whole.vcf", good)
    pysam.tabix_compress(str(folder / "whole.vcf"), str(bgzip), force=True)
    bgzip.write_bytes(bgzip.read_bytes()[:-28])
    nothing = write_vcf(folder / "nothing.vcf", [])
    empty = folder / "empty.vcf"
    empty.touch()
    absent = write_variant_table(folder / "absent.tsv", [v._replace(contig="scaffold7") for v in good])
    swapped = [v._replace(ref=v.alt, alt=v.ref) for v in good]
    return {
        "truncated bgzip": (bgzip, "truncated"),
        "no records": (nothing, "holds no variants"),
        "empty file": (empty, "is empty"),
        "no such file": (folder / "missing.vcf", "No such file"),
        "no contig": (absent, "none of the contigs"),
        "another assembly": (write_vcf(folder / "mismatched.vcf", mismatched), "another assembly"),
        "swapped alleles": (write_vcf(folder / "swapped.vcf", swapped), "with ref and alt exchanged"),
        "a table to a VCF": (write_variant_table(folder / "v.tsv", good), "from a VCF or BCF only", "out.vcf"),
        "an unknown ending": (write_vcf(folder / "v.vcf", good), "--out must end with", "out.txt"),
        "a heat map of a file": (write_vcf(folder / "h.vcf", good), "draws a region", "o.tsv", "--heat-map", "m.png"),
        "labels of a VCF": (write_vcf(folder / "l.vcf", good), "needs a table", "o.tsv", "--evaluate", "labels"),
        "an unknown score": (write_vcf(folder / "s.vcf", good), "scores are", "o.tsv", "--scores", "rdt"),
    }


CASES = (
    "truncated bgzip", "no records", "empty file", "no such file", "no contig", "another assembly", "swapped alleles",
    "a table to a VCF", "an unknown ending", "a heat map of a file", "labels of a VCF", "an unknown score",
)  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_and_leaves_no_file(score, tmp_path, case):
    folder = tmp_path / "in"
    folder.mkdir()
    cases = bad_cases(folder)
    assert cases.keys() == set(CASES)
    variants, message, *rest = cases[case]
    code, _, path, stderr = score(variants, *rest[1:], out=rest[0] if rest else "out.tsv")
    assert code == 2 and message in stderr
    assert not path.exists() and list(tmp_path.iterdir()) == [folder]


def test_what_the_file_held_before_stays_when_scoring_fails(score, tmp_path, monkeypatch):
    (tmp_path / "out.tsv").write_text("before")
    monkeypatch.setattr("nucel.score.Scorer.score", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    code, _, path, stderr = score(write_vcf(tmp_path / "v.vcf", [snv("chr1", 9)]))
    assert code == 2 and "No space left" in stderr and path.read_text() == "before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.tsv", "v.vcf"]


def test_a_few_mismatches_are_said_and_passed_over(score, tmp_path):
    good = substitutions({"chr1": CONTIGS["chr1"]}, 30)
    wrong = good[4]._replace(ref=other_base(good[4].ref, 3), alt=good[4].ref)
    code, summary, path, stderr = score(write_vcf(tmp_path / "v.vcf", [*good, wrong]))
    assert code == 0 and "1 variants are not scored" in stderr and "1 of them with ref and alt exchanged" in stderr
    assert summary["statuses"] == {"ok": len(good), "ref_swapped": 1} and rows_of(path)[-1]["status"] == "ref_swapped"
    strict = score(tmp_path / "v.vcf", "--max-mismatches", "0", out="strict.tsv")
    assert strict[0] == 2 and not strict[2].exists()


def test_a_model_says_what_it_cannot_give(score, tmp_path, model):
    masked = save_masked_lm(tmp_path / "mlm")
    vcf = write_vcf(tmp_path / "v.vcf", [snv("chr1", 100)])
    code, summary, _, _ = score(vcf, model=masked)
    assert code == 0 and "llr" in summary["scores"] and "rtd" not in summary["scores"]
    code, _, path, stderr = score(vcf, "--scores", "rtd", model=masked, out="rtd.tsv")
    assert code == 2 and "rtd needs a discriminator" in stderr and "a masked language model" in stderr
    assert not path.exists()


def test_low_precision_tells_its_noise(score, tmp_path):
    code, _, _, stderr = score(write_vcf(tmp_path / "v.vcf", [snv("chr1", 100)]), "--dtype", "bf16")
    assert code == 0 and "cosine distance of a window and itself" in stderr


def test_a_genome_in_memory_serves_the_function_too(model, tmp_path, fasta):
    genome = genome_of(tmp_path, CONTIGS)
    variants = [snv("chr1", 30), snv("chr2", 30)]
    np.testing.assert_array_equal(
        nucel.score_variants(model, variants, genome)["rtd"], nucel.score_variants(model, variants, fasta)["rtd"]
    )
