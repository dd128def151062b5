"""Attributions as files: .npz, .h5, .tsv, .bw (bigWig) and pictures.

.npz and .h5 hold names (n), offsets (n + 1), tokens uint8 (bases), values float32 (bases): sequence i has rows
offsets[i]:offsets[i + 1]. Where the method gives them also hypothetical or probabilities (bases, 4), and dependency_0,
dependency_1, ... (L, L). Regions of a BED file also have contig, start_bp, end_bp and strand. How they were made is
JSON text: the array or attribute `about`. Other files have it beside them, in FILE.about.json.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..genome.fasta import Genome
from ..genome.sequences import REGION_COLUMNS, Sequences
from ..runtime import files
from ..runtime.errors import ConfigError, InputError
from ..tokenizers import nucleotide
from .attribution import Attribution
from .tracks import Values, require_bigwig, write_bigwig

PICTURES = (".png", ".svg", ".pdf")
TRACKS = (".bw", ".bigwig", ".bigWig")
_LIBRARIES = {".h5": ("h5py", "embed"), **dict.fromkeys(PICTURES, ("logomaker", "plots"))}


def require_format(path: Path, methods: Sequence[str], input_file: Path) -> None:
    """Refuse at once a name that says no format, or one that cannot be written here.

    Raises:
        ConfigError: says what is missing.
    """
    known = (".npz", ".h5", ".tsv", *TRACKS, *PICTURES)
    if path.suffix not in known:
        raise ConfigError(f"--out must end with {', '.join(known)}, got {path}")
    if path.suffix in _LIBRARIES:
        library, extra = _LIBRARIES[path.suffix]
        if importlib.util.find_spec(library) is None:
            raise ConfigError(f"{path.suffix} needs {library}, which is not installed: pip install 'nucel[{extra}]'")
    if path.suffix in TRACKS:
        require_bigwig(path)
        if not input_file.name.removesuffix(".gz").endswith(".bed"):
            raise ConfigError(f"a bigWig has places in a genome: give a BED file with --genome, got {input_file}")
    if path.suffix not in PICTURES and len(methods) > 1:
        raise ConfigError(f"{path.suffix} holds one method; several are for pictures ({', '.join(PICTURES)})")


class Maps(NamedTuple):
    """The maps in a file."""

    names: list[str]
    tokens: list[np.ndarray]
    values: list[np.ndarray]
    about: dict[str, Any]


def arrays(sequences: Sequences, maps: Sequence[Attribution]) -> dict[str, np.ndarray]:
    """What .npz and .h5 hold, by name, but for `about`."""
    lengths = [len(tokens) for tokens in sequences.tokens]
    found = {
        "names": np.array(sequences.names, dtype=np.str_),
        "offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "tokens": np.concatenate(sequences.tokens),
        "values": np.concatenate([one.values for one in maps]),
    }
    for name in ("hypothetical", "probabilities"):
        tables = [table for one in maps if (table := getattr(one, name)) is not None]
        if tables:
            found[name] = np.concatenate(tables)
    found |= {f"dependency_{i}": one.dependency for i, one in enumerate(maps) if one.dependency is not None}
    if sequences.is_regions:
        found |= {name: np.array(sequences.columns[name], dtype=np.str_) for name in REGION_COLUMNS[:4]}
    return found


def write_arrays(path: Path, found: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    """Write arrays as .npz or .h5, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(about)
    with files.replacing(path) as temporary:
        if path.suffix == ".npz":
            with open(temporary, "wb") as stream:
                np.savez_compressed(stream, about=np.array(text), **found)  # type: ignore[arg-type]
            return
        import h5py  # optional dependency

        with h5py.File(temporary, "w") as file:
            file.attrs["about"] = text
            for name, array in found.items():
                if array.dtype.kind == "U":
                    file.create_dataset(name, data=array.astype(object), dtype=h5py.string_dtype())
                else:
                    file.create_dataset(name, data=array)


def require_modisco(sequences: Sequences, methods: Sequence[str]) -> None:
    """Refuse what TF-MoDISco's layout does not hold.

    Raises:
        ConfigError: sequences of several lengths, or a method without hypothetical contributions.
    """
    if len({len(tokens) for tokens in sequences.tokens}) > 1:
        raise ConfigError("--modisco needs sequences of one length")
    if not set(methods) <= {"gradient", "ism"}:
        raise ConfigError("--modisco needs hypothetical contributions, which the methods gradient and ism give")


def write_modisco(path: Path, sequences: Sequences, maps: Sequence[Attribution]) -> tuple[Path, Path]:
    """Write what TF-MoDISco and tangermeme read: (n, 4, L) one-hot bases, and hypothetical contributions.

    They become the array arr_0 of NAME.onehot.npz and NAME.hypothetical.npz; unknown bases are zeros.
    """
    onehot = np.stack(sequences.tokens)[:, None] == np.array(nucleotide.BASES)[:, None]
    hypothetical = np.stack([one.hypothetical.T for one in maps if one.hypothetical is not None])
    stem = path.with_suffix("")
    named = (stem.with_name(stem.name + ".onehot.npz"), stem.with_name(stem.name + ".hypothetical.npz"))
    path.parent.mkdir(parents=True, exist_ok=True)
    for target, array in zip(named, (onehot.astype(np.float32), np.nan_to_num(hypothetical)), strict=True):
        with files.replacing(target) as temporary, open(temporary, "wb") as stream:
            np.savez_compressed(stream, array)
    return named


def write_table(path: Path, sequences: Sequences, maps: Sequence[Attribution]) -> None:
    """Write name, position (from 0), base and value of every base as TSV; values of unknown bases are nan."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write("name\tposition\tbase\tvalue\n")
        for name, tokens, one in zip(sequences.names, sequences.tokens, maps, strict=True):
            for i, (letter, value) in enumerate(zip(nucleotide.decode(tokens), one.values.tolist(), strict=True)):
                file.write(f"{name}\t{i}\t{letter}\t{value:.7g}\n")


def write_regions(path: Path, genome: Path, sequences: Sequences, maps: Sequence[Attribution]) -> None:
    """Write the values of a BED file's regions as bigWig, in the order of the genome's contigs.

    Raises:
        InputError: two regions overlap, so that a base would have two values.
    """
    opened = Genome(genome)
    number = {name: i for i, name in enumerate(opened.contigs)}
    columns = [sequences.columns[name] for name in ("contig", "start_bp", "end_bp", "strand")]
    rows = sorted(
        (number[contig], int(start), int(end), strand, i)
        for i, (contig, start, end, strand) in enumerate(zip(*columns, strict=True))
    )
    for before, after in itertools.pairwise(rows):
        if before[0] == after[0] and after[1] < before[2]:
            raise InputError(
                f"{sequences.source}, {sequences.where[before[4]]} and {sequences.where[after[4]]}: the regions "
                f"overlap, so that a base would have two values in {path}"
            )
    pieces = (
        Values(opened.contigs[contig], start, maps[i].values[::-1] if strand == "-" else maps[i].values)
        for contig, start, _, strand, i in rows
    )
    contigs = [(name, int(length)) for name, length in zip(opened.contigs, opened.lengths, strict=True) if length]
    write_bigwig(path, contigs, pieces)


def read_maps(path: Path) -> Maps:
    """The maps of a .npz or .h5 that `interpret attribution` has written.

    Raises:
        InputError: it is not such a file.
        OSError: it cannot be read.
    """
    wanted = ("names", "offsets", "tokens", "values")
    try:
        if path.suffix == ".h5":
            import h5py  # optional dependency

            with h5py.File(path) as file:
                found: dict[str, Any] = {name: file[name][:] for name in wanted}
                found["names"] = [name.decode() for name in found["names"]]
                about = json.loads(file.attrs["about"])
        else:
            with np.load(path, allow_pickle=False) as archive:
                found = {name: archive[name] for name in wanted}
                about = json.loads(str(archive["about"]))
    except FileNotFoundError:
        raise
    except (KeyError, ValueError, OSError, EOFError) as error:
        raise InputError(f"{path} is not a file of attributions (.npz or .h5): {error}") from None
    cuts = found["offsets"][1:-1]
    tokens, values = np.split(found["tokens"], cuts), np.split(found["values"], cuts)
    return Maps([str(name) for name in found["names"]], tokens, values, about)
