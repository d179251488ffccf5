"""The examples in docs/schedules.md: what they show is what the program says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.kit import Cli

DOCUMENT = (Path(__file__).parents[2] / "docs" / "schedules.md").read_text(encoding="utf-8")
CONFIGURATIONS = re.findall(r"^```toml\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
(ZONES,) = [text for text in CONFIGURATIONS if text.startswith("[schedules]\n")]
CONSOLES = re.findall(r"^```console\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
SHOWN = [part for block in CONSOLES for part in block.split("$ ingestd ")[1:]]


@pytest.mark.parametrize("example", SHOWN, ids=lambda example: example.partition("\n")[0])
def test_an_example_shows_what_the_program_says(bare: Cli, example: str) -> None:
    command, _, shown = example.partition("\n")
    bare.configure(ZONES)
    ran = bare(*command.split())
    assert (ran.code, ran.err) == (0, "")
    assert [line.rstrip() for line in ran.out.splitlines()] == shown.splitlines()


def test_there_are_examples() -> None:
    assert len(SHOWN) >= 8


def test_the_other_configurations_are_valid(bare: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bare.folder)
    for text in CONFIGURATIONS:
        handlers = '[daemon]\nhandlers = ["myjobs"]\n[imports.readings]\nsource = "*.csv"\ntable = "readings"\n'
        named = text.replace("sync_prices", "greet").replace("morning_report", "greet").replace('supplier = "acme"', 'name = "acme"')
        bare.configure(handlers + named)
        ran = bare("check")
        assert ran.code == 0, ran.out + ran.err
