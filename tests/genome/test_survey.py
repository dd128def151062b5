"""``python -m nucel.genome``: what the survey shows, refuses and leaves alone."""

from __future__ import annotations

import gzip
import os

import pytest
from support.genomes import FASTA, SEQUENCE, random_bases, wrap, write
from support.tiny import save_tiny_model
from support.tiny_run import MODEL

from nucel.embed.__main__ import main as embed_main
from nucel.genome.__main__ import main as survey_main
from nucel.train import main as train_main


def test_the_survey_writes_nothing_beside_the_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    path = write(tmp_path / "data" / "a.fa.gz", gzip.compress(FASTA.encode()))
    for notes in (1, 0):
        assert survey_main([str(path), "--context", "41", "--window-bp", "50", "--overlap-bp", "0"]) == 0
        assert os.listdir(tmp_path / "data") == ["a.fa.gz"]
        assert capsys.readouterr().err.count("decompressing") == notes


@pytest.mark.parametrize("verb", ["genome", "train", "embed"])
def test_copies_are_made_where_it_is_said(verb, tmp_path, monkeypatch):
    """--cache-dir of the verbs that read FASTA: nothing is written beside the data, nor in the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "unused"))
    (tmp_path / "data").mkdir()
    path = write(tmp_path / "data" / "a.fa.gz", gzip.compress(f">c\n{wrap(random_bases(6000))}".encode()))
    cache = ["--cache-dir", str(tmp_path / "cache")]
    if verb == "genome":
        assert survey_main([str(path), "--context", "41", "--window-bp", "50", "--overlap-bp", "0", *cache]) == 0
    elif verb == "train":
        words = [*MODEL, "--steps", "1", "--genome", str(path), "--out", str(tmp_path / "run")]
        assert train_main([*words, *cache]) == 0
    else:
        model = save_tiny_model(tmp_path / "model")
        assert embed_main([str(model), str(path), "--out", str(tmp_path / "v.npz"), *cache]) == 0
    assert os.listdir(tmp_path / "data") == ["a.fa.gz"] and not (tmp_path / "unused" / "nucel").exists()
    assert [name.endswith(".nucel.fa") for name in os.listdir(tmp_path / "cache")] == [True]


def test_the_survey_shows_what_the_sampler_sees(masked, tmp_path, capsys):
    write(tmp_path / "n.fa", f">n\n{'N' * 100}\n>o\n{wrap(SEQUENCE)}")
    paths = [str(tmp_path / "m.fa"), str(tmp_path / "n.fa")]
    options = [
        "--window-bp",
        "50",
        "--overlap-bp",
        "0",
        "--context",
        "41",
        "--batch-size",
        "4",
        "--tokens-per-second",
        "60",
    ]
    assert survey_main([*paths, *options]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert " m.fa 3 1,000 " in text and " n.fa 2 600 " in text
    assert " all 5 1,600 " in text and " 16.67 0.00 10 33.33" in text
    assert "An epoch is 30 rows of 41 tokens" in text and "20.5 s at 60 tokens/s" in text and "7.5 steps of 4" in text
    assert survey_main([*paths, *options, "--by-contig", "--genome-weights", "1", "3", "--contigs", "!a"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert " chr1_alt 1 300 " in text and " 6 12.50" in text and " 10 75.00" in text


def test_the_survey_refuses_with_a_reason(tmp_path, capsys):
    assert survey_main([str(tmp_path / "none.fa")]) == 2
    assert survey_main([]) == 2
    assert survey_main([str(write(tmp_path / "a.fa", FASTA)), "--overlap-bp", "-1"]) == 2
    errors = capsys.readouterr().err
    assert "no such FASTA file" in errors and "at least one FASTA file" in errors and "overlap_bp must lie" in errors


@pytest.mark.parametrize("by_contig", [[], ["--by-contig"]])
def test_the_survey_prints_names_as_they_are(tmp_path, capsys, by_contig):
    """Names that rich would read as a style or as the end of one."""
    path = write(tmp_path / "[red]x[bold].fa", f">[green]c[bold]\n{SEQUENCE}\n>e[/bold]\n{SEQUENCE}\n")
    assert survey_main([str(path), "--context", "41", "--window-bp", "50", "--overlap-bp", "0", *by_contig]) == 0
    text = capsys.readouterr().out
    for name in ["[green]c[bold]", "e[/bold]"] if by_contig else ["[red]x[bold].fa"]:
        assert f" {name} " in text
