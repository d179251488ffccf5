"""Promise 7 under writers, refreshers and kills; and the mutant that shows the test can see."""

from __future__ import annotations

import pytest

from tests.rollups import chaos


async def test_the_view_is_exact_at_every_snapshot_under_writers_refreshers_and_kills(dsn: str) -> None:
    ledger = await chaos.Chaos(dsn, seed=1, seconds=8).run()
    assert ledger.wrong == []
    assert ledger.snapshots > 30
    assert ledger.writes > 100
    assert ledger.refreshes > 50
    assert ledger.kills > 5
    assert ledger.failures <= ledger.kills


async def test_it_stays_exact_when_refreshes_linger(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chaos.slow_down(monkeypatch)
    ledger = await chaos.Chaos(dsn, seed=2, seconds=4).run()
    assert ledger.wrong == []
    assert ledger.refreshes > 10


async def test_without_the_lock_the_same_run_shows_wrong_numbers(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chaos.slow_down(monkeypatch)
    chaos.unlock(monkeypatch)
    for seed in (3, 4, 5):  # the first has always been enough; a busy machine may need another
        ledger = await chaos.Chaos(dsn, seed=seed, seconds=4, killing=False).run()
        if ledger.wrong:
            break
    assert ledger.wrong, "the mutant was not caught: these tests would not see the fault they are for"
