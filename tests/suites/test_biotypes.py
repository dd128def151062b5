"""Biotypes: classes from all kinds of files, splits, F1 as scikit-learn has it, controls, pictures."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.data import DATA, real
from support.stopping import Stopped, counted
from support.tiny import save_tiny_model

from nucel.runtime.errors import ConfigError, GenomeError, InputError
from nucel.suite import main
from nucel.suites.biotype_classifier import (
    Fold,
    classify,
    confusion,
    f1_scores,
    fold,
    intervals,
    nearly_identical,
)
from nucel.suites.biotype_sources import Gene, attributes, header_biotype, read_genes
from nucel.tokenizers import nucleotide

pytest.importorskip("sklearn")
COMPLEMENT = str.maketrans("ACGT", "TGCA")


def bases(rng: np.random.Generator, length: int, p=None) -> str:
    return "".join(rng.choice(list("ACGT"), length, p=p))


def made_genes(rows: int = 60, contigs: int = 6, genomes: int = 3, seed: int = 0) -> list[Gene]:
    rng = np.random.default_rng(seed)
    genes = []
    for i in range(rows):
        rich = [0.4, 0.1, 0.1, 0.4] if i % 2 else [0.1, 0.4, 0.4, 0.1]
        tokens = nucleotide.encode(bases(rng, int(rng.integers(60, 90)), rich))
        contig = i % contigs
        genes.append(Gene(f"g{i}", ("gc", "at")[i % 2], tokens, f"c{contig}", f"{contig % genomes}.fa", len(tokens)))
    return genes


# ---- classes ---------------------------------------------------------------------------------------------------------


def test_headers_of_ensembl_and_gencode_name_the_class():
    ensembl = "ENST1.1 cdna chromosome:GRCh38:22:10:90:1 gene:ENSG1.1 gene_biotype:lncRNA transcript_biotype:retained"
    assert header_biotype(ensembl) == "lncRNA"
    assert header_biotype("ENST1.1 ncrna transcript_biotype:snoRNA") == "snoRNA"
    gencode = "ENST1.2|ENSG1.5|OTT1|OTT2|DDX11L1-202|DDX11L1|1657|processed_transcript|"
    assert header_biotype(gencode) == "processed_transcript"
    assert header_biotype("ENST1.2|ENSG1.5|x") is None and header_biotype("chr1 description") is None


def test_attributes_are_read_in_both_spellings():
    assert attributes('gene_id "G1"; gene_biotype "tRNA"; note "a=b";')["gene_biotype"] == "tRNA"
    assert attributes("ID=gene:G1;biotype=protein_coding;Name=x y") == {
        "ID": "gene:G1", "biotype": "protein_coding", "Name": "x y"
    }  # fmt: skip


def test_fasta_genes_are_cut_and_placed(tmp_path):
    path = tmp_path / "cdna.fa"
    path.write_text(
        ">T1 cdna chromosome:GRCh38:7:1:9:-1 gene:G1 gene_biotype:miRNA\nACGTACGTAC\n"
        ">T2 cdna scaffold:X:KI1.1:1:9:1 gene_biotype:rRNA\nGGG\n"
    )
    one, other = read_genes([path], room_bp=4, cache_dir=tmp_path)
    assert (one.name, one.biotype, one.contig, one.whole_bp) == ("T1", "miRNA", "7", 10)
    assert nucleotide.decode(one.tokens) == "ACGT" and other.contig == "KI1.1"
    path.write_text(">T1 nothing\nACGT\n")
    with pytest.raises(InputError, match=r"cdna.fa, record 'T1 nothing': no gene_biotype:X"):
        read_genes([path], cache_dir=tmp_path)


@pytest.fixture
def genome(tmp_path) -> tuple[Path, str]:
    text = bases(np.random.default_rng(0), 400)
    path = tmp_path / "genome.fa"
    path.write_text(f">chr1\n{text}\n")
    return path, text


GTF = """#comment
chr1	x	gene	11	60	.	+	.	gene_id "a"; gene_biotype "tRNA";
chr1	x	exon	11	60	.	+	.	gene_id "a"; gene_biotype "tRNA";
chr1	x	gene	101	180	.	-	.	gene_id "b"; gene_type "lncRNA";
"""
GFF3 = """##gff-version 3
chr1	x	ncRNA_gene	11	60	.	+	.	ID=gene:a;biotype=tRNA
chr1	x	mRNA	11	60	.	+	.	ID=t:a;biotype=tRNA
chr1	x	pseudogene	101	180	.	-	.	ID=gene:b;biotype=lncRNA
##FASTA
>chr1
"""
BED = "chr1\t10\t60\ttRNA\t0\t+\nchr1\t100\t180\tlncRNA\t0\t-\n"


@pytest.mark.parametrize(("name", "text"), [("a.gtf", GTF), ("a.gff3.gz", GFF3), ("a.bed", BED)])
def test_annotations_give_each_gene_once_in_sense_direction(tmp_path, genome, name, text):
    path, whole = tmp_path / name, genome[1]
    with gzip.open(path, "wt") if name.endswith("gz") else open(path, "w") as file:
        file.write(text)
    one, other = read_genes([path], [genome[0]], room_bp=64)
    assert [gene.biotype for gene in (one, other)] == ["tRNA", "lncRNA"]
    assert nucleotide.decode(one.tokens) == whole[10:60]
    assert nucleotide.decode(other.tokens) == whole[100:180][::-1].translate(COMPLEMENT)[:64]
    assert other.whole_bp == 80 and other.contig == "chr1" and other.genome == str(genome[0])
    with pytest.raises(ConfigError, match="give the FASTA they are of with --genome"):
        read_genes([path])


def test_the_feature_s_type_is_the_class_where_no_attribute_is(tmp_path, genome):
    path = tmp_path / "a.gff"
    path.write_text("chr1\tx\tCDS\t1\t60\t.\t+\t0\tID=a\nchr1\tx\ttRNA\t71\t90\t.\t+\t.\tID=b\n")
    assert [gene.biotype for gene in read_genes([path], [genome[0]], ["CDS", "t*"])] == ["CDS", "tRNA"]
    with pytest.raises(InputError, match=r"a.gff has no labelled sequence"):
        read_genes([path], [genome[0]])
    path.write_text("chr1\tx\tgene\t390\t401\t.\t+\t.\tID=a\n")
    with pytest.raises(GenomeError, match=r"a.gff, line 1: \[389, 401\) is not inside contig 'chr1'"):
        read_genes([path], [genome[0]])
    path.write_text("chr1 x gene 390 401\n")
    with pytest.raises(InputError, match=r"a.gff, line 1: not nine columns"):
        read_genes([path], [genome[0]])


COUNTS = {
    "haemophilus_influenzae_Rd_KW20": {"CDS": 1810, "rRNA": 19, "repeat_region": 49, "tRNA": 58},
    "streptococcus_pyogenes_M1_GAS": {"CDS": 1853, "rRNA": 18, "repeat_region": 46, "tRNA": 60},
}
"""As `cut -f4 | sort | uniq -c` counts them."""


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("marks", [pytest.param((), marks=real("annotations"))], ids=["real"])
def test_the_given_annotations_are_read_whole(name, marks, tmp_path):
    bed, fasta = DATA / "annotations" / f"{name}.bed.gz", DATA / "genomes" / "bacteria" / f"{name}.fa.gz"
    genes = read_genes([bed], [fasta], cache_dir=tmp_path)
    names, counts = np.unique([gene.biotype for gene in genes], return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == COUNTS[name]
    starts = [nucleotide.decode(g.tokens[:3]) for g in genes if g.biotype == "CDS" and g.whole_bp % 3 == 0]
    assert np.mean([start in ("ATG", "GTG", "TTG") for start in starts]) > 0.95  # so the strand is right


# ---- splits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["contig", "genome", "cluster", "rows"])
def test_what_is_held_out_is_not_in_train(by):
    genes = made_genes()
    for seed in range(3):
        train, test, held = fold(genes, by, seed)
        assert sorted([*train, *test]) == list(range(len(genes)))
        if by in ("contig", "genome"):
            sides = [{getattr(genes[i], by) for i in rows} for rows in (train, test)]
            assert not sides[0] & sides[1]
        if by == "genome":
            assert held == f"{seed}.fa"
    assert fold(genes, by, 1).test.tolist() == fold(genes, by, 1).test.tolist()


def test_splits_that_cannot_be_are_refused():
    genes = made_genes(genomes=1)
    with pytest.raises(InputError, match="needs two genomes"):
        fold(genes, "genome", 0)
    with pytest.raises(InputError, match="does not say what contigs"):
        fold([gene._replace(contig="") for gene in genes], "contig", 0)


def test_nearly_identical_sequences_are_counted():
    rng = np.random.default_rng(0)
    texts = [bases(rng, 600) for _ in range(6)]
    changed = [texts[0], texts[1][::-1].translate(COMPLEMENT), texts[2][:300] + "A" + texts[2][300:], bases(rng, 600)]
    far = list(texts[3])
    for place in range(0, 600, 10):
        far[place] = "A" if far[place] != "A" else "C"
    tokens = [nucleotide.encode(text) for text in (*texts, *changed, "".join(far))]
    genes = [Gene(str(i), "x", one, "c", "g", len(one)) for i, one in enumerate(tokens)]
    rows = Fold(np.arange(6), np.arange(6, 11), "")
    assert nearly_identical(genes, rows) == 3 / 5  # the same, the other strand, one base more; not 10 % others


# ---- figures ---------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 5))
def test_f1_is_scikit_learn_s(seed, rows, classes):
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(seed)
    true, guess = rng.choice(list("abcde"[:classes]), rows), rng.choice(list("abcde"), rows)
    found = f1_scores(confusion(true, guess))
    expected = [f1_score(true, guess, average=mean, zero_division=0) for mean in ("macro", "micro", "weighted")]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_class_that_a_draw_lacks_is_left_out():
    with_it = np.array([[3, 0, 1], [0, 0, 0], [2, 0, 4]])
    without = np.array([[3, 1], [2, 4]])
    np.testing.assert_allclose(f1_scores(with_it), f1_scores(without))


def test_intervals_hold_the_figure_and_are_a_bootstrap_s():
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(1)
    true = rng.choice(list("abc"), 150, p=[0.6, 0.3, 0.1])
    guess = np.where(rng.random(150) < 0.7, true, rng.choice(list("abc"), 150))
    matrix = confusion(true, guess)
    found = intervals(matrix, 2000, 0)
    assert (found[:, 0] < f1_scores(matrix)).all() and (f1_scores(matrix) < found[:, 1]).all()
    draws = [f1_score(true[rows], guess[rows], average="macro") for rows in rng.integers(150, size=(300, 150))]
    np.testing.assert_allclose(found[0], np.percentile(draws, (2.5, 97.5)), atol=0.03)


def test_trees_learn_and_shuffled_labels_are_at_chance():
    pytest.importorskip("xgboost")
    rng = np.random.default_rng(2)
    labels = rng.choice(list("abcd"), 400)
    vectors = rng.normal(size=(400, 6)).astype(np.float32)
    vectors[np.arange(400), np.searchsorted(list("abcd"), labels)] += 3
    rows = Fold(np.arange(300), np.arange(300, 400), "")
    found = classify(vectors, labels, rows, 0, trees=20, threads=1)
    assert f1_scores(confusion(labels[300:], found))[0] > 0.85
    assert (found == classify(vectors, labels, rows, 0, trees=20, threads=1)).all()
    shuffled = rng.permutation(labels)
    chance = classify(vectors, shuffled, rows, 0, trees=20, threads=1)
    assert abs(f1_scores(confusion(shuffled[300:], chance))[0] - 1 / 4) < 0.12
    with pytest.raises(InputError, match="all of class a"):
        classify(vectors, np.full(400, "a"), rows, 0)


# ---- the verb --------------------------------------------------------------------------------------------------------


@pytest.fixture
def call(tmp_path, capsys):
    def run(*words, out="out"):
        try:
            status = main(["biotypes", *map(str, words), "--out", str(tmp_path / out)])
        except SystemExit as ended:
            status = int(ended.code or 0)
        captured = capsys.readouterr()
        return status, json.loads(captured.out.splitlines()[-1]) if status == 0 else None, captured.err

    return run


@pytest.fixture
def fasta(tmp_path) -> Path:
    rng = np.random.default_rng(3)
    text = ""
    for i in range(60):
        kind = ("miRNA", "lncRNA", "rare")[0 if i % 2 else 1 if i < 58 else 2]
        length = int(rng.integers(40, 60))
        place = f"chromosome:v1:{i % 5}:1:{length}:1"
        text += f">T{i} {place} gene_biotype:{kind}\n{bases(rng, length, [0.4, 0.1, 0.1, 0.4] if i % 2 else None)}\n"
    path = tmp_path / "genes.fa"
    path.write_text(text)
    return path


def test_the_verb_writes_a_table_with_its_controls_and_pictures(call, fasta, tmp_path, monkeypatch):
    pytest.importorskip("xgboost")
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "umap" else find(name))
    model = save_tiny_model(tmp_path / "model")
    words = (
        fasta,
        "--models",
        f"rtd={model}",
        "--min-genes",
        "10",
        "--seeds",
        "0",
        "1",
        "--trees",
        "10",
        "--draws",
        50,
    )
    status, summary, err = call(*words, "--room-bp", "50")
    assert status == 0 and summary["classes"] == {"miRNA": 30, "lncRNA": 29} and summary["left_out"] == ["rare"]
    assert "no umap.png" in err and "Next: " in err.splitlines()[-1] and summary["cut"] > 0
    out = tmp_path / "out"
    assert (out / "tsne.png").stat().st_size > 1000 and not (out / "umap.png").exists()
    lines = list(csv.DictReader((out / "table.tsv").read_text().splitlines(), delimiter="\t"))
    methods = {line["method"] for line in lines}
    assert methods == {"rtd", "length", "1- to 4-mers", "untrained", "most frequent class"}
    assert len(lines) == 10 and all(float(x["macro_f1_low"]) <= float(x["macro_f1"]) for x in lines)
    assert "| length | " in (out / "table.md").read_text() and "splits by contig" in (out / "table.md").read_text()
    assert set(json.loads((out / "result.json").read_text())["weights"]) == {"rtd"}
    assert call(*words, "--room-bp", "50", "--no-pictures", out="again")[0] == 0
    assert (out / "table.tsv").read_text() == (tmp_path / "again" / "table.tsv").read_text()
    assert call(*words)[0] == 2


@pytest.mark.parametrize("stop", ["embeddings", "classify"])
def test_a_stopped_command_goes_on_where_it_was(call, fasta, tmp_path, monkeypatch, stop):
    pytest.importorskip("xgboost")
    monkeypatch.setattr("nucel.suites.biotypes.draw_map", lambda path, *_: path.write_text("a picture"))
    monkeypatch.setattr("nucel.suites.biotypes.tsne", lambda vectors, seed: vectors)
    monkeypatch.setattr("nucel.suites.biotypes.umap", lambda vectors, seed: vectors)
    monkeypatch.setattr("nucel.runtime.environment.available_cpus", lambda: 1)
    models = [save_tiny_model(tmp_path / name, seed=seed) for seed, name in enumerate(("rtd", "mlm"))]
    words = (
        fasta, "--models", *(f"{path.name}={path}" for path in models), "--min-genes", "10", "--seeds", "0", "1",
        "--trees", "5", "--draws", "20",
    )  # fmt: skip
    assert call(*words, out="whole")[0] == 0 and not (tmp_path / "whole.parts").exists()

    target = f"nucel.suites.biotypes.{stop}"
    left = 1 if stop == "embeddings" else 3  # the second model, or its second seed
    with monkeypatch.context() as patch:
        seen = counted(patch, target, lambda *_, **__: None, calls=left)
        with pytest.raises(Stopped):
            call(*words)
    assert len(seen) == left and not (tmp_path / "out").exists()
    status, _, err = call(*words, "--trees", "6")
    assert status == 2 and "settings.evaluation.trees: the run has 5, given is 6" in re.sub(r"\s+", " ", err)
    fasta.write_text((text := fasta.read_text()).replace("gene_biotype:rare", "gene_biotype:lncRNA"))
    assert call(*words)[0] == 2
    fasta.write_text(text)

    embedded = counted(monkeypatch, "nucel.suites.biotypes.embeddings", lambda *_, **__: None)
    fitted = counted(monkeypatch, "nucel.suites.biotypes.classify", lambda *words: words[3])
    assert call(*words)[0] == 0
    assert len(embedded) == 2 + (stop == "embeddings")  # of untrained encoders, and the second model's
    assert len(fitted) == 2 * 5 - (2 if stop == "embeddings" else 3)
    assert (tmp_path / "out" / "table.tsv").read_bytes() == (tmp_path / "whole" / "table.tsv").read_bytes()
    assert (tmp_path / "out" / "tsne.png").exists() and not (tmp_path / "out.parts").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--min-genes", "100"), "fewer than two classes have 100 sequences"),
        (("--models", "length=x"), "names of --models must differ"),
        (("--pooling", "none"), "a gene needs one vector"),
        (("--split-by", "genome", "--min-genes", "5"), "needs two genomes"),
        (("--test-share", "1"), "test_share must lie between"),
    ],
)
def test_what_cannot_work_is_refused_and_leaves_nothing(call, fasta, tmp_path, words, message):
    status, _, err = call(fasta, *words)
    assert status == 2 and message in re.sub(r"\s+", " ", err) and not list(tmp_path.glob("out*"))


def test_missing_libraries_are_named_at_once(call, fasta, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "xgboost" else find(name))
    status, _, err = call(fasta)
    assert status == 2 and "pip install 'nucel[biotypes]'" in err
