"""What the tests of the watch share: slots with jobs, and jobs that begin and end without a worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from ingestd.events import Bus, Event
from ingestd.jobs.model import PARKED_CHILDREN, State
from ingestd.jobs.store.ack import PutBack, Result, ack, put_back
from ingestd.postgres.pool import Database
from ingestd.schedule.watch import SlotWatch
from ingestd.testing.store import take

NOTHING = timedelta()


async def slot_with_job(
    conn: asyncpg.Connection,
    name: str = "one",
    *,
    age: timedelta = timedelta(seconds=2),
    start_within: timedelta | None = None,
    finish_within: timedelta | None = None,
    target_runtime: timedelta | None = None,
    kind: str = "tick",
) -> int:
    """A slot that fired so long ago, with its job; returns the job's id."""
    job_id: int = await conn.fetchval(
        """insert into ingestd.job (kind, queue_id, triggered_by, created_at, run_at, due_at)
           select $1, id, 'schedule', now() - $2::interval, now() - $2::interval, now() - $2::interval
           from ingestd.queue where name = 'default' returning id""",
        kind,
        age,
    )
    await conn.execute(
        """insert into ingestd.slot (schedule, due_at, state, job_id, fired_at, start_by, finish_by, target_runtime, check_at)
           select $1, t, 'fired', $2, t, t + $4::interval, t + $5::interval, $6::interval, t + interval '1 second'
           from (select now() - $3::interval as t) at""",
        name,
        job_id,
        age,
        start_within,
        finish_within,
        target_runtime,
    )
    return job_id


async def begin(conn: asyncpg.Connection, job_id: int, ago: timedelta = NOTHING) -> UUID:
    """Let a job be claimed, so long ago; returns its claim."""
    claim = uuid4()
    assert await take(conn, job_id, claim, uuid4()) is not None
    await conn.execute("update ingestd.job set claimed_at = now() - $2::interval where id = $1", job_id, ago)
    return claim


async def end(
    conn: asyncpg.Connection,
    job_id: int,
    claim: UUID,
    state: State = State.SUCCEEDED,
    *,
    took: timedelta = NOTHING,
    ago: timedelta = NOTHING,
    partial: bool = False,
) -> None:
    """Let a job end, so long ago and after so long."""
    result = Result(job_id, claim, state, partial, duration_ms=round(took.total_seconds() * 1000))
    assert await ack(conn, [result]) == {job_id}
    await conn.execute("update ingestd.history set finished_at = finished_at - $2::interval where id = $1", job_id, ago)


async def wait_for_children(conn: asyncpg.Connection, job_id: int, claim: UUID) -> None:
    """Let a running job rest until what it has started is over."""
    assert await put_back(conn, [PutBack(job_id, claim, NOTHING, spent=False, parked=PARKED_CHILDREN)]) == {job_id}


async def slot_of(conn: asyncpg.Connection, job_id: int) -> asyncpg.Record:
    """The slot of a job, and the database's clock as `now`."""
    row = await conn.fetchrow("select *, now() as now from ingestd.slot where job_id = $1", job_id)
    assert row is not None
    return row


async def pulse(conn: asyncpg.Connection, age: timedelta) -> None:
    """Let slots have been looked after for the last time so long ago."""
    await conn.execute(
        "insert into ingestd.schedule_pulse (at) values (now() - $1::interval) on conflict (one) do update set at = excluded.at", age
    )


@dataclass
class Watching:
    """A watch without its loop, and what it tells."""

    db: Database
    told: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        bus = Bus()
        bus.subscribe(self.told.append)
        self.watch = SlotWatch(self.db, bus)

    async def look(self, conn: asyncpg.Connection) -> None:
        """Look at every slot that is still open, now."""
        await conn.execute("update ingestd.slot set check_at = now() where check_at is not null")
        await self.watch.poll()

    def heard(self, kind: type[Any]) -> list[Any]:
        """Events of a type, in their order."""
        return [event for event in self.told if isinstance(event, kind)]


async def age_slot(conn: asyncpg.Connection, job_id: int, by: timedelta) -> datetime:
    """Move everything that is recorded of a slot into the past; returns when it was due since."""
    moment: datetime = await conn.fetchval(
        """update ingestd.slot set due_at = due_at - $2::interval, fired_at = fired_at - $2::interval, start_by = start_by - $2::interval,
           finish_by = finish_by - $2::interval, started_at = started_at - $2::interval, check_at = check_at - $2::interval
           where job_id = $1 returning due_at""",
        job_id,
        by,
    )
    return moment
