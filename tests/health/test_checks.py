"""Checks are run with a limit each, and tell what they found."""

from __future__ import annotations

import asyncio
import time
from collections import namedtuple
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest

from ingestd.facts import Check, FactBook, RoomFacts
from ingestd.health import checks
from ingestd.health.checks import HealthRunner, disk_check, late_by_s
from ingestd.postgres.pool import Database
from ingestd.service import LoopState


def book(**sources: checks.CheckSource) -> FactBook:
    """Facts of rooms that offer only checks."""
    made = FactBook()
    for name, source in sources.items():
        made.add(name, RoomFacts(checks=source))
    return made


async def well(_: asyncpg.Connection) -> list[Check]:
    return [Check("well", "healthy", "fine")]


async def ill(_: asyncpg.Connection) -> list[Check]:
    return [Check("ill", "degraded", "17", "10", hint="do something")]


async def dire(_: asyncpg.Connection) -> list[Check]:
    return [Check("dire", "critical")]


async def broken(_: asyncpg.Connection) -> list[Check]:
    raise RuntimeError("cannot tell")


async def stuck(_: asyncpg.Connection) -> list[Check]:
    await asyncio.sleep(3600)
    return []


async def test_the_whole_is_as_bad_as_its_worst_check(db: Database, tmp_path: Path) -> None:
    """Rooms' checks come with the daemon's own."""
    report = await HealthRunner(db, book(a=well), dict, tmp_path).report()
    assert report.status == "healthy"
    assert [check.name for check in report.checks] == ["database", "well", "loops", "disk"]
    assert (await HealthRunner(db, book(a=well, b=ill), dict).report()).status == "degraded"
    assert (await HealthRunner(db, book(a=dire, b=ill), dict).report()).status == "critical"


async def test_a_check_that_fails_or_hangs_is_itself_a_finding(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """It neither raises nor holds up the others."""
    monkeypatch.setattr(checks, "SOURCE_TIMEOUT_S", 0.2)
    report = await HealthRunner(db, book(broken=broken, stuck=stuck, well=well), dict).report()
    assert report.status == "degraded"
    found = report.find("broken"), report.find("stuck"), report.find("well")
    assert [check.status for check in found if check] == ["degraded", "degraded", "healthy"]
    assert found[0] is not None
    assert "cannot tell" in found[0].value
    assert found[1] is not None
    assert "no answer" in found[1].value


async def test_a_database_that_is_away_is_critical_and_asked_only_once() -> None:
    """The rooms are not asked: they would only say the same, later."""
    away = Database("postgresql://postgres@/x?host=/nonexistent")
    await away.open()
    asked = []

    async def room(conn: asyncpg.Connection) -> list[Check]:
        asked.append(conn)
        return []

    report = await HealthRunner(away, book(room=room), dict).report()
    await away.close()
    assert report.status == "critical"
    database = report.find("database")
    assert database is not None
    assert database.value.startswith("unreachable")
    assert asked == []


async def test_where_all_wait_for_somebodys_lock_the_hint_is_to_look_for_it(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Postgres need not be started, nor its address be checked."""
    monkeypatch.setattr(checks, "SOURCE_TIMEOUT_S", 0.2)
    async with AsyncExitStack() as waiting:
        for _ in range(db.sizes.services):
            await waiting.enter_async_context(db.services())
        report = await HealthRunner(db, book(), dict).report()
    database = report.find("database")
    assert database is not None
    assert database.status == "critical"
    assert "lock" in database.hint


async def test_eager_probes_share_one_answer(db: Database) -> None:
    """However many ask at once."""
    asked = []

    async def room(_: asyncpg.Connection) -> list[Check]:
        asked.append(1)
        return [Check("room", "healthy")]

    runner = HealthRunner(db, book(room=room), dict)
    reports = await asyncio.gather(*(runner.report() for _ in range(20)))
    assert len(asked) == 1
    assert len({id(report) for report in reports}) == 1


async def test_since_is_when_it_left_healthy(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays while the trouble lasts, and is forgotten with it."""
    monkeypatch.setattr(checks, "SHARED_FOR_S", -1.0)
    now = [Check("x", "degraded")]

    async def room(_: asyncpg.Connection) -> list[Check]:
        return now

    async def since() -> object:
        check = (await runner.report()).find("x")
        assert check is not None
        return check.since

    runner = HealthRunner(db, book(room=room), dict)
    first = await since()
    assert first is not None
    assert await since() == first
    now[:] = [Check("x", "healthy")]
    assert await since() is None
    now[:] = [Check("x", "critical")]
    assert await since() != first


def test_a_loop_is_late_only_past_its_own_pace() -> None:
    """Not before its first pass, and not while it fails, which is told apart."""
    now = time.monotonic()
    assert late_by_s(LoopState()) == 0
    assert late_by_s(LoopState(last_tick=now - 20, expected_s=1)) == 0
    assert late_by_s(LoopState(last_tick=now - 100, expected_s=90)) == 0
    assert late_by_s(LoopState(last_tick=now - 100, expected_s=1)) == pytest.approx(99, abs=1)
    assert late_by_s(LoopState(last_tick=now - 100, expected_s=1, failures=2)) == 0


async def test_loops_that_fail_or_stand_still_are_named(db: Database) -> None:
    """With the error, or by how much."""
    states = {
        "claimer": LoopState(last_tick=time.monotonic(), expected_s=1),
        "rescuer": LoopState(last_tick=time.monotonic(), failures=3, error="OSError: no"),
        "slots": LoopState(last_tick=time.monotonic() - 120, expected_s=15),
    }
    check = (await HealthRunner(db, FactBook(), lambda: states).report()).find("loops")
    assert check is not None
    assert check.status == "degraded"
    assert "rescuer: OSError: no" in check.value
    assert "slots is late by 105 s" in check.value
    assert "claimer" not in check.value


def test_a_full_disk_is_critical_before_it_is_full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And a folder that is gone as well."""
    usage = namedtuple("usage", "total used free")
    size = 100 << 30
    for free, status in ((50 << 30, "healthy"), (1 << 30, "degraded"), (100 << 20, "critical")):
        monkeypatch.setattr(checks.shutil, "disk_usage", lambda _, free=free: usage(size, size - free, free))
        assert disk_check(tmp_path).status == status
    monkeypatch.undo()
    assert disk_check(tmp_path / "gone").status == "critical"
