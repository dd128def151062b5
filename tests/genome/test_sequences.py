"""Files of sequences: what is read from them, and what is refused with its line."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from nucel.genome import GenomeError
from nucel.genome.sequences import SequenceOptions, read_sequences
from nucel.runtime.errors import InputError
from nucel.tokenizers import nucleotide


def write(path, content):
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def texts(found) -> list[str]:
    return [nucleotide.decode(tokens) for tokens in found.tokens]


# ---- tables ----------------------------------------------------------------------------------------------------------

TABLE = "sequence,label\nACGT,1\nacgun,0\n"


@pytest.mark.parametrize("name", ["t.csv", "t.txt", "t.csv.gz"])
@pytest.mark.parametrize(
    "content",
    [
        TABLE,
        TABLE.replace("\n", "\r\n"),
        TABLE.replace("\n", "\r"),
        b"\xef\xbb\xbf" + TABLE.encode(),
        b"\xef\xbb\xbf" + TABLE.replace("\n", "\r\n").encode(),
        TABLE.replace(",", "\t"),
        TABLE.rstrip("\n"),
        TABLE.replace("\n", "\n\n"),
        'sequence,label\n"ACGT","1"\n" acgun ",0\n',
        "sequence , label\nACGT,1\nacgun,0\n",
    ],
)
def test_tables_are_read_alike(tmp_path, name, content):
    found = read_sequences(write(tmp_path / name, content))
    assert texts(found) == ["ACGT", "ACGTN"] and found.names == ["1", "2"]
    assert [cell.strip() for cell in found.column("label")] == ["1", "0"]
    assert len(found) == 2 and found.tokens[0].dtype == np.uint8


def test_places_are_lines(tmp_path):
    found = read_sequences(write(tmp_path / "t.csv", "label,sequence\n\n1,ACGT\n\n0,AC\n"))
    assert found.where == ["line 3", "line 5"]


@pytest.mark.parametrize(
    ("content", "options", "names"),
    [
        ("name,sequence\na,AC\na,GT\n", SequenceOptions(), ["a", "a"]),
        ("id,sequence\na,AC\nb,GT\n", SequenceOptions(), ["a", "b"]),
        ("gene,id,sequence\nx,a,AC\ny,b,GT\n", SequenceOptions(name_column="gene"), ["x", "y"]),
        ("dna\nAC\nGT\n", SequenceOptions(sequence_column="dna"), ["1", "2"]),
    ],
)
def test_columns_are_chosen(tmp_path, content, options, names):
    found = read_sequences(write(tmp_path / "t.csv", content), options)
    assert texts(found) == ["AC", "GT"] and found.names == names


def test_a_sequence_may_be_longer_than_the_csv_module_s_limit(tmp_path):
    found = read_sequences(write(tmp_path / "t.csv", f"sequence\n{'ACGT' * 50_000}\n"))
    assert len(found.tokens[0]) == 200_000


@pytest.mark.parametrize("letters", ["RYSWKMBDHVNrn", "-.*?"])
def test_codes_and_gaps_are_unknown(tmp_path, letters):
    found = read_sequences(write(tmp_path / "t.csv", f"sequence\nA{letters}\n"))
    assert texts(found) == ["A" + "N" * len(letters)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("sequence,label\n", "has a header but no rows"),
        ("seq,label\nACGT,1\n", "no column 'sequence'; its first line has: 'seq', 'label'.*--sequence-column"),
        ("sequence,sequence\nA,C\n", "a column name occurs twice"),
        ("sequence,label\nACGT,1\nACGT\n", "line 3: 1 cells in a table of 2 columns"),
        ("sequence,label\nACGT,1\n,0\n", "line 3: the sequence is empty"),
        ("sequence,label\nACGT,1\n\n  ,0\n", "line 4: the sequence is empty"),
        (
            "sequence,label\nACGT,1\nACEGT,0\n",
            "line 3: 'E' at position 3 is not a nucleotide code; allowed are A C G T U",
        ),
        ("sequence,label\nAC GT,1\n", "line 2: ' ' at position 3"),
        ("sequence\nAC\u00c4\n", "line 2: '\u00c4' at position 3"),
        ("sequence\nMKVLAARW\n", "line 2: 'L' at position 4"),
        ('sequence\n"ACGT\n', "line 2: unexpected end of data"),
        (b"sequence\nAC\xff\n", "is not a text table: it is not UTF-8"),
    ],
)
def test_bad_tables_are_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_sequences(write(tmp_path / "t.csv", content))


def test_a_damaged_gzip_table_is_refused(tmp_path):
    path = write(tmp_path / "t.csv.gz", TABLE * 100)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="damaged or incomplete gzip"):
        read_sequences(path)


def test_a_missing_name_column_is_refused(tmp_path):
    path = write(tmp_path / "t.csv", TABLE)
    with pytest.raises(InputError, match="no column 'gene'"):
        read_sequences(path, SequenceOptions(name_column="gene"))
    with pytest.raises(InputError, match="no column 'score'; its first line has: 'sequence', 'label'"):
        read_sequences(path).column("score")


def test_taking_rows_takes_everything_of_them(tmp_path):
    found = read_sequences(write(tmp_path / "t.csv", "id,sequence\na,AC\nb,GT\nc,TT\n")).take(np.array([2, 0]))
    assert (found.names, texts(found), found.where) == (["c", "a"], ["TT", "AC"], ["line 4", "line 2"])
    assert found.columns == {"id": ["c", "a"], "sequence": ["TT", "AC"]}


# ---- FASTA -----------------------------------------------------------------------------------------------------------

FASTA = ">one first\nACGT\nAC\n>two\nnnAU\n"


@pytest.mark.parametrize("name", ["s.fa", "s.fasta.gz", "sequences"])
def test_fasta_is_read(tmp_path, name):
    found = read_sequences(write(tmp_path / name, FASTA))
    assert found.names == ["one", "two"] and texts(found) == ["ACGTAC", "NNAT"]
    assert found.where == ["record 'one'", "record 'two'"] and not found.columns
    with pytest.raises(InputError, match="is not a CSV, TSV or BED, so it has no columns; 'label' was asked for"):
        found.column("label")


def test_an_empty_record_is_refused(tmp_path):
    with pytest.raises(InputError, match="record 'two': the sequence is empty"):
        read_sequences(write(tmp_path / "s.fa", ">one\nACGT\n>two\n"))


def test_what_the_genome_refuses_is_refused(tmp_path):
    with pytest.raises(GenomeError, match="looks like protein"):
        read_sequences(write(tmp_path / "s.fa", ">a\nMKVLAARWERTPQ\n"))


def test_sequences_longer_than_a_context_are_refused(tmp_path):
    found = read_sequences(write(tmp_path / "s.fa", FASTA))
    found.require_within(7)
    with pytest.raises(InputError, match="record 'one': 6 bases are more than the context of 6 tokens holds"):
        found.require_within(6)


# ---- BED -------------------------------------------------------------------------------------------------------------


def read_bed(tmp_path, bed, name="r.bed"):
    genome = write(tmp_path / "g.fa", ">c1\nAACCGGTTAA\n>c2\nTTTTT\n")
    return read_sequences(write(tmp_path / name, bed), SequenceOptions(genome=genome))


@pytest.mark.parametrize("name", ["r.bed", "r.bed.gz"])
def test_regions_are_read_in_their_order_and_direction(tmp_path, name):
    bed = "# regions\ntrack name=x\nc2\t0\t3\tlast\nc1\t1\t4\tfirst\t0\t-\nc1\t1\t4\t.\t0\t+\nc1 0 2\n"
    bed += "c1\t0\t4\tcrlf\t0\t-\r\n"
    found = read_bed(tmp_path, bed, name)
    assert found.names == ["last", "first", "c1:1-4(+)", "c1:0-2(+)", "crlf"]
    assert texts(found) == ["TTT", "GGT", "ACC", "AA", "GGTT"]
    assert found.where == [f"line {i}" for i in (3, 4, 5, 6, 7)]


@pytest.mark.parametrize(
    ("bed", "error", "message"),
    [
        ("c1\t0\t4\nc1\t8\t11\n", GenomeError, r"line 2: \[8, 11\) is not inside contig 'c1', which has 10"),
        ("c3\t0\t4\n", GenomeError, "no contig 'c3'; the genome has c1, c2"),
        ("c1\t0\n", GenomeError, "line 1: no contig, start and end"),
        ("c1\t4\t4\n", InputError, "line 1: the region is empty"),
        ("c1\t0\t4\tx\t0\t*\n", InputError, "line 1: the strand must be"),
        ("# nothing\n", InputError, "has no regions"),
    ],
)
def test_bad_regions_are_refused(tmp_path, bed, error, message):
    with pytest.raises(error, match=message):
        read_bed(tmp_path, bed)


def test_a_bed_file_and_its_genome_come_together(tmp_path):
    with pytest.raises(InputError, match="has regions but no sequences; give the FASTA they are of with --genome"):
        read_sequences(write(tmp_path / "r.bed", "c1\t0\t4\n"))
    fasta = write(tmp_path / "g.fa", FASTA)
    with pytest.raises(InputError, match="--genome is for BED files"):
        read_sequences(fasta, SequenceOptions(genome=fasta))
