"""Variants against a genome: trimming, placements, statuses, contig names, pieces of contigs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nucel.genome.fasta import Genome
from nucel.genome.loci import Reference, parse_region
from nucel.genome.variant_files import open_variants
from nucel.genome.variants import STATUSES, Allele, Variant, resolve, trim
from nucel.tokenizers.nucleotide import decode, encode

DATA = Path(os.environ.get("NUCEL_DATA", Path(__file__).parents[2] / "../shared/data"))

FASTA = """>chr1 first
NNACGTTTTacgR
>chrM a mitochondrion
ACGTACGT
>7
GATTACA
>piece human chr9:101-110
AACCGGTTAC
>chr9:105-120
GGTTACTTTTTTTTTT
>chr3:1-5 not five bases
ACGTACGT
"""


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Reference:
    path = tmp_path_factory.mktemp("genome") / "g.fa"
    path.write_text(FASTA)
    return Reference(Genome(path))


def found(reference: Reference, contig: str, position: int, ref: str, alt: str) -> Allele:
    return resolve(reference, Variant.from_vcf(contig, position, ref, alt))


# ---- trimming --------------------------------------------------------------------------------------------------------

alleles = st.text("ACGT", max_size=8)


@given(alleles, alleles, alleles, alleles)
def test_trimming_leaves_the_haplotypes_as_they_are(before, ref, alt, after):
    """Putting the trimmed alleles back gives the same two sequences, and what is left shares no end."""
    start, short_ref, short_alt = trim(0, encode(before + ref + after), encode(before + alt + after))
    whole = {"ref": before + ref + after, "alt": before + alt + after}
    head, tail = whole["ref"][:start], whole["ref"][start + len(short_ref) :]
    assert head + decode(short_ref) + tail == whole["ref"]
    assert head + decode(short_alt) + tail == whole["alt"]
    if len(short_ref) and len(short_alt):
        assert short_ref[0] != short_alt[0] and short_ref[-1] != short_alt[-1]


def test_an_anchored_snv_is_the_snv(reference):
    plain = found(reference, "chr1", 4, "C", "T")
    for position, ref, alt in ((3, "AC", "AT"), (3, "ACG", "ATG"), (4, "CGT", "TGT")):
        anchored = found(reference, "chr1", position, ref, alt)
        assert (anchored.status, anchored.start_bp) == (plain.status, plain.start_bp) == ("ok", 3)
        assert decode(anchored.ref) == "C" and decode(anchored.alt) == "T"


@given(st.text("ACGT", min_size=6, max_size=30), st.data())
def test_all_spellings_of_an_indel_are_one_allele(tmp_path_factory, text, data):
    """Deletions of the same number of bases that leave the same sequence resolve to the same bases."""
    path = tmp_path_factory.mktemp("genome") / "g.fa"
    path.write_text(f">c\n{text}\n")
    reference = Reference(Genome(path))
    start = data.draw(st.integers(0, len(text) - 2))
    length = data.draw(st.integers(1, min(4, len(text) - 1 - start)))
    left = text[:start] + text[start + length :]
    same = [k for k in range(len(text) - length + 1) if text[:k] + text[k + length :] == left]
    spellings = [resolve(reference, Variant("c", k, text[k : k + length], "")) for k in same]
    assert {(a.start_bp, decode(a.ref), decode(a.alt)) for a in spellings} == {
        (min(same), text[min(same) : max(same) + length], text[min(same) : max(same)])
    }
    # The same deletions, as insertions into the sequence without those bases.
    path.write_text(f">c\n{left}\n")
    shorter = Reference(Genome(path))
    inserted = {
        (a.start_bp, decode(a.ref), decode(a.alt))
        for k in same
        for a in [resolve(shorter, Variant("c", k, "", text[k : k + length]))]
    }
    assert inserted == {(min(same), text[min(same) : max(same)], text[min(same) : max(same) + length])}


# ---- statuses --------------------------------------------------------------------------------------------------------

CASES = [
    ("chr1", 3, "A", "T", "ok"),
    ("chr1", 3, "a", "t", "ok"),
    ("chr1", 10, "a", "T", "ok"),
    ("chr1", 10, "A", "a", "ok"),
    ("chr1", 6, "U", "G", "ok"),
    ("chr1", 6, "TTT", "GTG", "ok"),
    ("chr1", 6, "TT", "T", "indel"),
    ("chr1", 4, "C", "CAA", "indel"),
    ("chr1", 4, "CG", "TTT", "indel"),
    ("chr1", 4, "C", "C" + "A" * 50, "indel"),
    ("chr1", 4, "C", "C" + "A" * 51, "too_long"),
    ("chr1", 4, "C", "<DEL>", "unsupported"),
    ("chr1", 4, "C", "*", "unsupported"),
    ("chr1", 4, "C", "C[chr2:7[", "unsupported"),
    ("chr1", 4, "C", "R", "unsupported"),
    ("chr1", 4, "C", "N", "unsupported"),
    ("chr1", 4, "C", ".", "unsupported"),
    ("chr1", 4, "C", "-", "unsupported"),
    ("chr1", 4, "<INS>", "A", "unsupported"),
    ("chr1", 4, "G", "A", "ref_mismatch"),
    ("chr1", 4, "T", "C", "ref_swapped"),
    ("chr1", 3, "TTT", "ACG", "ref_swapped"),
    ("chr1", 1, "N", "A", "unknown_base"),
    ("chr1", 1, "A", "C", "unknown_base"),
    ("chr1", 13, "R", "A", "unknown_base"),
    ("chr1", 2, "NA", "NT", "ok"),
    ("chr1", 14, "A", "C", "outside"),
    ("chr1", 13, "RA", "R", "outside"),
    ("chr1", 0, "A", "C", "outside"),
    ("chr8", 4, "C", "T", "no_contig"),
]


@pytest.mark.parametrize(("contig", "position", "ref", "alt", "status"), CASES)
def test_status(reference, contig, position, ref, alt, status):
    assert status in STATUSES
    assert found(reference, contig, position, ref, alt).status == status


def test_equal_alleles_change_nothing(reference):
    allele = found(reference, "chr1", 3, "ACG", "ACG")
    assert allele.status == "ok" and not len(allele.ref) and not len(allele.alt)


# ---- names -----------------------------------------------------------------------------------------------------------


def test_contigs_match_without_chr_and_it_is_said_once(tmp_path, capsys):
    path = tmp_path / "g.fa"
    path.write_text(FASTA)
    reference = Reference(Genome(path))
    for contig, position in (("1", 3), ("MT", 1), ("M", 1), ("chrMT", 1), ("chr7", 2)):
        assert found(reference, contig, position, "A", "T").status == "ok", contig
    assert capsys.readouterr().err.count("note:") == 1


def test_an_exact_name_comes_first_and_two_candidates_are_none(tmp_path):
    path = tmp_path / "g.fa"
    path.write_text(">1\nAAAA\n>chr1\nCCCC\n>CHR2\nGGGG\n>2x\nTTTT\n")
    reference = Reference(Genome(path))
    assert found(reference, "1", 1, "A", "T").status == found(reference, "chr1", 1, "C", "T").status == "ok"
    assert found(reference, "Chr1", 1, "C", "T").status == "no_contig"
    assert found(reference, "2", 1, "G", "T").status == "ok"


def test_a_record_named_after_a_region_is_that_piece(reference):
    first = found(reference, "chr9", 103, "C", "T")
    assert (first.status, reference.genome.contigs[first.contig], first.start_bp) == ("ok", "piece", 2)
    second = found(reference, "9", 112, "T", "C")
    assert (reference.genome.contigs[second.contig], second.start_bp) == ("chr9:105-120", 7)
    assert found(reference, "chr9", 100, "A", "C").status == found(reference, "chr9", 121, "T", "C").status == "outside"
    # Where two pieces hold a base, the one that reaches farther around it.
    both = found(reference, "chr9", 108, "T", "C")
    assert reference.genome.contigs[both.contig] == "chr9:105-120"
    # A region of another length than the record is a mere name.
    assert found(reference, "chr3", 1, "A", "C").status == "no_contig"
    assert found(reference, "chr3:1-5", 8, "T", "C").status == "ok"


def test_regions_are_read_as_samtools_writes_them():
    assert parse_region("chr1:1,001-2,000") == ("chr1", 1000, 2000)
    for text in ("chr1", "chr1:5", "chr1:0-5", "chr1:9-5", "chr1:a-b"):
        assert parse_region(text) is None


def test_descriptions_are_what_follows_the_names(tmp_path):
    path = tmp_path / "g.fa"
    path.write_text(">a  one two \nAC\nGT\n>b\nAC\n>c\tthree\nA\n")
    assert Genome(path).descriptions == ("one two", "", "three")


@pytest.mark.real
@pytest.mark.skipif(not (DATA / "variants").is_dir(), reason=f"no variants in {DATA} (set NUCEL_DATA)")
def test_every_row_of_the_saturation_data_fits_its_element():
    """The file's counts: 715 deletions of one base, 5,055 substitutions; every Ref is the element's base."""
    reference = Reference(Genome(DATA / "variants" / "cagi5_elements_GRCh38.fa"))
    rows = open_variants(DATA / "variants" / "cagi5_elements.tsv.gz").records()
    statuses = [resolve(reference, variant).status for record in rows for variant in record.variants()]
    counts = dict(zip(*np.unique(statuses, return_counts=True), strict=True))
    assert counts == {"ok": 5055, "indel": 715}
