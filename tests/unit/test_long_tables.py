"""Tables too long to be laid out for a person look like the short ones."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from ingestd.cli import console


def test_a_long_table_reads_as_a_short_one_does_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    columns, rows = ["name", "n", "state"], [["日本", 1, None], ["x\x1b[31m", 12345, "failed"], ["", None, "ok"]]
    piped = Console(width=10_000)
    with piped.capture() as captured:
        piped.print(console.table(columns, rows, title="two"))
    monkeypatch.setattr(console, "MOST_STYLED", 2)
    plain: Any = console.table(columns, rows, title="two")
    assert plain.splitlines() == [line.rstrip() for line in captured.get().splitlines()]
