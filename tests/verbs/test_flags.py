"""One flag, one meaning: what verbs share they explain alike, and every verb can be quiet and tell its version."""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import re
import shlex

import pytest
from support.tiny import save_tiny_model

import nucel
from nucel.__main__ import VERBS

OWN = {"--out", "--model", "--help"}
"""What a verb writes is its own."""
MEANING = {
    "--batch-size": "per optimizer step",
    "--context": "tokens",
    "--genome": "FASTA",
    "--average-reverse-complement": "both strands|other strand",
    "--augment-reverse-complement": "either strand",
    "--validate-every": "Steps between validations",
    "--overlap-bp": "neighbouring (windows|tiles)",
    "--long": "longer than the context",
    "--lr": "Peak learning rate",
    "--warmup-steps": "linear warm-up from 0",
    "--weight-decay": "decay of matrices",
    "--max-grad-norm": "scaled down to this norm",
    "--decay": "Learning rate",
    "--dtype": "Compute precision",
    "--label-column": "Column",
    "--contigs": "by name or glob",
    "--layer": "Whose hidden states",
    "--protocol": "Take epochs.* paper",
    "--seeds": "One training for each",
    "--dev": "The same by wh(ose loss|ich) .* chosen",
}
"""Where words differ, what all of them say."""


def main_of(verb: str):
    name = f"nucel.{verb}.__main__" if verb in ("embed", "genome") else f"nucel.{verb}"
    return importlib.import_module(name).main


def flags(verb: str, monkeypatch) -> dict[str, str]:
    """The text that a verb's help has on each flag."""
    monkeypatch.setenv("COLUMNS", "100")
    text = io.StringIO()
    preset = ["debug"] if verb == "train" else []
    with contextlib.redirect_stdout(text), pytest.raises(SystemExit):
        main_of(verb)([*preset, "--help"])
    found: dict[str, list[str]] = {}
    named: list[str] = []
    for line in re.sub(r"\x1b\[[0-9;]*m", "", text.getvalue()).splitlines():
        words = line.strip("│ ")
        if match := re.match(r"(?:-\w, )?(--[a-z][\w.-]*)(?:, --no-[\w-]+)?(?: \S+)?", words):
            named = found.setdefault(match[1], [])
            words = words[match.end() :]
        elif not words or words[0] in "─╭╰":
            named = []
        named.append(words)
    return {flag: re.sub(r"\s+", " ", " ".join(words)).strip() for flag, words in found.items()}


def test_flags_of_one_name_mean_the_same(monkeypatch):
    by_flag: dict[str, dict[str, str]] = {}
    for verb in VERBS:
        for flag, text in flags(verb, monkeypatch).items():
            by_flag.setdefault(flag, {})[verb] = text
    shared = {flag: texts for flag, texts in by_flag.items() if len(texts) > 1 and flag not in OWN}
    assert len(shared) > 12 and set(shared) >= {"--dtype", "--context", "--batch-size", "--device"}
    for flag, texts in shared.items():
        if flag in MEANING:
            assert all(re.search(MEANING[flag], text, re.IGNORECASE) for text in texts.values()), (flag, texts)
        else:
            first = {text.split(". ")[0].split(" (default")[0] for text in texts.values()}
            assert len(first) == 1, (flag, texts)


def test_a_positional_says_what_it_is(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for verb, words in {"embed": ("MODEL", "SEQUENCES"), "predict": ("MODEL", "SEQUENCES"), "scan": ("MODEL",)}.items():
        text = io.StringIO()
        with contextlib.redirect_stdout(text), pytest.raises(SystemExit):
            main_of(verb)(["--help"])
        assert all(word in text.getvalue() for word in words) and "PATH PATH" not in text.getvalue()


def help_of(verb: str, words: list[str]) -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), pytest.raises(SystemExit) as ended:
        main_of(verb)([*words, "--help"])
    assert ended.value.code == 0
    return text.getvalue()


@pytest.mark.parametrize("verb", VERBS)
def test_help_ends_with_examples_of_the_verb_s_own_flags(verb):
    """Those of a preset or a subcommand, where an example names one."""
    found, _, examples = help_of(verb, []).rpartition("\nexamples:\n")
    assert found and "examples:" not in found
    commands = [shlex.split(line) for line in examples.splitlines()]
    assert len(commands) >= 2
    for words in commands:
        rest = words[words.index(f"nucel.{verb}") + 1 :]
        inner = rest[:1] if verb == "interpret" else ["debug"] if verb == "train" else []
        flags = set(re.findall(r"(?<![\w-])--[a-z-]+", help_of(verb, inner).partition("\nexamples:\n")[0]))
        assert {word for word in rest if word.startswith("--")} <= flags, words


COMMANDS = {
    "train": [["debug"]],
    "suite": [[], ["barcodes"], ["biotypes"]],
    "interpret": [["attribution"], ["agreement"], ["importance"], ["motif-order"]],
    "plot": [[], ["efficiency"]],
}


@pytest.mark.parametrize(("verb", "words"), [(verb, words) for verb in VERBS for words in COMMANDS.get(verb, [[]])])
def test_help_is_in_groups_that_one_can_read(verb, words, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")  # more than that, and the groups stand beside one another
    groups: dict[str, int] = {}
    lines = help_of(verb, words).partition("\nexamples:\n")[0].splitlines()
    for line, below in itertools.pairwise(lines):
        if re.fullmatch(r" -{20,} *", below):
            groups[title := line.strip()] = 0
        elif re.match(r"  --[a-z]", line):
            groups[title] += 1
    flags = {title: count for title, count in groups.items() if count}
    assert flags and max(flags.values()) <= 12, flags
    assert len(flags) > 1 or sum(flags.values()) < 6, flags
    assert not any("options options" in title or "." in title.removeprefix("model.") for title in flags)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_tells_its_version(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main_of(verb)(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"nucel {nucel.__version__}\n"


def test_a_quiet_verb_prints_its_result_and_its_errors_alone(tmp_path, capsys):
    model = save_tiny_model(tmp_path / "model")
    (tmp_path / "s.fa").write_text(">a\nACGT\n")
    words = [str(model), str(tmp_path / "s.fa"), "--out", str(tmp_path / "v.npz"), "--quiet"]
    assert main_of("embed")(words) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and captured.out.startswith("{")
    assert main_of("embed")([*words, "--context", "3", "--long", "refuse"]) == 2
    assert "4 bases are more than the context of 3" in capsys.readouterr().err
    assert main_of("embed")(words[:-1]) == 0
    assert "Embedded 1 sequences" in capsys.readouterr().err
