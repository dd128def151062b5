"""DNA barcodes with their species: FASTA files whose headers name them, and species that are held out.

A barcode is a stretch of one gene, read from many specimens, that tells species apart. A set is two files,
NAME_train.fasta and NAME_test.fasta (also .fa, .fas and .gz). Both hold the same species: a closed world. In the open
world, some species are held out whole, while others of their genus stay.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..genome.fasta import Genome
from ..runtime.errors import ConfigError, InputError
from ..tokenizers import nucleotide

HEADER = r"(?:^|[|_,])(?P<genus>[A-Z][a-z]+)_(?P<species>[^|]+)"
"""Reads `gi1,unknownFamily_Bufo_bufo`, `gnl|Drosophila_simulans|17` and `ref|Inga_edulis|LA_15`."""
_FILE = re.compile(r"(?P<name>.+)_(?P<part>train|test)\.(?:fasta|fas|fa|fna)(?:\.gz)?")


@dataclass(frozen=True, eq=False)
class BarcodeSet:
    """The n barcodes of a train and a test file, one after the other.

    Attributes:
        name: of the set.
        tokens: n arrays uint8 (length,), without [CLS].
        genus, species: n names each; a species' name holds its genus: "Bufo bufo".
        in_test: bool (n,), which rows are of the test file.
    """

    name: str
    tokens: list[np.ndarray]
    genus: np.ndarray
    species: np.ndarray
    in_test: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal over the rows, their species and their file."""
        digest = hashlib.sha256()
        for tokens, species, in_test in zip(self.tokens, self.species, self.in_test, strict=True):
            digest.update(tokens.tobytes() + f"\t{species}\t{int(in_test)}\n".encode())
        return digest.hexdigest()

    def sizes(self) -> dict[str, int]:
        """Rows, species, genera, genera of two species or more and the species in them, and what train and test share.

        `other_letters` counts rows that hold a letter besides A, C, G, T.
        """
        genera = [name.partition(" ")[0] for name in np.unique(self.species)]
        names, counts = np.unique(genera, return_counts=True)
        train, test = np.flatnonzero(~self.in_test), np.flatnonzero(self.in_test)
        return {
            "train": len(train),
            "test": len(test),
            "species": len(genera),
            "genera": len(names),
            "genera_of_two": int((counts > 1).sum()),
            "species_in_these": int(counts[counts > 1].sum()),
            "shortest_bp": min(map(len, self.tokens)),
            "longest_bp": max(map(len, self.tokens)),
            "identical": int(self.identical(train, test).sum()),
            "other_letters": sum(bool((tokens == nucleotide.UNK).any()) for tokens in self.tokens),
        }

    def identical(self, reference: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Which of these rows have the sequence of a row of the reference, bool (rows,)."""
        known = {self.tokens[i].tobytes() for i in reference.tolist()}
        return np.array([self.tokens[i].tobytes() in known for i in rows.tolist()], bool)


def find_sets(folders: Sequence[Path]) -> dict[str, tuple[Path, Path]]:
    """The train and the test file of every set in these folders, by name, in alphabetical order.

    Raises:
        ConfigError: no set, a set of one file, or two of one name.
    """
    parts: dict[str, dict[str, list[Path]]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is not a folder of barcode sets")
        for path in sorted(folder.iterdir()):
            if match := _FILE.fullmatch(path.name):
                parts.setdefault(match["name"], {}).setdefault(match["part"], []).append(path)
    for name, files in parts.items():
        for part in ("train", "test"):
            if len(files.get(part, [])) != 1:
                raise ConfigError(f"barcode set {name} must have one file {name}_{part}.fasta, has {files.get(part)}")
    if not parts:
        where = ", ".join(map(str, folders))
        raise ConfigError(f"{where} holds no barcode set, which is NAME_train.fasta and NAME_test.fasta (.gz)")
    return {name: (files["train"][0], files["test"][0]) for name, files in sorted(parts.items())}


def read_set(
    name: str, train: Path, test: Path, header: str = HEADER, drop_gaps: bool = True, cache_dir: Path | None = None
) -> BarcodeSet:
    """Read a set.

    Args:
        header: regular expression with the groups genus and species, searched in each record's header.
        drop_gaps: remove `-`, which an alignment has put in; otherwise it is read as [UNK].
        cache_dir: for the decompressed copies of .gz files; by default the user's cache.

    Raises:
        InputError: a header that does not fit, or a record of gaps alone; the file and the record are named.
        ConfigError: the expression is not one, or lacks a group.
        GenomeError, OSError: a file that is not a FASTA, or that cannot be read.
    """
    pattern = _compiled(header)
    tokens: list[np.ndarray] = []
    genera: list[str] = []
    species: list[str] = []
    in_test: list[bool] = []
    for path in (train, test):
        genome = Genome(path, cache_dir, copy_beside=False, distinct_names=False)
        for i, (contig, more) in enumerate(zip(genome.contigs, genome.descriptions, strict=True)):
            text = f"{contig} {more}".rstrip()
            match = pattern.search(text)
            if match is None or not match["genus"] or not match["species"]:
                raise InputError(f"{path}, record '{text}': no genus and species by the pattern {header!r} (--header)")
            letters = genome.letters(i)
            kept = letters[letters != ord("-")] if drop_gaps else letters
            if not len(kept):
                raise InputError(f"{path}, record '{text}': the sequence is empty, or holds gaps alone")
            tokens.append(nucleotide.ENCODE[kept])
            genera.append(match["genus"])
            species.append(f"{match['genus']} {match['species']}")
            in_test.append(path == test)
    return BarcodeSet(name, tokens, np.array(genera), np.array(species), np.array(in_test))


def _compiled(header: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(header)
    except re.error as error:
        raise ConfigError(f"--header {header!r} is not a regular expression: {error}") from None
    if missing := {"genus", "species"} - pattern.groupindex.keys():
        raise ConfigError(f"--header must have the group(s) {', '.join(f'(?P<{n}>...)' for n in sorted(missing))}")
    return pattern


def held_out_species(barcodes: BarcodeSet, seed: int = 0, share: float = 1 / 3) -> np.ndarray:
    """Species that are held out whole, sorted; none where there is but one genus, whose name needs no guess.

    A share of the species whose genus has two or more is drawn; a genus keeps one at least, so that it can be found.
    """
    names = np.unique(barcodes.species)
    genus = np.array([name.partition(" ")[0] for name in names])
    left = dict(zip(*np.unique(genus, return_counts=True), strict=True))
    if len(left) < 2:
        return names[:0]
    candidates = [i for i in range(len(names)) if left[genus[i]] > 1]
    wanted = round(share * len(candidates))
    chosen: list[int] = []
    for i in np.random.default_rng(seed).permutation(candidates).tolist():
        if len(chosen) < wanted and left[genus[i]] > 1:
            left[genus[i]] -= 1
            chosen.append(i)
    return names[np.sort(np.array(chosen, np.int64))]


def pretraining_fasta(barcodes: BarcodeSet, held_out: np.ndarray) -> str:
    """FASTA of the training rows of all species that are not held out: what pre-training may read.

    Records are named by species and row, so that no two names are equal; [UNK] is written as N.
    """
    rows = np.flatnonzero(~barcodes.in_test & ~np.isin(barcodes.species, held_out))
    names = [f"{barcodes.species[i].replace(' ', '_')}|{i}" for i in rows.tolist()]
    texts = [nucleotide.decode(barcodes.tokens[i]) for i in rows.tolist()]
    return "".join(f">{name}\n{text}\n" for name, text in zip(names, texts, strict=True))
