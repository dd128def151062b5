"""A run explains itself: README.md of a run directory, and in its model folders the cards that the hub shows.

Written from what the directory holds: run.json, metrics.jsonl, summary.json and the model folders' config.json.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from ..runtime import files
from . import directory, log

_FRONT_MATTER = """\
---
library_name: transformers
pipeline_tag: {task}
tags:
- biology
- genomics
- dna
- modernbert
- electra
- nucel
# license: yours to choose, for example apache-2.0
---"""
_EMBED = """\
import torch
from transformers import AutoModel, AutoTokenizer

folder = {folder}  # or the model's name on the hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModel.from_pretrained(folder)
batch = tokenizer("ACGTTGCA", return_tensors="pt")
with torch.no_grad():
    hidden = model(**batch).last_hidden_state  # (1, 9, {width}): [CLS] and a vector for each base"""
_NUCEL = """\
import nucel, torch

encoder = nucel.load({folder})
tokens = torch.tensor([[2, *nucel.encode("ACGTTGCA")]])  # 2 is [CLS]
with torch.no_grad():
    hidden = encoder(tokens)  # (1, 9, {width})"""


class _Head(NamedTuple):
    """What an architecture can do beyond its hidden states."""

    task: str
    """On the hub."""
    role: str
    lines: str


_HEADS = {
    "ModernBertForTokenClassification": _Head(
        "feature-extraction",
        "This discriminator tells at every position whether the base is the original. It is the model to keep.",
        """\
from transformers import AutoModelForTokenClassification

judge = AutoModelForTokenClassification.from_pretrained(folder)
with torch.no_grad():
    logits = judge(**batch).logits  # (1, 9, 2): their softmax is the chance of replaced, original""",
    ),
    "ModernBertForMaskedLM": _Head(
        "fill-mask",
        "This masked language model proposes bases at masked positions.",
        """\
from transformers import AutoModelForMaskedLM

proposer = AutoModelForMaskedLM.from_pretrained(folder)
masked = tokenizer("ACGT[MASK]GCA", return_tensors="pt")
with torch.no_grad():
    logits = proposer(**masked).logits[0, 5, tokenizer.convert_tokens_to_ids(list("ACGT"))]
probabilities = logits.softmax(-1)  # (4,): of A, C, G, T at the masked position""",
    ),
}
_MEANINGS = {
    "generator_loss": "cross-entropy at masked bases, nats; a uniform guess has ln 4 = 1.386",
    "generator_accuracy": "share of masked bases where the likeliest base is right",
    "generator_sampled_accuracy": "share of masked bases where the drawn base is right, and so counts as original",
    "rtd_loss": "cross-entropy of original or replaced, over all positions, nats",
    "rtd_blind": "... of the best constant guess: below it begins what the discriminator knows",
    "rtd_auroc": "chance that a replaced base is ranked below an original one; a blind guess has 0.5",
    "rtd_average_precision": "precision averaged over the replaced bases; a blind guess has replaced_fraction",
    "rtd_recall": "share of the replaced bases that are judged replaced",
    "rtd_precision": "share of the bases judged replaced that are",
    "replaced_fraction": "share of the positions that hold a replaced base",
}
"""Figures of a validation. Accuracy over all positions is not among them: a constant guess already has 0.9."""
_FILES = (
    ("`checkpoints/`", "what a resume needs; `sha256sum -c SHA256SUMS` in one of them tells whether it is intact"),
    ("`run.json`", "recipe, genome, windows, versions and command, for programs; its paths are those of that machine"),
    ("`metrics.jsonl`", "a line of figures for each log interval (`train`) and each validation"),
    ("`summary.json`", "what the trainer printed at its end"),
    ("`loss.png`", "losses, AUROC and throughput; `python -m nucel.plot .` draws them anew"),
    ("`tensorboard/`", "the same figures for TensorBoard, where the run was started with `--track`"),
)


def write(run: Path) -> None:
    """Write RUN/README.md, and a README.md in each of the run's model folders; each is replaced at once.

    Raises:
        CheckpointError: there is no run with a checkpoint, or the files cannot be written.
    """
    with directory.writing(run, "its card"):
        folders = directory.published(run)
        for folder in folders:
            files.write_text(folder / "README.md", _card(run, folder, folder))
        # The first is the discriminator where there is one.
        files.write_text(run / "README.md", _card(run, run, folders[0]))


def _card(run: Path, place: Path, folder: Path) -> str:
    """The card that lies in `place` and says how to load the model folder from there."""
    description = directory.read_description(run)
    lines = log.read_metrics(run)
    head = _HEADS[_config(folder)["architectures"][0]]
    title = run.resolve().name
    files = " and ".join(f"`{Path(file).name}`" for file in description["genome"]["files"])
    parts = [
        _FRONT_MATTER.format(task=head.task),
        f"# {title}" if place == run else f"# {title}: {place.name}",
        f"Pre-trained on {files} by NucEL: a ModernBERT encoder of DNA with one token per base, read by transformers "
        "without custom code.",
        *_use(place, folder, head),
        "## What it was trained on",
        _trained_on(description, lines, directory.newest_step(run), files),
        "## What it reaches",
        *_figures(lines, directory.read_summary(run), description["windows"]["held_out"]),
        "## What it was not evaluated for",
        _limits(description["recipe"]),
        "## Recipe",
        f"```sh\n{_without_folders(description['command'])}\n```",
        "Folders are left out of this command. With `--resume auto`, the same command on the same files continues the "
        "run if it has not come to its end. All settings that decide the result:",
        f"```json\n{json.dumps(description['recipe'], indent=2)}\n```",
    ]
    if place == run:
        names = ", ".join(f"`{path.name}/`" for path in directory.published(run))
        networks = (names, "the newest checkpoint's weights, ready for the hub with a card like this")
        parts += ["## Files", _table(("file", "what it is"), [networks, *_FILES])]
    return "\n\n".join(parts) + "\n"


def _config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def _use(place: Path, folder: Path, head: _Head) -> list[str]:
    """How to load a model folder, for someone who stands in `place`."""
    name = json.dumps("." if place == folder else folder.name)
    values = {"folder": name, "width": _config(folder)["hidden_size"]}
    return [
        "## Use" if place == folder else f"## Use `{folder.name}/`",
        head.role,
        f"```python\n{_EMBED.format(**values)}\n```",
        f"```python\n{head.lines}\n```",
        "The same hidden states by NucEL itself:",
        f"```python\n{_NUCEL.format(**values)}\n```",
    ]


def _trained_on(description: dict[str, Any], lines: list[dict[str, Any]], step: int, files: str) -> str:
    recipe, genome, windows = description["recipe"], description["genome"], description["windows"]
    rates = [line["tokens_per_s"] for line in lines if "tokens_per_s" in line]

    def amount(steps: int) -> str:
        drawn = steps * recipe["batch_size"]
        return f"{steps:,} steps, {drawn * recipe['context']:,} tokens, {drawn / windows['train']:.3g} epochs"

    rows = [
        ("genome", f"{files}: {genome['contigs']:,} contig(s), {genome['length_bp'] / 1e6:,.2f} Mb"),
        ("fingerprint", f"`{genome['fingerprint']}`, SHA-256 of the uncompressed FASTA"),
        ("windows", f"{windows['train']:,} to train on, {windows['held_out']:,} held out"),
        ("batch", f"{recipe['batch_size']:,} windows of {recipe['context']:,} tokens"),
        ("schedule", amount(recipe["steps"])),
        ("these weights", amount(step)),
    ]
    if skipped := sum(line.get("skipped_steps", 0) for line in lines):
        rows.append(("skipped steps", f"{skipped:,}, whose loss or gradient was not finite"))
    if rates:
        rows.append(("speed", f"{median(rates):,.0f} tokens/s"))
    rows.append(("made with", ", ".join(f"{name} {x}" for name, x in description["versions"].items() if x)))
    return _table(("what", ""), rows)


def _figures(lines: list[dict[str, Any]], summary: dict[str, Any], held_out: int) -> list[str]:
    """The newest validation's figures, and the AUROC's interval where the trainer has come to its end since."""
    validations = [line for line in lines if line["split"] == "validation"]
    if not validations:
        return ["There has been no validation yet."]
    newest = validations[-1]
    rows = []
    for name, meaning in _MEANINGS.items():
        if name in newest:
            value = "undefined" if newest[name] is None else f"{newest[name]:.4f}"
            low, high = (summary.get(f"val_{name}_{end}") for end in ("low", "high"))
            if summary.get("step") == newest["step"] and low is not None:
                value += f" (95 % of bootstrapped windows: {low:.4f} to {high:.4f})"
            rows.append((name, value, meaning))
    windows = f"{summary['val_windows']:,} of {held_out:,}" if "val_windows" in summary else "the"
    return [
        f"On {windows} held-out windows, after {newest['step']:,} steps:",
        _table(("figure", "value", "what it means"), rows),
    ]


def _limits(recipe: dict[str, Any]) -> str:
    return "\n".join((
        "- No downstream task: neither regulatory elements nor splice sites, variant effects or anything clinical.",
        "- No other genome. What is held out is from the same genome, and repeats may occur on both sides.",
        f"- No sequence of more than {recipe['context'] - 1:,} bases: none was seen in training.",
        "- A loss can be compared with another run's on the same windows only, and a discriminator's only beside the "
        "same generator, which sets its task.",
    ))  # fmt: skip


def _without_folders(command: str) -> str:
    """A command line without the absolute folders of the machine it was typed on."""
    words = []
    for word in shlex.split(command):
        flag, equals, value = word.rpartition("=")
        words.append(flag + equals + (Path(value).name if Path(value).is_absolute() else value))
    return shlex.join(words)


def _table(head: tuple[str, ...], rows: Any) -> str:
    cells = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
