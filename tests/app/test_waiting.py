"""Waiting for Postgres is told, also where nobody watches."""

from __future__ import annotations

import pytest

from ingestd.app import database
from ingestd.cli.shell import Shell
from ingestd.errors import DatabaseUnreachable
from ingestd.events import Overdue


async def test_a_wait_is_told_at_once_and_again_as_overdue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "OVERDUE_S", 0.1)
    said: list[str] = []
    with pytest.raises(DatabaseUnreachable, match="waited 1 s"):
        await database.wait_for("postgresql://nobody@127.0.0.1:1/none", 1.2, said.append)
    assert [isinstance(words, Overdue) for words in said] == [False, True]


def test_what_is_overdue_is_said_without_a_terminal_too(capsys: pytest.CaptureFixture[str]) -> None:
    Shell().report("soon")
    Shell(quiet=True).report(Overdue("late"))
    assert capsys.readouterr().err == ""
    Shell().report(Overdue("late"))
    assert capsys.readouterr().err == "… late\n"
