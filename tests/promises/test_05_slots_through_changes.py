"""Promise 5 while schedules are changed, Postgres goes away, and while nobody is there to fire them."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Mapping
from datetime import datetime, timedelta

import asyncpg
import pytest

from tests.daemon.harness import Daemon, Site
from tests.faults import ledger, processes, slots
from tests.faults.slots import MINUTE, SECOND, Service
from tests.promises.firing import (
    DUTIES,
    HANDLERS,
    every_second,
    fires,
    jobs_end_once,
    keeps_up,
    schedule,
    steps,
    tell,
    work_off,
)
from tests.support import LONG, eventually

STEADY, ROUNDS = (20, 30) if LONG else (8, 6)
BLOWS = 6 if LONG else 2
# Rules of `changing`, and how often each is due.
RULES = {'every = "1s"': SECOND, 'every = "2s"': 2 * SECOND, 'cron = "* * * * *"': MINUTE, 'every = "3s"': 3 * SECOND}
AWAY = timedelta(minutes=20)
# As though the nodes had died so long ago, having fired everything up to then.
FORGET = "truncate ingestd.job, ingestd.history, ingestd.slot, faults.ledger cascade"
LONG_AGO = """
update ingestd.schedule set since = now() - $1::interval, accounted_to = now() - $1::interval, next_due_at = now() - $1::interval,
       last_job_id = null, turn = turn + 1"""
PULSE_LONG_AGO = "update ingestd.schedule_pulse set at = now() - $1::interval"
DOWNTIMES = "select * from ingestd.downtime"
COST = """
select count(distinct schedule) filter (where state in ('missed', 'late')) as schedules,
       coalesce(sum(slots) filter (where state = 'missed'), 0)::bigint as missed, count(*) filter (where state = 'late') as late
from ingestd.slot where due_at > $1 and due_at <= $2"""


class Changes:
    """What schedules were due when, noted after each change from what the database says."""

    def __init__(self) -> None:
        self.over: list[Service] = []
        self._open: dict[str, tuple[datetime, timedelta]] = {}

    async def note(self, conn: asyncpg.Connection, steps: Mapping[str, timedelta]) -> None:
        """Look at what is in service since a change has been applied."""
        for row in await conn.fetch(slots.SERVICE):
            name, lives = row["name"], row["removed_at"] is None and row["enabled"]
            since, step = self._open.get(name, (None, None))
            if since is not None and step is not None and (not lives or row["since"] != since):
                until = row["removed_at"] or row["since"]
                # A node that fired while this was applied may have gone a little further.
                self.over.append(Service(name, step, since, until, until if lives else max(until, row["accounted_to"])))
                del self._open[name]
            if lives and name not in self._open:
                self._open[name] = (row["since"], steps[name])

    async def all(self, conn: asyncpg.Connection) -> list[Service]:
        """Every time in which a schedule was in service, up to where it says that it is accounted for."""
        reached = {row["name"]: row["accounted_to"] for row in await conn.fetch(slots.SERVICE)}
        return [*self.over, *(Service(name, step, since, reached[name]) for name, (since, step) in self._open.items())]


async def applied(daemon: Daemon) -> None:
    """Have a daemon read its configuration again, and wait until it has."""
    before = len(daemon.events("ConfigurationApplied"))
    daemon.signal(signal.SIGHUP)
    await eventually(lambda: len(daemon.events("ConfigurationApplied")) > before)


async def test_schedules_changed_while_they_fire_and_their_nodes_are_killed_lose_and_double_nothing(
    site: Site, conn: asyncpg.Connection
) -> None:
    await ledger.open_ledger(conn)
    changes, dice = Changes(), random.Random(20261122)
    nodes: list[Daemon] = []
    for turn in range(ROUNDS):
        rule, step = list(RULES.items())[turn % len(RULES)]
        text = every_second(STEADY) + schedule("changing", rule)
        text += schedule("coming_and_going") if turn % 2 else ""
        text += schedule("off_and_on", 'every = "1s"', "enabled = false" if turn % 3 == 2 else "")
        site.configure(text, daemon=HANDLERS)
        if not nodes:
            nodes = [await site.start(*DUTIES) for _ in range(2)]
        first, second = dice.sample(range(2), 2)
        if turn % 4 == 3:
            # Killed somewhere in the middle of applying it; the other one applies it again, or first.
            nodes[first].signal(signal.SIGHUP)
            await asyncio.sleep(dice.uniform(0, 0.15))
            nodes[first].kill()
            nodes[first] = await site.start(*DUTIES)
            await applied(nodes[second])
        else:
            await asyncio.gather(applied(nodes[first]), applied(nodes[second]))
        await changes.note(conn, steps(STEADY) | {"changing": step, "coming_and_going": SECOND, "off_and_on": SECOND})
        await fires(site, dice.choice((1, 2)))
    await eventually(lambda: slots.up_to_date(conn, timedelta(seconds=65)))
    for node in nodes:
        assert await node.stop() == 0
    await slots.assert_accounted_for(conn, await changes.all(conn))
    await tell(conn, f"{ROUNDS} reloads")
    assert len(changes.over) > ROUNDS
    unchanged = [service for service in changes.over if service.schedule in steps(STEADY)]
    assert unchanged == [], "what a reload does not change keeps its place"
    await work_off(site, conn)


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT, signal.SIGQUIT] if LONG else [signal.SIGKILL], ids=lambda blow: blow.name)
async def test_a_postgres_that_goes_away_under_its_nodes_takes_no_slot_with_it(own_site: Site, blow: signal.Signals) -> None:
    site = own_site
    site.configure(daemon=HANDLERS)
    nodes = [await site.start(*DUTIES)]
    async with site.connection() as conn:
        await ledger.open_ledger(conn)
    site.configure(every_second(STEADY), daemon=HANDLERS)
    for number in range(2):
        guest = {"INGESTD_DATABASE__URL": site.url, "INGESTD_DAEMON__STATE_DIR": str(site.folder / f"guest-{number}")}
        nodes.append(await site.start(*DUTIES, environment=guest))
    dice = random.Random(20261122)
    for _ in range(BLOWS):
        await fires(site)
        # Near a full second: in the middle of what fires slots, or a little before.
        await asyncio.sleep(1 - time.time() % 1 + dice.uniform(-0.05, 0.05))
        postmaster = site.postmaster
        assert postmaster is not None
        os.kill(postmaster, blow)
        await eventually(lambda gone=postmaster: not processes.running(gone))
    await fires(site, 2)
    async with site.connection() as conn:
        await keeps_up(conn)
        for node in reversed(nodes[1:]):
            assert await node.stop() == 0
        # The last one keeps Postgres, and goes on firing until its schedules are gone.
        await slots.assert_accounted_for(conn, await slots.in_service(conn, steps(STEADY)))
        await tell(conn, f"Postgres went away {BLOWS} times by {blow.name}")
        site.configure(daemon=HANDLERS)
        await applied(nodes[0])
        await jobs_end_once(conn)
    assert await nodes[0].stop() == 0


async def test_a_time_in_which_every_node_was_down_is_one_fact_and_each_of_its_slots_a_row(site: Site, conn: asyncpg.Connection) -> None:
    site.configure(
        every_second(STEADY)
        + schedule("each_minute", 'cron = "* * * * *"', 'catch_up = "all"')
        + schedule("never_late", 'cron = "*/5 * * * *"', 'catch_up = "none"', 'start_within = "1m"'),
        daemon=HANDLERS,
    )
    await ledger.open_ledger(conn)
    nodes = [await site.start(*DUTIES) for _ in range(2)]
    await fires(site, 2)
    processes.kill_all([node.pid for node in nodes])
    if LONG:
        await asyncio.sleep(75)  # what is tested is that time passes
        began = await conn.fetchval("select at from ingestd.schedule_pulse")
    else:
        await conn.execute(FORGET)
        await conn.execute(LONG_AGO, AWAY)
        await conn.execute(PULSE_LONG_AGO, AWAY)
        began = await conn.fetchval("select now() - $1::interval", AWAY)
    late = [site.launch(*DUTIES) for _ in range(2)]
    await asyncio.gather(*(node.until_ready() for node in late))
    await fires(site, 2)
    await keeps_up_all(conn)
    for node in late:
        assert await node.stop() == 0
    step_of = steps(STEADY) | {"each_minute": MINUTE, "never_late": 5 * MINUTE}
    await slots.assert_accounted_for(conn, await slots.in_service(conn, step_of))
    (downtime,) = await conn.fetch(DOWNTIMES)
    assert abs(downtime["began_at"] - began) < timedelta(seconds=10)
    assert dict(await conn.fetchrow(COST, downtime["began_at"], downtime["ended_at"])) == {
        key: downtime[key] for key in ("schedules", "missed", "late")
    }
    assert downtime["missed"] > STEADY * 40
    # One event by one node, and nothing about slots one by one.
    (told,) = [event for node in late for event in node.events("Downtime")]
    assert (told["missed"], told["late"], told["schedules"]) == (downtime["missed"], downtime["late"], downtime["schedules"])
    assert [event for node in late for event in node.events("SlotMissed")] == []
    await tell(conn, f"down from {downtime['began_at']} to {downtime['ended_at']}")
    await work_off(site, conn)


async def keeps_up_all(conn: asyncpg.Connection) -> None:
    """Until nothing that is due waits."""
    due = "select count(*) = 0 from ingestd.schedule where next_due_at < now() - interval '3 seconds'"
    await eventually(lambda: conn.fetchval(due))
