"""Promise 7 under writers, refreshers and kills; and the mutant that shows the test can see."""

from __future__ import annotations

import pytest

from tests.rollups import chaos
from tests.rollups.chaos import Ledger
from tests.support import LONG

TIMES = 5 if LONG else 1


async def test_the_view_is_exact_at_every_snapshot_under_writers_refreshers_and_kills(dsn: str) -> None:
    def enough(done: Ledger) -> bool:
        return done.snapshots >= 60 * TIMES and done.writes >= 300 * TIMES and done.refreshes >= 150 * TIMES and done.kills >= 10 * TIMES

    ledger = await chaos.Chaos(dsn, 1, enough).run()
    assert ledger.wrong == []
    assert enough(ledger), ledger
    assert ledger.failures <= ledger.kills


async def test_it_stays_exact_when_refreshes_linger(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chaos.slow_down(monkeypatch)
    ledger = await chaos.Chaos(dsn, 2, lambda done: done.refreshes >= 40 * TIMES and done.snapshots >= 40 * TIMES).run()
    assert ledger.wrong == []
    assert ledger.refreshes >= 40 * TIMES, ledger


async def test_without_the_lock_the_same_run_shows_wrong_numbers(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chaos.slow_down(monkeypatch)
    chaos.unlock(monkeypatch)
    ledger = await chaos.Chaos(dsn, 3, lambda done: bool(done.wrong), killing=False).run()
    assert ledger.wrong, "the mutant was not caught: these tests would not see the fault they are for"
