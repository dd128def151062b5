"""Embedding as a user meets it: the function, and the command with its files and its refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny import save_tiny_model, tiny_encoder

import nucel
from nucel.embed.__main__ import main
from nucel.inference import export
from nucel.runtime.errors import ConfigError, InputError
from nucel.tokenizers import nucleotide

SEQUENCES = {"one": "ACGTTGCAACGT", "two": "TTTAC", "three": "GGGGGGGGGGNACGTACGTACGTTT"}
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny", context=33)


@pytest.fixture
def fasta(tmp_path):
    path = tmp_path / "s.fa"
    path.write_text("".join(f">{name}\n{text}\n" for name, text in SEQUENCES.items()))
    return path


@pytest.fixture
def embed(model, fasta, tmp_path, capsys):
    """Calls main; returns the exit code, the summary or None, the output file, and what stood on stderr."""

    def call(*arguments, out="e.npz", source=None):
        path = tmp_path / out
        code = main([str(model), str(source or fasta), "--out", str(path), *map(str, arguments)])
        captured = capsys.readouterr()
        return code, json.loads(captured.out.splitlines()[-1]) if code == 0 else None, path, captured.err

    return call


def read(path: Path):
    """names, then one array for each sequence, then what the file says about itself."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            arrays = dict(file)
        about = json.loads(str(arrays["about"]))
        names = arrays["names"].tolist()
    elif path.suffix == ".h5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(path) as file:
            arrays = {name: dataset[()] for name, dataset in file.items()}
            about = json.loads(file.attrs["about"])
        names = [name.decode() for name in arrays["names"]]
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        table = parquet.read_table(path)
        about = json.loads(table.schema.metadata[b"nucel"])
        return table["name"].to_pylist(), [np.array(x, np.float32) for x in table["embedding"].to_pylist()], about
    if "hidden" in arrays:
        return names, np.split(arrays["hidden"], arrays["offsets"][1:-1]), about
    return names, list(arrays["embeddings"]), about


@pytest.mark.parametrize("ending", [".npz", ".h5", ".parquet"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "none"])
def test_files_hold_what_the_function_gives(embed, model, ending, pooling):
    code, summary, path, stderr = embed("--pooling", pooling, "--layer", 1, out="e" + ending)
    assert code == 0 and "3 sequences, 42 bases" in stderr
    assert summary["sequences"] == 3 and summary["width"] == 32 and summary["sequences_per_s"] > 0
    names, found, about = read(path)
    assert names == list(SEQUENCES)
    assert about["pooling"] == pooling and about["layer"] == 1 and about["model"] == str(model)
    texts = list(SEQUENCES.values())
    if pooling == "none":
        expected = nucel.embed_positions(model, texts, layer=1)
    else:
        expected = nucel.embed(model, texts, pooling=pooling, layer=1)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not list(path.parent.glob("*.tmp"))


@pytest.mark.parametrize("ending", [".npz", ".h5", ".parquet"])
def test_more_rows_than_one_write_takes(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(export, "_PARQUET_ROWS", 4)
    rows = np.arange(10 * 3, dtype=np.float32).reshape(10, 3)
    lengths = np.array([1, 2, 3, 4], np.int64)
    for each in (None, lengths):
        n = 10 if each is None else 4
        path = tmp_path / f"e{ending}"
        with export.writing(path, export.Contents([str(i) for i in range(n)], 3, each, {})) as sink:
            for part in rows if each is None else np.split(rows, np.cumsum(lengths)[:-1]):
                sink.embedding(part)
        np.testing.assert_array_equal(np.concatenate(read(path)[1], axis=None), rows.ravel())


def test_tables_and_regions_are_embedded_like_their_sequences(embed, tmp_path):
    _, expected, _ = read(embed()[2])
    table = tmp_path / "t.tsv"
    table.write_text("name\tdna\n" + "".join(f"{name}\t{text}\n" for name, text in SEQUENCES.items()))
    names, found, _ = read(embed("--sequence-column", "dna", source=table, out="t.npz")[2])
    assert names == list(SEQUENCES)
    np.testing.assert_array_equal(found, expected)

    genome, bed = tmp_path / "g.fa", tmp_path / "r.bed"
    genome.write_text(">c\nTT" + "TTT".join(SEQUENCES.values()) + "\n")
    starts = np.cumsum([2] + [len(text) + 3 for text in SEQUENCES.values()])[:-1]
    bed.write_text("".join(f"c\t{s}\t{s + len(t)}\n" for s, t in zip(starts, SEQUENCES.values(), strict=True)))
    _, found, _ = read(embed("--genome", genome, source=bed, out="r.npz")[2])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("ending", [".npz", ".h5", ".parquet"])
def test_embeddings_of_regions_keep_their_place(embed, tmp_path, ending):
    """Names may be alike; the coordinates tell which region a vector is of."""
    genome, bed = tmp_path / "g.fa", tmp_path / "r.bed"
    genome.write_text(">chr1\n" + "ACGTTGCA" * 10 + "\n")
    bed.write_text("chr1\t3\t9\tsame\t0\t-\nchr1\t8\t20\tsame\n")
    path = embed("--genome", genome, source=bed, out="r" + ending)[2]
    expected = {"contig": ["chr1"] * 2, "start_bp": ["3", "8"], "end_bp": ["9", "20"], "strand": ["-", "+"]}
    if ending == ".npz":
        found = np.load(path)
        columns = {name: found[name].tolist() for name in expected}
    elif ending == ".h5":
        with pytest.importorskip("h5py").File(path) as file:
            columns = {name: [cell.decode() for cell in file[name][:]] for name in expected}
    else:
        table = pytest.importorskip("pyarrow.parquet").read_table(path)
        columns = {name: table[name].to_pylist() for name in expected}
    assert columns == expected


def test_attention_weights_are_written_on_request(embed, model):
    for ending in (".npz", ".h5"):
        code, _, path, _ = embed("--attention-layers", 1, 0, out="e" + ending)
        assert code == 0
        if ending == ".npz":
            with np.load(path) as file:
                arrays = {name: file[name] for name in file}
        else:
            with pytest.importorskip("h5py").File(path) as file:
                arrays = {name: dataset[()] for name, dataset in file.items()}
        for number, text in enumerate(SEQUENCES.values()):
            expected = nucel.attention_weights(nucel.load(model), text, [0, 1])
            np.testing.assert_array_equal(arrays[f"attention_{number}"], np.stack([expected[1], expected[0]]))


def test_long_sequences_are_refused_or_tiled(embed, tmp_path):
    source = tmp_path / "long.csv"
    source.write_text(f"sequence\n{'ACGT' * 8}\n{'ACGT' * 9}\n")
    code, _, path, stderr = embed("--long", "refuse", source=source)
    assert code == 2 and not path.exists()
    assert "long.csv, line 3: 36 bases are more than the context of 33 tokens holds" in stderr
    assert "--long tile" in stderr
    code, _, _, stderr = embed("--context", 37, source=source)
    assert code == 0 and "tiles" not in stderr
    code, _, _, stderr = embed(source=source)
    assert code == 0 and "1 sequences are longer than the 32 bases of the context and are read in tiles" in stderr
    assert embed("--attention-layers", 0, source=source)[0] == 2
    code, _, _, stderr = embed("--overlap-bp", 32, source=source)
    assert code == 2 and "overlap_bp must be below the 32 bases of a tile, got 32" in stderr


@pytest.mark.parametrize(
    ("arguments", "out", "message"),
    [
        ((), "e.csv", "--out must end with .npz, .parquet, .h5"),
        (("--layer", 9), "e.npz", r"layer must lie in [-3, 2] for an encoder of 2 blocks, got 9"),
        (("--attention-layers", 2), "e.npz", "attention layers must lie in [0, 2), got 2"),
        (("--attention-layers", 0), "e.parquet", "attention weights do not fit a table"),
        (("--device", "abacus"), "e.npz", "--device abacus cannot be used"),
        (("--sequence-column", "x", "--genome", "g.fa"), "e.npz", "--genome is for BED files"),
    ],
)
def test_what_cannot_be_done_leaves_no_file(embed, arguments, out, message):
    code, _, path, stderr = embed(*arguments, out=out)
    assert code == 2 and message in stderr
    assert not path.exists() and not list(path.parent.glob("*.tmp"))


def test_a_failure_half_way_keeps_the_file_that_was_there(embed, monkeypatch):
    _, _, path, _ = embed()
    before = path.read_bytes()
    written = []

    def fail(self, rows):
        written.append(rows)
        if len(written) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(export.Sink, "embedding", property(lambda self: lambda rows: fail(self, rows)))
    code, _, _, stderr = embed()
    assert code == 2 and "No space left on device" in stderr
    assert path.read_bytes() == before and not list(path.parent.glob("*.tmp"))


@pytest.mark.parametrize(("ending", "library"), [(".parquet", "pyarrow"), (".h5", "h5py")])
def test_a_missing_library_is_announced_before_the_work(monkeypatch, ending, library):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"{ending} needs {library}, .*pip install 'nucel\[embed\]'"):
        export.require_format(Path("e" + ending), attention=False)
    export.require_format(Path("e.npz"), attention=True)


def test_the_command_runs_as_a_module_without_a_warning(model, fasta, tmp_path):
    command = [
        sys.executable,
        "-W",
        "error::RuntimeWarning",
        "-m",
        "nucel.embed",
        model,
        fasta,
        "--out",
        tmp_path / "e.npz",
    ]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["sequences"] == 3 and "sequences, " in done.stderr


# ---- the function ----------------------------------------------------------------------------------------------------


def test_text_and_token_ids_embed_alike():
    encoder = tiny_encoder()
    texts = list(SEQUENCES.values())
    by_text = nucel.embed(encoder, texts)
    np.testing.assert_array_equal(by_text, nucel.embed(encoder, [nucleotide.encode(text) for text in texts]))
    assert nucel.embed(encoder, []).shape == (0, 32)


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        (["ACGT", ""], "sequence 2: the sequence is empty"),
        (["ACXT"], "sequence 1: 'X' at position 3 is not a nucleotide code"),
        ([np.array([11, 27])], "sequence 1: token ids must be"),
        ([np.array([], np.uint8)], "sequence 1: token ids must be"),
        ([np.array([[11]])], "sequence 1: token ids must be"),
    ],
)
def test_bad_sequences_are_refused(sequences, message):
    with pytest.raises(InputError, match=message):
        nucel.embed(tiny_encoder(), sequences)


@pytest.mark.parametrize("option", [{"batch_tokens": 0}, {"context": 1}, {"overlap_bp": -1}])
def test_bad_options_are_refused(option):
    with pytest.raises(ConfigError, match=f"{next(iter(option))} must be at least"):
        nucel.embed(tiny_encoder(), ["ACGT"], **option)


@pytest.mark.parametrize("option", ["pooling", "long", "dtype"])
def test_options_of_other_names_are_refused(option):
    with pytest.raises(ConfigError, match=f"{option} must be one of .*, got 'max'"):
        nucel.embed(tiny_encoder(), ["ACGT"], **{option: "max"})


def test_lower_precision_comes_close():
    encoder = tiny_encoder()
    texts = list(SEQUENCES.values())
    exact, rounded = (nucel.embed(encoder, texts, dtype=dtype) for dtype in ("fp32", "bf16"))
    assert rounded.dtype == np.float32 and not np.array_equal(exact, rounded)
    np.testing.assert_allclose(rounded, exact, atol=16 * torch.finfo(torch.bfloat16).eps)


def test_an_encoder_of_unknown_context_takes_any_length():
    assert tiny_encoder().context is None
    assert nucel.embed(tiny_encoder(), ["ACGT" * 500]).shape == (1, 32)


def test_each_function_gives_one_kind_of_result():
    with pytest.raises(ConfigError, match="embed_positions gives one for each base"):
        nucel.embed(tiny_encoder(), ["ACGT"], pooling="none")
    with pytest.raises(ConfigError, match="embed_positions does not pool"):
        nucel.embed_positions(tiny_encoder(), ["ACGT"], pooling="mean")


def test_one_string_is_not_taken_for_a_list_of_bases():
    with pytest.raises(InputError, match="must be a list of sequences, got one string"):
        nucel.embed(tiny_encoder(), "ACGT")
