"""Tracks: what a bigWig holds, and which runs of bases stand out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nucel.interpretation.tracks import AnomalyOptions, Bins, Values, require_bigwig, write_anomalies, write_bigwig
from nucel.runtime.errors import ConfigError

pyBigWig = pytest.importorskip("pyBigWig")

CONTIGS = (("b", 50), ("a", 300), ("c", 7))


def test_a_bigwig_holds_known_values_in_the_contigs_order(tmp_path):
    draws = np.random.default_rng(0)
    values = {name: draws.normal(size=length).astype(np.float32) for name, length in CONTIGS}
    values["a"][[0, 10, 11, 299]] = np.nan
    values["c"][:] = np.nan
    pieces = [Values(name, at, values[name][at : at + 64]) for name, length in CONTIGS for at in range(0, length, 64)]
    write_bigwig(tmp_path / "sub" / "x.bw", CONTIGS, pieces)
    track = pyBigWig.open(str(tmp_path / "sub" / "x.bw"))
    assert list(track.chroms().items()) == [("b", 50), ("a", 300), ("c", 7)] or track.chroms() == dict(CONTIGS)
    for name, length in CONTIGS:
        found = np.array(track.values(name, 0, length), np.float32)
        np.testing.assert_array_equal(found, values[name])
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["x.bw"]


def test_a_bigwig_that_fails_leaves_nothing(tmp_path):
    def pieces():
        yield Values("b", 0, np.ones(3, np.float32))
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        write_bigwig(tmp_path / "x.bw", CONTIGS, pieces())
    assert not list(tmp_path.iterdir())


def test_a_name_that_says_no_bigwig_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"--out must end with \.bw"):
        require_bigwig(tmp_path / "x.wig")


@given(st.integers(1, 400), st.integers(1, 50), st.integers(1, 90), st.data())
def test_bins_do_not_depend_on_the_pieces(length, bin_bp, step, data):
    values = np.random.default_rng(length).normal(size=length).astype(np.float32)
    values[data.draw(st.integers(0, length - 1))] = np.nan
    whole, pieces = Bins([("x", length)], bin_bp), Bins([("x", length)], bin_bp)
    whole.add(Values("x", 0, values))
    for at in range(0, length, step):
        pieces.add(Values("x", at, values[at : at + step]))
    for width in (1, 3):
        np.testing.assert_allclose(whole._smoothed("x", width), pieces._smoothed("x", width), rtol=1e-5, atol=1e-6)
    expected = [values[i : i + bin_bp] for i in range(0, length, bin_bp)]
    known = [np.nan if np.isnan(x).all() else np.nanmean(x.astype(np.float64)) for x in expected]
    np.testing.assert_allclose(whole._smoothed("x", 1), known, rtol=1e-5, atol=1e-6)


def test_a_foreign_stretch_stands_out_and_nothing_else(tmp_path):
    draws = np.random.default_rng(1)
    values = draws.exponential(0.15, 200_000).astype(np.float32)
    values[120_000:121_000] += 0.1
    bins = Bins([("x", 200_000)], 100)
    bins.add(Values("x", 0, values))
    (found,) = bins.anomalies(AnomalyOptions(threshold=6.0))
    assert found.contig == "x" and found.start_bp < 121_000 and found.end_bp > 120_000
    assert 119_500 <= found.start_bp <= 120_500 and 120_500 <= found.end_bp <= 121_500 and found.z > 6
    write_anomalies(tmp_path / "a.bed", [found])
    (line,) = (tmp_path / "a.bed").read_text().splitlines()
    assert line.split("\t")[:4] == ["x", str(found.start_bp), str(found.end_bp), "anomaly_1"]
    assert 600 <= int(line.split("\t")[4]) <= 1000


@pytest.mark.parametrize("value", [np.nan, 0.5])
def test_where_nothing_varies_nothing_stands_out(value):
    bins = Bins(CONTIGS, 10)
    bins.add(Values("a", 0, np.full(300, value, np.float32)))
    assert bins.anomalies(AnomalyOptions()) == []


@pytest.mark.parametrize("options", [{"bin_bp": 0}, {"smooth_bp": 10, "bin_bp": 100}])
def test_bad_bins_are_refused(options):
    with pytest.raises(ConfigError, match="must be at least"):
        AnomalyOptions(**options)
