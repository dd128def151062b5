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
from . import log
from .description import RunDescription
from .directory import RunDirectory

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
import nucel

encoder = nucel.load({folder})
vectors = nucel.embed(encoder, ["ACGTTGCA"])  # (1, {width}): for each sequence, the mean of its bases' vectors"""


class _Head(NamedTuple):
    """What an architecture can do beyond its hidden states."""

    task: str
    """Its name on the hub."""
    role: str
    lines: str | None
    """Python that calls its head, if there is one."""
    pipelines: tuple[str, ...]
    """What transformers' pipelines make of it: lines of Python, each with a comment."""


_HEADS = {
    "ModernBertForTokenClassification": _Head(
        "feature-extraction",
        "This discriminator tells at every position whether the base is the original. It is the model to keep.",
        """\
from transformers import AutoModelForTokenClassification

discriminator = AutoModelForTokenClassification.from_pretrained(folder)
with torch.no_grad():
    logits = discriminator(**batch).logits  # (1, 9, 2): their softmax is the chance of replaced, original""",
        (
            'pipeline("token-classification", {folder}, ignore_labels=[])("ACGTTGCA")  # replaced or original',
            'pipeline("feature-extraction", {folder})("ACGTTGCA")  # hidden states',
        ),
    ),
    "ModernBertForMaskedLM": _Head(
        "fill-mask",
        "This masked language model proposes bases at masked positions.",
        """\
from transformers import AutoModelForMaskedLM

masked_lm = AutoModelForMaskedLM.from_pretrained(folder)
masked = tokenizer("ACGT[MASK]GCA", return_tensors="pt")
with torch.no_grad():
    logits = masked_lm(**masked).logits[0, 5, tokenizer.convert_tokens_to_ids(list("ACGT"))]
probabilities = logits.softmax(-1)  # (4,): of A, C, G, T at the masked position""",
        (
            'pipeline("fill-mask", {folder})("ACGT[MASK]GCA", targets=list("ACGT"))  # the bases by their probability',
            'pipeline("feature-extraction", {folder})("ACGTTGCA")  # hidden states',
        ),
    ),
    "ModernBertModel": _Head(
        "feature-extraction",
        "This encoder was trained with a decoder that rebuilt masked bases. It has no head, and gives hidden states.",
        None,
        ('pipeline("feature-extraction", {folder})("ACGTTGCA")  # hidden states',),
    ),
}
_MEANINGS = {
    "generator_loss": "cross-entropy at masked bases, nats; a uniform guess has ln 4 = 1.386",
    "generator_accuracy": "share of masked bases where the likeliest base is right",
    "generator_sampled_accuracy": "share of masked bases where the drawn base is right, and so counts as original",
    "rtd_loss": "cross-entropy of original or replaced, over all positions, nats",
    "rtd_blind": "... of the best constant guess for bases; a useful discriminator is below this value",
    "rtd_auroc": "chance that a replaced base is ranked below an original one; a guess has 0.5",
    "rtd_average_precision": "precision averaged over the replaced bases; a guess has replaced_fraction",
    "rtd_recall": "share of the replaced bases that are classified as replaced",
    "rtd_precision": "share of the bases classified as replaced that are replaced",
    "replaced_fraction": "share of the positions that hold a replaced base",
}
"""Metrics of a validation. Accuracy over all positions is not among them: a constant guess already has 0.9."""
_FILES = (
    ("`checkpoints/`", "what a resume needs; `sha256sum -c SHA256SUMS` in one of them tells whether it is intact"),
    ("`run.json`", "recipe, genome, windows, versions and command, for programs; its paths are those of that machine"),
    ("`metrics.jsonl`", "a line of metrics for each log interval (`train`) and each validation"),
    ("`summary.json`", "what the trainer printed at its end"),
    ("`loss.png`", "losses, AUROC and throughput; `python -m nucel.plot .` draws them anew"),
    ("`tensorboard/`", "the same metrics for TensorBoard, where the run was started with `--track`"),
)


def write(run: RunDirectory) -> None:
    """Write RUN/README.md, and a README.md in each of the run's model folders; each is replaced at once.

    Raises:
        CheckpointError: there is no run with a checkpoint, or the files cannot be written.
    """
    with run.writing("its card"):
        folders = run.published()
        for folder in folders:
            files.write_text(folder / run.card.name, _card(run, folder, folder))
        # The first is the discriminator where there is one.
        files.write_text(run.card, _card(run, run.path, folders[0]))


def _card(run: RunDirectory, where: Path, folder: Path) -> str:
    """The card in the folder `where`, which says how to load the model folder from there."""
    description = run.read_description()
    lines = log.read_metrics(run)
    head = _HEADS[_config(folder)["architectures"][0]]
    title = run.path.resolve().name
    genome = " and ".join(f"`{Path(file).name}`" for file in description.genome.files)
    parts = [
        _FRONT_MATTER.format(task=head.task),
        f"# {title}" if where == run.path else f"# {title}: {where.name}",
        f"Pre-trained on {genome} by NucEL: a ModernBERT encoder of DNA with one token per base, read by transformers "
        "without custom code.",
        *_use(where, folder, head),
        *_pipelines(run, where, folder),
        "## What it was trained on",
        _table(("what", ""), trained_on(description, lines, run.newest_step())),
        "## What it reaches",
        *_results(lines, run.read_summary(), description),
        "## What it was not evaluated for",
        _limits(description),
        "## Recipe",
        f"```sh\n{_without_folders(description.command)}\n```",
        "Folders are left out of this command. `python -m nucel.train --resume DIR` continues the run in its directory "
        "if it has not come to its end; a finished one is trained on with `--extend-steps N`. All settings that decide "
        "the result:",
        f"```json\n{json.dumps(_deciding(description), indent=2)}\n```",
    ]
    if where == run.path:
        names = ", ".join(f"`{path.name}/`" for path in run.published())
        networks = (names, "the newest checkpoint's weights, ready for the hub with a card like this")
        parts += ["## Files", _table(("file", "what it is"), [networks, *_FILES])]
    return "\n\n".join(parts) + "\n"


def _config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def _use(where: Path, folder: Path, head: _Head) -> list[str]:
    """How to load a model folder from the folder `where`."""
    name = json.dumps("." if where == folder else folder.name)
    values = {"folder": name, "width": _config(folder)["hidden_size"]}
    return [
        "## Use" if where == folder else f"## Use `{folder.name}/`",
        head.role,
        f"```python\n{_EMBED.format(**values)}\n```",
        *([f"```python\n{head.lines}\n```"] if head.lines else []),
        "A vector for each sequence, by NucEL itself:",
        f"```python\n{_NUCEL.format(**values)}\n```",
    ]


def _pipelines(run: RunDirectory, where: Path, folder: Path) -> list[str]:
    """Which of transformers' pipelines each model folder is for, as seen from the folder `where`."""
    folders = run.published() if where == run.path else [folder]
    rows = [
        (f"`{one.name}/`", f"`{line.format(folder=json.dumps('.' if where == one else one.name))}`", f"{meaning}")
        for one in folders
        for line, meaning in (text.split("  # ") for text in _HEADS[_config(one)["architectures"][0]].pipelines)
    ]
    parts = ["Pipelines of transformers:", _table(("folder", "pipeline", "what it gives"), rows)]
    if any("fill-mask" in line for _, line, _ in rows):
        parts.append(
            "Without `targets`, `fill-mask` ranks all 27 tokens. A network that is hardly trained may then offer "
            "special tokens, and of a trained one the fifth answer is one, since there are four bases."
        )
    return parts


def trained_on(description: RunDescription, lines: list[dict[str, Any]], step: int) -> list[tuple[str, str]]:
    """What a run's weights of a step were trained on: names and values, whose code is in backticks."""
    genome = " and ".join(f"`{Path(file).name}`" for file in description.genome.files)
    windows = description.windows
    rates = [line["tokens_per_s"] for line in lines if line.get("tokens_per_s") is not None]

    def amount(steps: int) -> str:
        drawn = steps * description.batch_size
        return f"{steps:,} steps, {drawn * description.context:,} tokens, {drawn / windows.train:.3g} epochs"

    extended = ""
    if description.extended_from:
        extended = f" (extended after {' and '.join(f'{steps:,}' for steps in description.extended_from)} steps)"
    rows = [
        ("genome", f"{genome}: {description.genome.contigs:,} contig(s), {description.genome.length_bp / 1e6:,.2f} Mb"),
        ("fingerprint", f"`{description.genome.fingerprint}`, SHA-256 of the uncompressed FASTA"),
        ("windows", f"{windows.train:,} to train on, {windows.held_out:,} held out"),
        ("batch", f"{description.batch_size:,} windows of {description.context:,} tokens"),
        ("schedule", amount(description.steps) + extended),
        ("these weights", amount(step)),
    ]
    if skipped := sum(line.get("skipped_steps") or 0 for line in lines):
        rows.append(("skipped steps", f"{skipped:,}, whose loss or gradient was not finite"))
    if description.initial_weights:
        sums = ", ".join(f"{name} `{digest}`" for name, digest in description.initial_weights.items())
        rows.append(("started from", f"`{_initial(description)}`, SHA-256 of the weights: {sums}"))
    if rates:
        rows.append(("speed", f"{median(rates):,.0f} tokens/s"))
    rows.append(("made with", ", ".join(f"{name} {x}" for name, x in description.versions.items() if x)))
    return rows


def _results(lines: list[dict[str, Any]], summary: dict[str, Any], description: RunDescription) -> list[str]:
    head, rows = reached(lines, summary, description)
    return [head, _table(("metric", "value", "what it means"), rows)] if rows else [head]


def reached(
    lines: list[dict[str, Any]], summary: dict[str, Any], description: RunDescription
) -> tuple[str, list[tuple[str, str, str]]]:
    """The newest validation, and the AUROC's interval where the trainer has come to its end since.

    Returns:
        on what it was measured, in words; and names, values and meanings of the metrics, none before a validation.
    """
    validations = [line for line in lines if line["split"] == "validation"]
    if not validations:
        return "There has been no validation yet.", []
    newest = validations[-1]
    summary = {name: value for name, value in summary.items() if type(value) in (int, float)}
    rows = []
    for name, meaning in _MEANINGS.items():
        if name in newest:
            value = "undefined" if newest[name] is None else f"{newest[name]:.4f}"
            low, high = (summary.get(f"val_{name}_{end}") for end in ("low", "high"))
            if summary.get("step") == newest["step"] and low is not None:
                value += f" (95 % of bootstrapped windows: {low:.4f} to {high:.4f})"
            elif summary.get("val_windows") == 1 and name == "rtd_auroc":
                value += " (no interval: one held-out window)"
            rows.append((_shown(name, description), value, meaning))
    windows = f"{summary['val_windows']:,} of {description.windows.held_out:,}" if "val_windows" in summary else "the"
    return f"On {windows} held-out windows, after {newest['step']:,} steps:", rows


def _shown(metric: str, description: RunDescription) -> str:
    """A metric's name as a reader of this card expects it: only a pair has a generator."""
    return metric.replace("generator", {"mlm": "masked_lm", "mae": "decoder"}.get(description.objective, "generator"))


def _initial(description: RunDescription) -> str | None:
    """The name of the model that a run started from, without its folders; None where its weights were drawn."""
    path = description.recipe.get("init_from")
    return path and Path(path).name


def _deciding(description: RunDescription) -> dict[str, Any]:
    """The recipe without the sizes of a network that the objective does not train, and without folders."""
    recipe = dict(description.recipe)
    if recipe.get("init_from"):
        recipe["init_from"] = _initial(description)
    if description.objective != "electra":
        recipe["model"] = {name: value for name, value in recipe["model"].items() if name != "generator"}
    return recipe


def _limits(description: RunDescription) -> str:
    comparison = "- A loss can be compared with another run's on the same windows only"
    if description.objective == "electra":
        comparison += ", and a discriminator's only beside the same generator, which sets its task"
    return "\n".join((
        "- No downstream task: neither regulatory elements nor splice sites, variant effects or anything clinical.",
        "- No other genome. What is held out is from the same genome, and repeats may occur on both sides.",
        f"- No sequence of more than {description.context - 1:,} bases: none was seen in training.",
        comparison + ".",
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
