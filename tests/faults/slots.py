"""Whether every slot is accounted for, found by arithmetic of the tests' own: no rule of ours is asked what was due when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta

import asyncpg

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
RAN, DID_NOT_RUN = ("fired", "late"), ("skipped", "missed")

SERVICE = "select name, since, accounted_to, removed_at, enabled, clock_timestamp() as now from ingestd.schedule order by name"
SLOTS = "select schedule, due_at, first_due_at, slots, state, reason, job_id, triggered_by from ingestd.slot order by due_at, schedule"
# What a job keeps of its slot; its own due_at is that of its next attempt.
JOBS = """
select id, metadata ->> 'schedule' as schedule, (metadata ->> 'due_at')::timestamptz as due_at
from (select id, metadata, triggered_by from ingestd.job union all select id, metadata, triggered_by from ingestd.history) j
where triggered_by in ('schedule', 'catch_up')"""
# Which node recorded which slot: a daemon's name for its sessions has its node's id in it.
WITNESS = """
create schema if not exists faults;
create table faults.witness (schedule text not null, due_at timestamptz not null, session text not null,
                             at timestamptz not null default clock_timestamp());
create function faults.witness() returns trigger language plpgsql as $$
begin
    insert into faults.witness (schedule, due_at, session) values (new.schedule, new.due_at, current_setting('application_name'));
    return null;
end $$;
create trigger witness after insert on ingestd.slot for each row execute function faults.witness()"""
WITNESSED = "select session, count(*) as slots from faults.witness group by session"


@dataclass(frozen=True)
class Service:
    """A time in which a schedule was due at every multiple of `step` since 1970.

    Args:
        since: no slot at or before.
        until: up to where all slots must be rows.
        over: no slot behind this; None: slots behind `until` may be there already.
    """

    schedule: str
    step: timedelta
    since: datetime
    until: datetime
    over: datetime | None = None

    def due(self) -> Iterator[datetime]:
        """All slots of that time."""
        count = (self.since - EPOCH) // self.step + 1
        while EPOCH + count * self.step <= self.until:
            yield EPOCH + count * self.step
            count += 1

    def allows(self, due_at: datetime) -> bool:
        """Whether a slot of that moment may be there."""
        return (due_at - EPOCH) % self.step == timedelta() and self.since < due_at and (self.over is None or due_at <= self.over)


@dataclass(frozen=True)
class Verdict:
    """What is wrong with the slots; nothing of this may be.

    Args:
        lost: slots that are no row.
        doubled: slots in two rows.
        invented: rows of moments at which nothing was due.
        unexplained: rows of slots that did not run, without a reason.
        jobless: rows of slots that ran whose job is nowhere.
        twice_run: slots with two jobs.
        uninvited: jobs that say they are a slot's, which does not know them.
    """

    lost: Sequence[str]
    doubled: Sequence[str]
    invented: Sequence[str]
    unexplained: Sequence[str]
    jobless: Sequence[str]
    twice_run: Sequence[str]
    uninvited: Sequence[str]

    def __str__(self) -> str:
        wrong = {field.name: list(getattr(self, field.name)) for field in fields(self) if getattr(self, field.name)}
        return "; ".join(f"{len(found)} {name}, such as {found[:5]}" for name, found in wrong.items()) or "every slot is accounted for"

    @property
    def even(self) -> bool:
        """Whether every slot is accounted for."""
        return not any(getattr(self, field.name) for field in fields(self))


async def in_service(conn: asyncpg.Connection, steps: Mapping[str, timedelta]) -> list[Service]:
    """Schedules as they are now, each due at every multiple of its step, up to where they say that they are accounted for."""
    rows = await conn.fetch(SERVICE)
    return [Service(row["name"], steps[row["name"]], row["since"], row["accounted_to"]) for row in rows if row["removed_at"] is None]


async def judge(conn: asyncpg.Connection, services: Sequence[Service]) -> Verdict:
    """Compare what was due with slots and jobs, in one snapshot."""
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        slots = await conn.fetch(SLOTS)
        jobs = await conn.fetch(JOBS)
    by_name: dict[str, list[Service]] = {}
    for service in services:
        by_name.setdefault(service.schedule, []).append(service)
    rows: Counter[tuple[str, datetime]] = Counter()
    invented: list[str] = []
    for slot in slots:
        for due_at in _members(slot, by_name.get(slot["schedule"], [])):
            rows[slot["schedule"], due_at] += 1
        if not any(service.allows(slot["due_at"]) for service in by_name.get(slot["schedule"], [])):
            invented.append(_named(slot["schedule"], slot["due_at"]))
    expected = {(service.schedule, due_at) for service in services for due_at in service.due()}
    ran = {slot["job_id"]: (slot["schedule"], slot["due_at"]) for slot in slots if slot["state"] in RAN}
    made = {job["id"]: (job["schedule"], job["due_at"]) for job in jobs}
    return Verdict(
        lost=[_named(*key) for key in sorted(expected - rows.keys())],
        doubled=[_named(*key) for key, count in sorted(rows.items()) if count > 1],
        invented=invented,
        unexplained=[_named(s["schedule"], s["due_at"]) for s in slots if s["state"] in DID_NOT_RUN and not s["reason"]],
        jobless=[_named(*key) for job_id, key in sorted(ran.items()) if made.get(job_id) != key],
        twice_run=[_named(*key) for key, count in sorted(Counter(made.values()).items()) if count > 1],
        uninvited=[f"job {job_id} of {_named(*key)}" for job_id, key in sorted(made.items()) if ran.get(job_id) != key],
    )


def _members(slot: asyncpg.Record, services: Sequence[Service]) -> Iterator[datetime]:
    """The slots that a row stands for: missed ones of a long gap share one."""
    first = slot["first_due_at"]
    if first is None:
        assert slot["slots"] == 1, slot
        yield slot["due_at"]
        return
    (step,) = {service.step for service in services if service.allows(first) and service.allows(slot["due_at"])}
    members = [first + count * step for count in range((slot["due_at"] - first) // step + 1)]
    assert len(members) == slot["slots"], f"a row for {slot['slots']} slots stands for {len(members)}: {slot}"
    yield from members


def _named(schedule: str, due_at: datetime) -> str:
    return f"{schedule} at {due_at.isoformat()}"


async def assert_accounted_for(conn: asyncpg.Connection, services: Sequence[Service]) -> None:
    """Every slot is one row, with its job or its reason, and no job is there besides.

    Raises:
        AssertionError: names what is otherwise.
    """
    verdict = await judge(conn, services)
    assert verdict.even, verdict


async def up_to_date(conn: asyncpg.Connection, lag: timedelta) -> bool:
    """Whether no schedule in service is further behind than that; an `AssertionError` names the one that is.

    Asked of schedules that are due at least as often.
    """
    behind = [
        f"{row['name']} by {row['now'] - row['accounted_to']}"
        for row in await conn.fetch(SERVICE)
        if row["removed_at"] is None and row["now"] - row["accounted_to"] > lag
    ]
    assert not behind, behind[:5]
    return True


async def witness(conn: asyncpg.Connection) -> None:
    """Have each slot's row remembered with the session that wrote it."""
    await conn.execute(WITNESS)


async def last_session(conn: asyncpg.Connection) -> str | None:
    """The session that has recorded the newest slot."""
    session: str | None = await conn.fetchval("select session from faults.witness order by at desc limit 1")
    return session


async def witnessed(conn: asyncpg.Connection) -> dict[str, int]:
    """Slots recorded, by the session that did."""
    return {row["session"]: row["slots"] for row in await conn.fetch(WITNESSED)}
