"""Barcodes: headers, held-out species, evaluations against scikit-learn's, controls, and the verb."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
from support.barcodes import made_set, write_set
from support.data import DATA, real
from support.stopping import Stopped, counted
from support.tiny import save_tiny_model

from nucel.genome.kmers import kmer_frequencies
from nucel.runtime.errors import ConfigError, InputError
from nucel.suite import main
from nucel.suites import barcode_protocols as protocols
from nucel.suites.barcode_sets import find_sets, held_out_species, read_set
from nucel.suites.barcodes import edit_neighbours

pytest.importorskip("sklearn")
PCA = protocols.ProtocolOptions(reduction="pca", draws=100)


# ---- files -----------------------------------------------------------------------------------------------------------


def test_headers_name_genus_and_species(tmp_path):
    (tmp_path / "a.fa").write_text(">gi1,unknownFamily_Bufo_bufo\nAC-GT\n>gnl|Bufo_bufo_x|7\nacgn\n")
    (tmp_path / "b.fa").write_text(">ref|Hyla_sp.|LA_15 more words\n--ACGT--\n")
    barcodes = read_set("x", tmp_path / "a.fa", tmp_path / "b.fa")
    assert barcodes.species.tolist() == ["Bufo bufo", "Bufo bufo_x", "Hyla sp."]
    assert barcodes.genus.tolist() == ["Bufo", "Bufo", "Hyla"] and barcodes.in_test.tolist() == [False, False, True]
    assert [tokens.tolist() for tokens in barcodes.tokens] == [[11, 12, 13, 14], [11, 12, 13, 1], [11, 12, 13, 14]]
    assert barcodes.sizes()["identical"] == 1 and barcodes.sizes()["other_letters"] == 1
    kept = read_set("x", tmp_path / "a.fa", tmp_path / "b.fa", drop_gaps=False)
    assert [len(tokens) for tokens in kept.tokens] == [5, 4, 8]
    named = read_set("x", tmp_path / "b.fa", tmp_path / "b.fa", header=r"(?P<genus>LA)_(?P<species>\d+)")
    assert named.species.tolist() == ["LA 15"] * 2


def test_bad_headers_and_files_are_refused(tmp_path):
    (tmp_path / "a_train.fa").write_text(">Bufo_bufo\nACGT\n>nothing here\nACGT\n")
    with pytest.raises(InputError, match=r"a_train.fa, record 'nothing here': no genus and species"):
        read_set("a", tmp_path / "a_train.fa", tmp_path / "a_train.fa")
    with pytest.raises(ConfigError, match="has None"):
        find_sets([tmp_path])
    with pytest.raises(ConfigError, match="holds no barcode set"):
        find_sets([tmp_path.parent / tmp_path.name / ".."])
    with pytest.raises(ConfigError, match="not a regular expression"):
        read_set("a", tmp_path / "a_train.fa", tmp_path / "a_train.fa", header="(")
    with pytest.raises(ConfigError, match=r"group\(s\) \(\?P<species>"):
        read_set("a", tmp_path / "a_train.fa", tmp_path / "a_train.fa", header="(?P<genus>.)")
    (tmp_path / "a_train.fa").write_text(">Bufo_bufo\nAC\n>Bufo_viridis\n--\n")
    with pytest.raises(InputError, match="gaps alone"):
        read_set("a", tmp_path / "a_train.fa", tmp_path / "a_train.fa")


TABLE = {
    "drosophila": (499, 116, 19, 1, 1, 19, 645, 663, 17, 3),
    "butterfly": (927, 308, 174, 75, 31, 130, 319, 329, 227, 2),
    "amphibian": (275, 82, 30, 14, 6, 22, 129, 660, 41, 43),
    "cypraeidae": (1656, 352, 211, 48, 32, 195, 614, 614, 81, 214),
    "inga": (786, 122, 63, 1, 1, 63, 1838, 1838, 71, 908),
}
"""As counted when the data were collected, by another program."""


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("marks", [pytest.param((), marks=real("barcodes"))], ids=["real"])
def test_the_given_sets_are_read_whole(name, marks, tmp_path):
    files = find_sets([DATA / "barcodes"])
    assert set(files) == set(TABLE)
    barcodes = read_set(name, *files[name], cache_dir=tmp_path)
    assert tuple(barcodes.sizes().values()) == TABLE[name]
    # Same sequence, same k-mers: the nearest row of an identical one has its sequence, or at least its k-mers.
    nearest = protocols.cosine_neighbours(vectors := kmer_frequencies(barcodes.tokens, (4,)))
    train, test = np.flatnonzero(~barcodes.in_test), np.flatnonzero(barcodes.in_test)
    same = test[barcodes.identical(train, test)]
    np.testing.assert_array_equal(vectors[nearest(train, same)], vectors[same])


# ---- the open world --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_held_out_species_are_absent_from_the_reference(seed):
    barcodes = made_set(genera=5, species=3)
    held = held_out_species(barcodes, seed)
    assert len(held) == 5 and (held_out_species(barcodes, seed) == held).all()
    world = protocols.World.of(barcodes, protocols.ProtocolOptions(split_seed=seed))
    reference, unseen = (set(barcodes.species[rows]) for rows in (world.reference, world.unseen))
    assert unseen == set(held) and not reference & unseen
    assert len(world.reference) + len(world.unseen) == len(barcodes)
    assert set(barcodes.genus[world.unseen]) <= set(barcodes.genus[world.reference])
    assert not set(world.train) & set(world.test) and set(world.test) <= set(world.clustered)


def test_draws_differ_and_one_genus_has_none():
    barcodes = made_set(genera=5, species=3)
    assert len({tuple(held_out_species(barcodes, seed)) for seed in range(6)}) > 1
    assert not len(held_out_species(made_set(genera=1)))
    every = held_out_species(barcodes, 0, share=0.99)
    assert len(every) == 10 and {name.split()[0] for name in barcodes.species} == set(barcodes.genus)


# ---- the evaluations -------------------------------------------------------------------------------------------------


def test_the_nearest_row_is_scikit_learn_s():
    from sklearn.neighbors import KNeighborsClassifier

    rng = np.random.default_rng(0)
    vectors, labels = rng.normal(size=(120, 8)).astype(np.float32), rng.integers(5, size=120)
    reference, queries = np.arange(0, 120, 2), np.arange(1, 120, 2)
    found = labels[protocols.cosine_neighbours(vectors)(reference, queries)]
    peer = KNeighborsClassifier(1, metric="cosine", algorithm="brute").fit(vectors[reference], labels[reference])
    assert (found == peer.predict(vectors[queries])).all()


def test_the_nearest_row_is_the_first_of_equals_and_blind_to_scale():
    vectors = np.array([[1, 2], [2, 4], [3, 6], [1, 0]], np.float32)
    assert protocols.cosine_neighbours(vectors)(np.array([3, 1, 0]), np.array([2])).tolist() == [1]


def test_figures_are_scikit_learn_s():
    from sklearn import metrics

    rng = np.random.default_rng(1)
    true, guess = rng.choice(list("abcd"), 60), rng.choice(list("abcde"), 60)
    found = protocols.classification(true, guess)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(true, guess))
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(true, guess))
    for mean in ("micro", "macro", "weighted"):
        assert found[f"f1_{mean}"] == pytest.approx(metrics.f1_score(true, guess, average=mean))


def test_the_interval_of_an_accuracy_is_the_bootstrap_s():
    right = np.random.default_rng(2).random(80) < 0.7
    low, high = protocols.accuracy_interval(right, 20_000, 0)
    draws = right[np.random.default_rng(3).integers(80, size=(20_000, 80))].mean(1)
    assert (low, high) == pytest.approx(np.percentile(draws, (2.5, 97.5)), abs=0.013)


def test_mutual_information_of_random_labels_is_about_0():
    rng = np.random.default_rng(4)
    true = np.repeat(np.arange(20), 10)
    found = [protocols.mutual_information(true, rng.integers(20, size=200), 10, 0)[0] for _ in range(20)]
    assert abs(np.mean(found)) < 1.5
    value, low, high = protocols.mutual_information(true, (true + 7) % 20, 20, 0)
    assert value == pytest.approx(100) and low <= value <= high


def test_the_probe_learns_what_is_linear_and_is_blind_to_shift_and_scale():
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(4), 40)
    vectors = (np.eye(6)[labels] * 4 + rng.normal(size=(160, 6))).astype(np.float32)
    train, test = np.arange(0, 160, 2), np.arange(1, 160, 2)
    found = protocols.linear_probe(vectors[train], labels[train], vectors[test], 0)
    assert (found == labels[test]).mean() > 0.9
    moved = 3 * vectors + 7
    assert (found == protocols.linear_probe(moved[train], labels[train], moved[test], 0)).all()
    shuffled = rng.permutation(labels)
    chance = protocols.linear_probe(vectors[train], shuffled[train], vectors[test], 0)
    assert (chance == shuffled[test]).mean() < 0.45


def test_controls_find_what_is_identical():
    barcodes = made_set(changes=0)  # all rows of a species have one sequence
    for rows in (
        protocols.evaluate(barcodes, "4-mers", lambda tokens: kmer_frequencies(tokens, (4,)), PCA),
        protocols.by_neighbours(barcodes, "edits", edit_neighbours(barcodes), PCA),
    ):
        (species,) = (row for row in rows if row.evaluation == protocols.SPECIES)  # no row is new
        assert species.rows == protocols.ALL and species.metrics["accuracy"] == 1 and species.low == 1


def test_all_evaluations_are_in_the_rows():
    barcodes = made_set()
    calls = []

    def embed(tokens):
        calls.append(len(tokens))
        return kmer_frequencies(tokens, (4,))

    rows = protocols.evaluate(barcodes, "4-mers", embed, PCA, seeds=(3, 4))
    assert calls == [len(barcodes)]
    evaluations = [(row.evaluation, row.seed) for row in rows if row.rows == protocols.ALL]
    assert evaluations == [
        (protocols.GENUS, 3), (protocols.SPECIES, 3), (protocols.PROBE, 3), (protocols.PROBE, 4), ("clusters, pca", 3)
    ]  # fmt: skip
    by_name = {row.evaluation: row for row in rows if row.rows == protocols.ALL}
    assert by_name[protocols.GENUS].metrics["accuracy"] > 0.9 and by_name["clusters, pca"].metrics["ami"] > 80
    for row in rows:
        assert row.low <= next(iter(row.metrics.values())) <= row.high
    random = protocols.evaluate(barcodes, "noise", lambda t: np.random.default_rng(0).normal(size=(len(t), 9)), PCA)
    assert all(abs(row.metrics["ami"]) < 25 for row in random if "ami" in row.metrics)


@pytest.mark.slow
def test_umap_finds_clusters_too():
    pytest.importorskip("umap")
    vectors = np.eye(5)[np.repeat(np.arange(5), 16)] + np.random.default_rng(0).normal(size=(80, 5)) / 20
    found = protocols.clusters(vectors.astype(np.float32), 5, "umap")
    assert protocols.mutual_information(np.repeat(np.arange(5), 16), found, 10, 0)[0] > 90


# ---- the verb --------------------------------------------------------------------------------------------------------


@pytest.fixture
def call(tmp_path, capsys):
    def run(*words, out="out"):
        try:
            status = main(["barcodes", *map(str, words), "--out", str(tmp_path / out)])
        except SystemExit as ended:  # a flag with a value that is not allowed
            status = int(ended.code or 0)
        captured = capsys.readouterr()
        return status, json.loads(captured.out.splitlines()[-1]) if status == 0 else None, captured.err

    return run


def test_the_verb_writes_a_table_with_its_controls(call, tmp_path):
    folder = write_set(tmp_path / "sets")
    model = save_tiny_model(tmp_path / "model", context=256)
    words = (folder, "--models", f"rtd={model}", "--reduction", "pca", "--draws", "20", "--seeds", "0", "1")
    status, summary, err = call(*words, "--cache-dir", tmp_path / "cache", "--unseen-in-pretraining", "no")
    assert status == 0 and summary["sets"] == 1 and summary["reduction"] == "pca"
    where, following = err.splitlines()[-2:]
    assert where.startswith("The table is ") and following.startswith("Next: ")
    out = tmp_path / "out"
    lines = list(csv.DictReader((out / "table.tsv").read_text().splitlines(), delimiter="\t"))
    assert len(lines) == summary["rows"]
    methods = {line["method"] for line in lines}
    assert methods == {"rtd", "4-mers", "6-mers", "edit distance", "untrained"}
    probes = {(x["method"], x["seed"]) for x in lines if x["evaluation"] == protocols.PROBE}
    assert {("rtd", "1"), ("untrained", "0"), ("untrained", "1")} <= probes
    table = (out / "table.md").read_text()
    assert "| made | 18 | 9 | 9 | 3 (3 with two species or more) | 1 |" in table
    assert "the models have not read the species" in table and "## Clusters, pca" in table
    assert len((out / "made.held_out.txt").read_text().splitlines()) == 3
    held = set((out / "made.held_out.txt").read_text().split("\n")[:-1])
    copy = read_set(
        "copy", out / "made.pretrain.fa", folder / "made_test.fasta", r"(?P<genus>[A-Z]\w+?)_(?P<species>\w+)"
    )
    assert not held & set(copy.species[~copy.in_test]) and len(held | set(copy.species[~copy.in_test])) == 9
    train = read_set("made", folder / "made_train.fasta", folder / "made_test.fasta")
    kept = [i for i in np.flatnonzero(~train.in_test) if train.species[i] not in held]
    assert [one.tolist() for one in copy.tokens[: len(kept)]] == [train.tokens[i].tolist() for i in kept]
    about = json.loads((out / "result.json").read_text())
    assert set(about["weights"]) == {"rtd"} and about["sets"]["made"]["identical"] == 1

    status, _, err = call(folder)
    assert status == 2 and "is not an empty directory" in err


def test_a_stopped_command_goes_on_where_it_was(call, tmp_path, monkeypatch):
    monkeypatch.setattr(protocols, "_EPOCHS", 3)
    folder = write_set(write_set(tmp_path / "sets", "first"), "second")
    model = save_tiny_model(tmp_path / "model", context=256)
    words = (
        folder, "--models", f"rtd={model}", "--reduction", "pca", "--draws", "20", "--seeds", "0", "1",
        "--no-edit-distance",
    )  # fmt: skip
    assert call(*words, out="whole")[0] == 0 and not (tmp_path / "whole.parts").exists()

    def key(one, method, *others):
        return one.name, method, others[-1]

    both = (0, 1)
    methods = [("rtd", both), ("4-mers", both), ("6-mers", both), ("untrained", (0,)), ("untrained", (1,))]
    every = [(name, *method) for name in ("first", "second") for method in methods]
    with monkeypatch.context() as patch:
        seen = counted(patch, "nucel.suites.barcodes.evaluate", key, calls=6)
        with pytest.raises(Stopped):
            call(*words)
    assert seen == every[:6] and not (tmp_path / "out").exists()

    for other in (("--draws", "30"), ("--seeds", "0", "2"), ("--unseen-share", "0.5")):  # other settings
        status, _, err = call(*words, *other)
        assert status == 2 and "out.parts is of another suite barcodes" in re.sub(r"\s+", " ", err)
    other = save_tiny_model(tmp_path / "other", context=256, seed=1)
    assert call(folder, "--models", f"rtd={other}", *words[3:])[0] == 2
    text = (folder / "second_test.fasta").read_text()
    (folder / "second_test.fasta").write_text(text.replace("species1", "species2"))
    assert call(*words)[0] == 2
    (folder / "second_test.fasta").write_text(text)

    seen = counted(monkeypatch, "nucel.suites.barcodes.evaluate", key)
    assert call(*words, "--unseen-in-pretraining", "no")[0] == 0 and seen == every[6:]
    assert (tmp_path / "out" / "table.tsv").read_bytes() == (tmp_path / "whole" / "table.tsv").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"sets", "model", "other", "whole", "out"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--models", "4-mers=x"), "names of --models must differ"),
        (("--models", "rtd=nowhere"), "nowhere"),
        (("--sets", "none"), "no set is named none"),
        (("--pooling", "none"), "a barcode needs one vector"),
        (("--header", "(?P<genus>x)(?P<species>y)"), "no genus and species by the pattern"),
        (("--unseen-share", "1"), "unseen_share must lie between 0 and 1"),
    ],
)
def test_what_cannot_work_is_refused_and_leaves_nothing(call, tmp_path, words, message):
    status, _, err = call(write_set(tmp_path / "sets"), *words)
    assert status == 2 and message in re.sub(r"\s+", " ", err) and not list(tmp_path.glob("out*"))
