"""The audit of slots sees what could be wrong with them, and a mutant that fires without holding its schedule does not get past it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from ingestd.postgres.session import connect
from ingestd.schedule.firing import Firer
from ingestd.schedule.store import firing as store
from tests.faults import slots
from tests.faults.slots import SECOND
from tests.schedule.conftest import backdate, declare

STEPS = {"one": SECOND, "two": SECOND}
NEWEST = "(select max(due_at) from ingestd.slot where schedule = 'one')"
COPIED = "kind, queue_id, due_at, triggered_by, metadata"
# What makes a slot fire once: a schedule held by one node at a time, no plan of an older turn or of one that has moved on, and the
# unique key behind all of them.
SAFEGUARDS = (
    " for update of s skip locked",
    "s.turn = p.turn and ",
    "s.next_due_at <= now() and ",
    "on conflict (schedule, due_at) do nothing",
)
DROP_KEY = "alter table ingestd.slot drop constraint slot_schedule_due_at_key"


async def fired(conn: asyncpg.Connection) -> None:
    """Two schedules with ten minutes of slots behind them, of which early ones are missed and share a row."""
    await declare(conn, {name: {"every": "1s", "overlap": "allow"} for name in STEPS})
    await backdate(conn, timedelta(minutes=10))
    await Firer().fire_all(conn)
    assert await conn.fetchval("select max(slots) from ingestd.slot") > 100
    verdict = await slots.judge(conn, await slots.in_service(conn, STEPS))
    assert verdict.even, verdict


@pytest.mark.parametrize(
    ("what", "damage"),
    [
        ("lost", f"delete from ingestd.slot where due_at = {NEWEST} and schedule = 'one'"),
        ("lost", "delete from ingestd.slot where slots > 1 and schedule = 'two'"),
        (
            "doubled",
            f"update ingestd.slot set first_due_at = due_at - interval '1 s', slots = 2 where due_at = {NEWEST} and schedule = 'one'",
        ),
        ("invented", "insert into ingestd.slot (schedule, due_at, state, reason) values ('one', now() + interval '1 ms', 'missed', 'so')"),
        ("invented", "insert into ingestd.slot (schedule, due_at, state, reason) values ('three', now(), 'missed', 'so')"),
        ("unexplained", "update ingestd.slot set reason = null where state = 'missed'"),
        ("jobless", f"delete from ingestd.job where metadata ->> 'due_at' = to_jsonb({NEWEST}) #>> '{{}}'"),
        (
            "twice_run",
            f"insert into ingestd.job ({COPIED}) select {COPIED} from ingestd.job limit 1",
        ),
        (
            "uninvited",
            f"insert into ingestd.job ({COPIED}) select {COPIED} || jsonb_build_object('due_at', now()) from ingestd.job limit 1",
        ),
    ],
)
async def test_the_audit_of_slots_sees_what_is_wrong(conn: asyncpg.Connection, what: str, damage: str) -> None:
    await fired(conn)
    services = await slots.in_service(conn, STEPS)
    await conn.execute(damage)
    verdict = await slots.judge(conn, services)
    assert getattr(verdict, what), verdict
    with pytest.raises(AssertionError, match=what):
        await slots.assert_accounted_for(conn, services)


async def test_firing_without_its_safeguards_is_caught(dsn: str, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = store.FIRE
    for safeguard in SAFEGUARDS:
        assert mutant.count(safeguard) == 1
        mutant = mutant.replace(safeguard, "")
    monkeypatch.setattr(store, "FIRE", mutant)
    await conn.execute(DROP_KEY)
    await declare(conn, {name: {"every": "1s", "overlap": "allow"} for name in STEPS})
    await backdate(conn, 10 * SECOND)
    nodes = [await connect(dsn) for _ in range(3)]
    # All have read what is due before the first fires: what any two nodes may do at any time.
    together = asyncio.Barrier(len(nodes))
    due = store.due

    async def due_to_all(*args: object) -> list[asyncpg.Record]:
        rows = await due(*args)  # type: ignore[arg-type]
        await together.wait()
        return rows

    monkeypatch.setattr(store, "due", due_to_all)
    await asyncio.gather(*(Firer().fire(node) for node in nodes))
    for node in nodes:
        await node.close()
    verdict = await slots.judge(conn, await slots.in_service(conn, STEPS))
    assert verdict.doubled
    assert verdict.twice_run
