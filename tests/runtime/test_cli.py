"""How a verb ends: the report for people, the JSON object for programs, and the exit status."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from nucel.runtime import cli
from nucel.runtime.distributed import World
from nucel.runtime.errors import ConfigError, TrainingError


@dataclass(frozen=True)
class Options:
    """Options of a verb."""

    number: int = 3


def test_a_report_goes_to_stderr_and_the_summary_to_the_last_line_of_stdout(capsys):
    long = "It worked, and this line is longer than any console: [red]not markup[/red] " + "/".join("abcdefgh" * 40)

    def verb(options):
        print("a table")
        return cli.Result({"number": options.number}, (long, "It is here.", "Next: more"))

    assert cli.run("verb", Options, verb, ["--number", "4"]) == 0
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [long, "It is here.", "Next: more"]
    assert captured.out.splitlines()[0] == "a table" and json.loads(captured.out.splitlines()[-1]) == {"number": 4}


def test_a_verb_without_a_report_gives_its_summary_alone(capsys):
    assert cli.run("verb", Options, lambda options: {"number": options.number}, []) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and json.loads(captured.out) == {"number": 3}


@pytest.mark.parametrize("error", [ConfigError("no [bold]"), TrainingError("no [bold]"), OSError("no [bold]")])
def test_a_refusal_is_one_line_and_no_summary(capsys, error):
    def verb(options):
        raise error

    assert cli.run("verb", Options, verb, []) == 2
    captured = capsys.readouterr()
    assert captured.err.strip() == "error: no [bold]" and captured.out == ""


def test_a_command_is_quoted_and_started_on_as_many_ranks():
    command = cli.command_line("train", ["--resume", "runs/a run"])
    assert command == "python -m nucel.train --resume 'runs/a run'"
    assert World().launched(command) == command
    one_machine, two = World(0, 2, 0, 2), World(0, 8, 0, 4)
    assert one_machine.launched(command) == "torchrun --nproc-per-node 2 -m nucel.train --resume 'runs/a run'"
    assert two.launched(command).startswith("torchrun --nnodes 2 --nproc-per-node 4 -m nucel.train --resume")
