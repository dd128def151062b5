"""Every flag that a page on a verb names is a flag of one of the verbs that it is about."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
import tyro

from nucel.embed.__main__ import EmbedConfig
from nucel.finetune import FinetuneConfig
from nucel.interpret import AgreementConfig, AttributionConfig, ImportanceConfig
from nucel.interpretation.attribution import METHODS
from nucel.predict import PredictConfig
from nucel.pretraining.config import TrainConfig
from nucel.probe import ProbeConfig
from nucel.scan import ScanConfig
from nucel.suites.barcodes import BarcodesConfig
from nucel.suites.biotypes import BiotypesConfig
from nucel.suites.efficiency import EfficiencyConfig
from nucel.suites.motif_order import MotifOrderConfig
from nucel.suites.report import ReportConfig
from nucel.suites.runner import SuiteConfig

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "use.md").read_text(encoding="utf-8")


def flags(config: type) -> set[str]:
    """The flags that the verb's help names."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), pytest.raises(SystemExit):
        tyro.cli(config, args=["--help"])
    return set(re.findall(r"(?<![\w-])--[a-z-]+", text.getvalue()))


def test_flags_exist():
    known = set().union(*map(flags, (EmbedConfig, FinetuneConfig, PredictConfig, SuiteConfig))) | {"--help"}
    named = set(re.findall(r"`(--[a-z-]+)", PAGE))
    assert len(named) > 20 and named <= known


def test_commands_use_flags_of_their_verb():
    verbs = {
        "train": TrainConfig, "embed": EmbedConfig, "finetune": FinetuneConfig, "predict": PredictConfig,
        "suite": SuiteConfig,
    }  # fmt: skip
    commands = re.findall(r"python -m nucel\.(\w+) (.*)", PAGE.replace("\\\n", " "))
    assert {verb for verb, _ in commands} == verbs.keys()
    for verb, words in commands:
        assert set(re.findall(r"(--[a-z-]+)", words)) <= flags(verbs[verb]), (verb, words)


def test_flags_of_probe_exist():
    page = (DOCS / "probe.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(--[a-z-]+)", page)) | set(re.findall(r"(--[a-z-]+)", page.split("```")[1]))
    assert len(named) > 20 and named <= flags(ProbeConfig) | {"--objective", "--head"}


def test_flags_of_report_exist():
    page = (DOCS / "report.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(--[a-z-]+)", page))
    named |= {flag for block in page.split("```")[1::2] for flag in re.findall(r"(--[a-z-]+)", block)}
    assert len(named) > 10 and named <= flags(ReportConfig) | {"--evaluate"}


def test_flags_of_scan_exist():
    page = (DOCS / "scan.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(--[a-z-]+)", page)) | set(re.findall(r"(--[a-z]+)", page.split("```")[1]))
    assert len(named) > 7 and named <= flags(ScanConfig)


def test_flags_and_commands_of_interpret_exist():
    page = (DOCS / "interpret.md").read_text(encoding="utf-8")
    configs = {
        "attribution": AttributionConfig,
        "agreement": AgreementConfig,
        "importance": ImportanceConfig,
        "motif-order": MotifOrderConfig,
    }
    named = set(re.findall(r"`(--[a-z-]+)", page))
    assert len(named) > 12 and named <= set().union(*map(flags, configs.values()))
    commands = re.findall(r"python -m nucel\.interpret ([\w-]+) (.*)", page)
    assert {command for command, _ in commands} == configs.keys()
    for command, words in commands:
        assert set(re.findall(r"(--[a-z-]+)", words)) <= flags(configs[command]), (command, words)


def test_methods_and_targets_of_interpret_are_all_named():
    page = (DOCS / "interpret.md").read_text(encoding="utf-8")
    tables = re.findall(r"^\| `([\w:]+)", page, re.MULTILINE)
    assert set(METHODS) <= set(tables) and {"class:K", "originality", "plausibility", "site:i"} <= set(tables)


def test_flags_and_commands_of_suites_exist():
    page = (DOCS / "suites.md").read_text(encoding="utf-8").replace("\\\n", " ")
    configs = {"barcodes": BarcodesConfig, "biotypes": BiotypesConfig}
    known = flags(SuiteConfig).union(*map(flags, configs.values())) | flags(EfficiencyConfig) | {"--dry-run"}
    named = set(re.findall(r"`(--[a-z-]+)", page))
    assert len(named) > 8 and named <= known
    commands = re.findall(r"python -m nucel\.suite (\S+) (.*)", page)
    assert {command for command, _ in commands} >= configs.keys()
    for command, words in commands:
        assert set(re.findall(r"(--[a-z-]+)", words)) <= flags(configs.get(command, SuiteConfig)), (command, words)
    (words,) = re.findall(r"python -m nucel\.plot efficiency (.*)", page)
    assert set(re.findall(r"(--[a-z-]+)", words)) <= flags(EfficiencyConfig)
