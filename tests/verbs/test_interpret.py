"""``python -m nucel.interpret``: its files hold what the function gives, pictures what the files hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.genomes import random_bases, wrap, write
from support.pair import save_pair, tiny_pair
from support.tiny import tiny_classifier

import nucel
from nucel import interpret
from nucel.genome.fasta import Genome
from nucel.interpretation import logo as logo_module
from nucel.interpretation.attribution import METHODS
from nucel.interpretation.attribution_files import read_maps
from nucel.model import hub
from nucel.tokenizers import nucleotide

FIRST = nucleotide.BASES[0]
TEXTS = {"one": random_bases(40, 1), "two": random_bases(20, 2) + "N" + random_bases(9, 3)}


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory) -> Path:
    return save_pair(tmp_path_factory.mktemp("run") / "run", tiny_pair())


@pytest.fixture
def fasta(tmp_path) -> Path:
    return write(tmp_path / "s.fa", "".join(f">{name}\n{text}\n" for name, text in TEXTS.items()))


@pytest.fixture
def call(capsys):
    """Runs a sub-command; returns the exit status, the summary or None, and stderr."""

    def run(*words):
        status = interpret.main([str(word) for word in words])
        captured = capsys.readouterr()
        return status, json.loads(captured.out.splitlines()[-1]) if status == 0 else None, captured.err

    return run


def assert_same(one, other):
    """Up to the rounding of products of other shapes."""
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("ending", [".npz", ".h5"])
@pytest.mark.parametrize("method", METHODS)
def test_arrays_are_what_the_function_gives(call, run_directory, fasta, tmp_path, method, ending):
    if ending == ".h5":
        pytest.importorskip("h5py")
    out = tmp_path / f"maps{ending}"
    status, summary, _ = call("attribution", run_directory, fasta, "--method", method, "--out", out)
    assert status == 0 and summary["sequences"] == 2 and summary["bases"] == 70
    maps = read_maps(out)
    expected = nucel.attribute(run_directory, list(TEXTS.values()), method)
    assert maps.names == list(TEXTS) and [nucleotide.decode(t) for t in maps.tokens] == list(TEXTS.values())
    for values, one in zip(maps.values, expected, strict=True):
        assert_same(values, one.values)
    assert maps.about["method"] == [method] and len(maps.about["fingerprint"]) == 64
    if ending == ".npz":
        found = np.load(out)
        for name in ("hypothetical", "probabilities"):
            assert (name in found) == (getattr(expected[0], name) is not None)
            if name in found:
                assert_same(found[name], np.concatenate([getattr(one, name) for one in expected]))
        assert ("dependency_1" in found) == (method == "dependency")


def test_a_table_has_a_row_for_each_base(call, run_directory, fasta, tmp_path):
    out = tmp_path / "maps.tsv"
    assert call("attribution", run_directory, fasta, "--method", "surprise", "--out", out)[0] == 0
    header, *rows = [line.split("\t") for line in out.read_text().splitlines()]
    assert header == ["name", "position", "base", "value"]
    assert [row[0] for row in rows] == ["one"] * 40 + ["two"] * 30
    assert [int(row[1]) for row in rows] == [*range(40), *range(30)]
    assert "".join(row[2] for row in rows) == "".join(TEXTS.values())
    expected = np.concatenate([m.values for m in nucel.attribute(run_directory, list(TEXTS.values()), "surprise")])
    assert_same([float(row[3]) for row in rows], expected)
    about = json.loads((tmp_path / "maps.tsv.about.json").read_text())
    assert about["method"] == ["surprise"] and about["versions"]["torch"]


def test_a_track_has_the_values_at_their_places(call, run_directory, tmp_path):
    """Regions of both strands, out of order; contigs in the genome's order."""
    track = pytest.importorskip("pyBigWig")
    genome = write(tmp_path / "g.fa", f">b\n{wrap(random_bases(200, 1))}>a\n{wrap(random_bases(100, 2))}")
    bed = write(tmp_path / "r.bed", "a\t10\t40\tx\t0\t-\nb\t150\t180\ty\t0\t+\nb\t20\t50\tz\t0\t+\n")
    out = tmp_path / "x.bw"
    words = ("attribution", run_directory, bed, "--genome", genome, "--method", "surprise", "--out", out)
    assert call(*words)[0] == 0
    opened, bases = track.open(str(out)), Genome(genome)
    assert list(opened.chroms()) == ["b", "a"]
    for contig, start, end in [("a", 10, 40), ("b", 150, 180), ("b", 20, 50)]:
        (one,) = nucel.attribute(run_directory, [bases.fetch(contig, start, end)], "surprise")
        assert_same(opened.values(contig, start, end), one.values)
    assert np.isnan(opened.values("b", 50, 150)).all() and np.isnan(opened.values("a", 0, 10)).all()
    write(bed, "b\t20\t50\nb\t49\t60\n")
    status, _, stderr = call(*words[:-1], tmp_path / "y.bw")
    assert status == 2 and "line 1 and line 2: the regions overlap" in stderr and not (tmp_path / "y.bw").exists()


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
def test_letters_are_as_high_as_the_values(call, run_directory, fasta, tmp_path, monkeypatch, ending):
    logomaker = pytest.importorskip("logomaker")
    drawn = []
    original = logomaker.Logo
    monkeypatch.setattr(logomaker, "Logo", lambda *a, **k: drawn.append(original(*a, **k)) or drawn[-1])
    monkeypatch.setattr(logo_module, "ROW_BP", 25)
    status, summary, _ = call("attribution", run_directory, fasta, "--method", "gradient", "entropy", "--out",
                              tmp_path / f"logo{ending}")  # fmt: skip
    assert status == 0 and len(drawn) == 2 * (2 + 2)
    pictures = [Path(path) for path in summary["files"][:2]]
    assert all(path.stat().st_size > 1000 for path in pictures) and pictures[0].suffix == ending
    text = TEXTS["one"]
    (values, _, _, _), (_, _, p, _) = (nucel.attribute(run_directory, [text], m)[0] for m in ("gradient", "entropy"))
    information = np.log(4) + (p * np.log(p)).sum(1)
    for i in range(len(text)):
        gradient, entropy = drawn[2 * (i // 25)], drawn[2 * (i // 25) + 1]
        glyph = gradient.glyph_df.loc[i, text[i]]
        height, above = glyph.ceiling - glyph.floor, glyph.ceiling > 0
        assert_same(height if above else -height, values[i])
        heights = [g.ceiling - g.floor for g in (entropy.glyph_df.loc[i, letter] for letter in "ACGT")]
        assert_same(heights, p[i] * information[i])


def test_layout_of_modisco(call, run_directory, fasta, tmp_path):
    even = write(tmp_path / "even.fa", f">a\n{random_bases(30, 1)}\n>b\n{random_bases(29, 2)}N\n")
    words = ("attribution", run_directory, even, "--method", "ism", "--modisco", "--out", tmp_path / "m.npz")
    assert call(*words)[0] == 0
    onehot, hypothetical = (np.load(tmp_path / f"m.{name}.npz")["arr_0"] for name in ("onehot", "hypothetical"))
    assert onehot.shape == hypothetical.shape == (2, 4, 30)
    maps = read_maps(tmp_path / "m.npz")
    assert (onehot.sum(1) == np.isfinite(np.stack(maps.values))).all()
    np.testing.assert_allclose((onehot * hypothetical).sum(1), np.nan_to_num(np.stack(maps.values)), atol=1e-7)
    status, _, stderr = call("attribution", run_directory, fasta, "--modisco", "--out", tmp_path / "n.npz")
    assert status == 2 and "sequences of one length" in stderr


def test_a_fine_tuned_model_and_a_generator(call, run_directory, fasta, tmp_path):
    classifier = tiny_classifier(("no", "yes"), pooling="mean", linear=False)
    (tmp_path / "tuned").mkdir()
    hub.save(classifier, tmp_path / "tuned" / "model")
    out = tmp_path / "m.npz"
    words = ("attribution", tmp_path / "tuned", fasta, "--out", out)
    assert call(*words, "--method", "ism", "--target", "class:no")[0] == 0
    expected = nucel.attribute(classifier, list(TEXTS.values()), "ism", target="class:0")
    for values, one in zip(read_maps(out).values, expected, strict=True):
        assert_same(values, one.values)
    status, _, stderr = call(*words, "--method", "entropy_gradient")
    assert status == 2 and "entropy needs a generator" in stderr
    assert call(*words, "--method", "entropy_gradient", "--generator", run_directory)[0] == 0
    assert np.isfinite(read_maps(out).values[0]).all()


def test_agreement_is_scipys(call, run_directory, fasta, tmp_path):
    stats = pytest.importorskip("scipy.stats")
    for method in ("gradient", "ism"):
        assert (
            call("attribution", run_directory, fasta, "--method", method, "--out", tmp_path / f"{method}.npz")[0] == 0
        )
    one, other = tmp_path / "gradient.npz", tmp_path / "ism.npz"
    status, summary, _ = call("agreement", one, other, "--out", tmp_path / "a.tsv", "--plot", tmp_path / "a.png")
    assert status == 0 and (tmp_path / "a.png").exists()
    rows = [line.split("\t") for line in (tmp_path / "a.tsv").read_text().splitlines()[1:]]
    for row, x, y in zip(rows, read_maps(one).values, read_maps(other).values, strict=True):
        known = np.isfinite(x)
        expected = stats.pearsonr(x[known], y[known])[0], stats.spearmanr(x[known], y[known])[0]
        np.testing.assert_allclose([float(cell) for cell in row[1:]], expected, atol=2e-6)
    assert summary["pearson"] == pytest.approx(np.mean([float(row[1]) for row in rows]), abs=1e-6)
    status, summary, _ = call("agreement", one, one, "--out", tmp_path / "b.tsv")
    assert summary["pearson"] == pytest.approx(1) and summary["spearman"] == pytest.approx(1)


def test_what_cannot_be_written_is_refused_before_anything_is_read(call, tmp_path):
    for words, message in [
        (("--out", "x.csv"), "--out must end with .npz, .h5, .tsv"),
        (("--out", "x.npz", "--method", "ism", "gradient"), "holds one method; several are for pictures"),
        (("--out", "x.bw"), "give a BED file with --genome"),
    ]:
        status, _, stderr = call("attribution", tmp_path / "nothing", tmp_path / "nothing.fa", *words)
        assert status == 2 and message in " ".join(stderr.split())
    with pytest.raises(nucel.ConfigError, match="a method is given twice: ism, ism"):
        interpret.AttributionConfig(model=tmp_path, input=tmp_path, out=tmp_path, method=("ism", "ism"))
    write(tmp_path / "x.npz", "nothing")
    status, _, stderr = call("agreement", tmp_path / "x.npz", tmp_path / "x.npz", "--out", tmp_path / "a.tsv")
    assert status == 2 and "is not a file of attributions" in stderr
