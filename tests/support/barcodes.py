"""Small sets of DNA barcodes, made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nucel.suites.barcode_sets import BarcodeSet
from nucel.tokenizers import nucleotide


def made_set(genera: int = 4, species: int = 3, rows: int = 6, seed: int = 0, changes: int = 2) -> BarcodeSet:
    """Genera are random; species differ from their genus in a tenth of the bases, rows from it in some bases."""
    rng = np.random.default_rng(seed)
    bases = np.array([11, 12, 13, 14], np.uint8)

    def changed(tokens: np.ndarray, number: int) -> np.ndarray:
        copy = tokens.copy()
        copy[rng.choice(len(tokens), number, replace=False)] = rng.choice(bases, number)
        return copy

    tokens, genus, name, in_test = [], [], [], []
    for g in range(genera):
        ancestor = rng.choice(bases, 200)
        for s in range(species):
            kind = changed(ancestor, 20)
            for row in range(rows):
                tokens.append(changed(kind, changes))
                genus.append(f"Genus{g}")
                name.append(f"Genus{g} species{s}")
                in_test.append(row % 3 == 2)
    order = np.argsort(in_test, kind="stable")
    arrays = (np.array(x)[order] for x in (genus, name, in_test))
    return BarcodeSet("made", [tokens[i] for i in order], *arrays)


def write_set(folder: Path, name: str = "made") -> Path:
    """A set on disk, with gaps in its alignment, and a test row that is a training row."""
    folder.mkdir(parents=True, exist_ok=True)
    barcodes = made_set(rows=3, genera=3)
    genera = {"Genus0": "Abra", "Genus1": "Bufo", "Genus2": "Cypraea"}
    for part, rows in (("train", np.flatnonzero(~barcodes.in_test)), ("test", np.flatnonzero(barcodes.in_test))):
        text = ""
        for i in rows:
            genus, species = barcodes.species[i].split(" ")
            bases = nucleotide.decode(barcodes.tokens[0 if i == rows[0] else i])
            text += f">x|{genera[genus]}_{species}|{i}\n--{bases[:50]}-{bases[50:]}\n"
        (folder / f"{name}_{part}.fasta").write_text(text)
    return folder
