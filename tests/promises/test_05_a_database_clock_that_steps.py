"""Promise 5 by the one clock that counts: the database's own steps back and forth while nodes fire slots by it.

Set back, it has slots wait until it has come again to where they are accounted for: none is fired a second time. Set forward, what it
jumped over was due, and is accounted for as after any time in which nobody was there.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from ingestd.postgres.account import Account
from ingestd.postgres.migrate import migrate
from ingestd.postgres.session import connect
from ingestd.testing import sandbox
from tests.daemon.harness import Site, open_site
from tests.faults import clocks, ledger, slots
from tests.faults.clocks import Clock
from tests.promises.firing import DUTIES, HANDLERS, every_second, fires, keeps_up, steps, tell, work_off
from tests.support import LONG

SCHEDULES = 20 if LONG else 8
# Seconds that the server is ahead, one after the other: back a little, over a gap that is none yet, back again, over one that is.
STEPS_S = (-3.0, 37.0, 35.0, 110.0, 107.5)
# What a node says that had no turn for seconds: it found no answer of Postgres in its time.
STARVED = ("ConnectionLost", "TimeoutError", "DatabaseUnreachable")
DOWNTIMES = "select ended_at - began_at as length, missed from ingestd.downtime"


@dataclass(frozen=True)
class Stepping:
    """A server whose clock can be set.

    Args:
        url: of a fresh database in it.
        clock: the server's.
    """

    url: str
    clock: Clock


@pytest.fixture
async def stepping(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stepping]:
    """A Postgres of this test's own that lives by a clock of its own; nothing else does."""
    with tempfile.TemporaryDirectory(prefix="ingestd-clock-") as folder:
        Path(folder).chmod(0o755)
        clock, usual = Clock(Path(folder) / "clock"), Account.spawn_options

        def spawn_options(account: Account) -> dict[str, Any]:
            options = usual(account)
            return options | {"env": {**options["env"], **clock.environment}}

        monkeypatch.setattr(Account, "spawn_options", spawn_options)
        async with sandbox.server({}) as url:
            conn = await connect(url)
            await migrate(conn)
            await conn.close()
            yield Stepping(url, clock)
        clocks.forget()


async def test_slots_are_fired_once_and_none_is_lost_when_the_databases_clock_steps(stepping: Stepping) -> None:
    with open_site(stepping.url) as site:
        async with site.connection() as conn:
            await fire_through_steps(site, conn, stepping.clock)


async def fire_through_steps(site: Site, conn: asyncpg.Connection, clock: Clock) -> None:
    site.configure(every_second(SCHEDULES), daemon=HANDLERS)
    await ledger.open_ledger(conn)
    nodes = [await site.start(*DUTIES) for _ in range(2)]
    await fires(site, 2)
    for error_s in STEPS_S:
        before = await conn.fetchval("select clock_timestamp()")
        clock.step(error_s)
        after = await conn.fetchval("select clock_timestamp()")
        assert (after < before) == (error_s in (STEPS_S[0], STEPS_S[2], STEPS_S[4]))
        await fires(site, 2)
    await keeps_up(conn)
    for node in nodes:
        assert await node.stop() == 0
    await slots.assert_accounted_for(conn, await slots.in_service(conn, steps(SCHEDULES)))
    await tell(conn, f"{len(STEPS_S)} steps of the database's clock")
    # Whatever it jumped over is told of: as slots that were missed, and the long gap as a time of its own.
    assert await conn.fetchval("select count(*) from ingestd.slot where state = 'missed'") > 0
    (downtime,) = await conn.fetch(DOWNTIMES)
    assert downtime["length"] > timedelta(seconds=60)
    failed = [event for node in nodes for event in node.events("LoopFailed") if not event["error"].startswith(STARVED)]
    assert [json.dumps(event) for event in failed] == []
    await work_off(site, conn)
