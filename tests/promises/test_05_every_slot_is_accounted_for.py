"""Promise 5: each slot of each schedule is one row with its job or its reason, whatever dies, steps, is away or is changed meanwhile.

`INGESTD_LONG_TESTS=1` kills for the full minute; `-s` prints the numbers.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterator, Mapping
from datetime import datetime

import asyncpg
import pytest

from tests.daemon.harness import Daemon, Site
from tests.faults import clocks, ledger, slots
from tests.faults.clocks import Clock
from tests.promises.firing import DUTIES, HANDLERS, IMPOSSIBLE, LAG, STATES, every_second, fires, keeps_up, steps, tell, work_off
from tests.support import CROWDED, LONG, PATIENCE_S

KILLING_S = 60.0 if LONG else 6.0
NODES, SCHEDULES = 3, 200 if LONG else 80
WRONG_CLOCK = NODES - 1
WRONG_BY_S = 120.0
# Ahead and behind, by more and by less than a schedule waits, and back.
STEPS_S = (-WRONG_BY_S, 3600.0, -0.4, -3600.0, 0.7, 86_400.0, -86_400.0, 0.0)
STEPPED = 50 if LONG else 20


@pytest.fixture
def wrong_clock(site: Site) -> Iterator[Clock]:
    """The clock of a machine that is two minutes ahead."""
    yield Clock(site.folder / "clock", WRONG_BY_S)
    for daemon in site.daemons:
        if daemon.alive:
            daemon.kill()
    clocks.forget()


def clock_error_s(daemon: Daemon) -> float:
    """By how much a daemon's clock was ahead of ours when it last said something; its log file's own time is the kernel's."""
    last = json.loads(daemon.log().splitlines()[-1])
    return datetime.fromisoformat(last["timestamp"]).timestamp() - daemon.log_file.stat().st_mtime


class Fleet:
    """Three nodes, of which the last lives by a wrong clock; whichever is killed comes back.

    Args:
        site: where they run.
        wrong_clock: the last one's.
    """

    def __init__(self, site: Site, wrong_clock: Clock) -> None:
        self.kills = 0
        self.of_wrong_clock: list[Daemon] = []
        self._site = site
        # It never steps here: nobody has to look at each moment by how much it is wrong, which would double the time of all it does.
        steady = {name: value for name, value in wrong_clock.environment.items() if name != "FAKETIME_NO_CACHE"}
        self._environments: list[Mapping[str, str]] = [{}, {}, steady]
        self._ready: dict[int, Daemon] = {}
        self._starts: set[asyncio.Task[None]] = set()

    async def start_all(self) -> None:
        """Start them, one after the other."""
        for number in range(NODES):
            await self._start(number)

    async def kill(self, number: int) -> None:
        """Kill one, if it is up, and let it come back while others go on."""
        victim = self._ready.pop(number, None)
        if victim is None:
            return
        victim.kill()
        self.kills += 1
        self._starts.add(asyncio.create_task(self._start(number), name=f"start of node {number}"))

    async def last_to_fire(self, conn: asyncpg.Connection) -> int | None:
        """The one that has fired the newest slot, if it still lives."""
        session = await slots.last_session(conn)
        for number, daemon in list(self._ready.items()):
            if session is not None and str(await self._site.node_of(daemon)) in session:
                return number
        return None

    async def all_up(self) -> None:
        """Wait for those that are coming back."""
        await asyncio.gather(*self._starts)

    async def stop_all(self) -> None:
        """End them in good order."""
        for daemon in self._ready.values():
            assert await daemon.stop() == 0

    async def _start(self, number: int) -> None:
        daemon = await self._site.start(*DUTIES, environment=self._environments[number])
        self._ready[number] = daemon
        if number == WRONG_CLOCK:
            assert abs(clock_error_s(daemon) - WRONG_BY_S) < 30
            self.of_wrong_clock.append(daemon)


async def fired_by_wrong_clock(conn: asyncpg.Connection, site: Site, fleet: Fleet) -> int:
    """Slots recorded by a node whose clock is wrong."""
    wrong = [str(await site.node_of(daemon)) for daemon in fleet.of_wrong_clock]
    return sum(count for session, count in (await slots.witnessed(conn)).items() if any(node in session for node in wrong))


async def enough(conn: asyncpg.Connection, site: Site, fleet: Fleet) -> bool:
    """Whether the kills and the wrong clock have hit something."""
    return len(await slots.witnessed(conn)) > NODES and await fired_by_wrong_clock(conn, site, fleet) > 0


async def test_three_nodes_killed_at_random_of_which_one_has_a_wrong_clock_account_for_every_slot(
    site: Site, conn: asyncpg.Connection, wrong_clock: Clock
) -> None:
    site.configure(every_second(SCHEDULES), daemon=HANDLERS)
    await ledger.open_ledger(conn)
    await slots.witness(conn)
    fleet, dice = Fleet(site, wrong_clock), random.Random(20261122)
    await fleet.start_all()
    end = time.monotonic() + KILLING_S
    while time.monotonic() < end:
        # Half of the blows fall right behind a full second, when slots are being fired; half of them hit whoever does that.
        await asyncio.sleep(dice.uniform(0, 1) if dice.random() < 0.5 else 1 - time.time() % 1 + dice.uniform(0, 0.08))
        aimed = await fleet.last_to_fire(conn) if dice.random() < 0.5 else None
        victim = dice.randrange(NODES) if aimed is None else aimed
        await fleet.kill(victim)
    await fleet.all_up()
    # On a slow machine nodes take long to come back. While the others start again, the one with the wrong clock has its turn.
    while time.monotonic() < end + 2 * PATIENCE_S and not await enough(conn, site, fleet):
        for number in set(range(NODES)) - {WRONG_CLOCK}:
            await fleet.kill(number)
        await fleet.all_up()
    await keeps_up(conn)
    await fleet.stop_all()
    await slots.assert_accounted_for(conn, await slots.in_service(conn, steps(SCHEDULES)))
    recorded = await slots.witnessed(conn)
    by_wrong_clock = await fired_by_wrong_clock(conn, site, fleet)
    await tell(conn, f"{fleet.kills} kills, {len(recorded)} sessions fired, {by_wrong_clock} slots by the wrong clock")
    # Or the kills and the wrong clock hit nothing and prove nothing.
    assert len(recorded) > NODES
    assert by_wrong_clock > 0
    assert await conn.fetchval("select count(*) from ingestd.slot") >= KILLING_S * SCHEDULES
    await work_off(site, conn)
    assert [dict(row) for row in await conn.fetch(IMPOSSIBLE)] == [], "no wrong clock shows in what is told of jobs"


async def test_a_process_whose_clock_steps_back_and_forth_loses_and_doubles_nothing(
    site: Site, conn: asyncpg.Connection, wrong_clock: Clock
) -> None:
    site.configure(every_second(STEPPED), daemon=HANDLERS)
    await ledger.open_ledger(conn)
    # Alone: nobody else fires what it does not.
    daemon = await site.start(*DUTIES, environment=wrong_clock.environment)
    for error_s in STEPS_S:
        wrong_clock.step(error_s)
        await fires(site)
    await keeps_up(conn)
    assert await daemon.stop() == 0
    await slots.assert_accounted_for(conn, await slots.in_service(conn, steps(STEPPED)))
    await tell(conn, f"{len(STEPS_S)} steps of the clock")
    # Nothing was missed, and nothing waited for a timer that a step had put off: by an hour, or a day.
    assert [row["state"] for row in await conn.fetch(STATES)] == ["fired"]
    assert await conn.fetchval("select max(fired_at - due_at) from ingestd.slot") < LAG * CROWDED
    await work_off(site, conn)
    assert [dict(row) for row in await conn.fetch(IMPOSSIBLE)] == [], "no wrong clock shows in what is told of jobs"
