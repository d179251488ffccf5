"""What people do to schedules: each an effect and its audit row in one transaction."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import asyncpg

from ingestd.access.roles import Actor
from ingestd.access.store import record_audit
from ingestd.errors import Conflict, InvalidInput, JobOpen, TooOften
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob, Slot
from ingestd.schedule.rules import Rule, in_zone, parse_rule
from ingestd.schedule.store import controls as store
from ingestd.schedule.store.reads import no_such_schedule
from ingestd.schedule.zones import find_zone

MOST_TRIGGERS = 10
TRIGGERS_WITHIN = timedelta(minutes=1)
_DOORS = ("api", "cli", "page")
_INSTANT = timedelta(microseconds=1)


async def trigger(conn: asyncpg.Connection, actor: Actor, name: str, reason: str | None = None) -> int:
    """Start a schedule's target now, apart from its slots; it may be paused or disabled, and waits for nothing.

    It becomes a slot of its own, due now.

    Args:
        reason: kept with the job, with the slot and in the audit log.

    Returns:
        The job's id.

    Raises:
        NotFound: no such schedule.
        JobOpen: `overlap = "skip"`, and its last job is still open; names that job.
        Conflict: it starts a workflow of which another run is open, and there may be only one.
        TooOften: it was triggered ten times within a minute.
    """
    async with conn.transaction():
        schedule = await _hold(conn, name)
        await _check_free(conn, schedule)
        moment = await store.moment(conn)
        lately = [at for at in schedule["triggers"] if moment - TRIGGERS_WITHIN < at <= moment]
        _check_rate(name, lately, moment)
        (job_id,) = await enqueue(conn, [_job(actor, schedule, moment, reason)])
        told = f"started by {actor.name}" + (f": {reason}" if reason else "")
        await store.triggered(conn, name, job_id, moment, told, _door(actor), [*lately, moment])
        await record_audit(conn, actor, "trigger", "schedule", name, {"job_id": job_id, "reason": reason})
    return job_id


async def _check_free(conn: asyncpg.Connection, schedule: asyncpg.Record) -> None:
    name = schedule["name"]
    busy = await store.open_job(conn, name) if schedule["overlap"] == "skip" else None
    if busy is not None:
        raise JobOpen(
            f'schedule "{name}" is still busy with job {busy}',
            job_id=busy,
            current_state="running",
            hint='wait for the job, cancel it, or set overlap = "queue" or "allow"',
        )
    run = await store.busy_run(conn, name)
    if run is not None:
        raise Conflict(
            f'run {run} of workflow {schedule["args"]["workflow"]}, which schedule "{name}" starts, is still open',
            current_state="running",
            hint="wait for the run, or cancel it",
        )


def _check_rate(name: str, lately: list[datetime], now: datetime) -> None:
    if len(lately) < MOST_TRIGGERS:
        return
    wait = max((lately[-MOST_TRIGGERS] + TRIGGERS_WITHIN - now).total_seconds(), 0.0)
    raise TooOften(
        f'schedule "{name}" was started by hand {len(lately)} times within a minute, which is as often as it may be',
        retry_after_s=wait,
        hint=f"try again in {int(wait) + 1} s, or enqueue the job itself",
    )


def _door(actor: Actor) -> str:
    return actor.via if actor.via in _DOORS else "api"


def _job(actor: Actor, schedule: asyncpg.Record, moment: datetime, reason: str | None) -> NewJob:
    in_line = f"schedule:{schedule['name']}" if schedule["overlap"] == "queue" else None
    return NewJob(
        kind=schedule["kind"],
        args=schedule["args"],
        queue=schedule["queue"],
        priority=-schedule["rank"],
        max_attempts=schedule["max_attempts"],
        key=schedule["key"] or in_line,
        tags=tuple(schedule["tags"]),
        notes=reason,
        metadata=Slot(schedule["name"], moment).written(),
        correlation_id=actor.correlation_id,
        triggered_by=_door(actor),
    )


async def pause(
    conn: asyncpg.Connection,
    actor: Actor,
    name: str,
    reason: str | None = None,
    *,
    until: datetime | None = None,
    lasting: timedelta | None = None,
) -> bool:
    """Record a schedule's slots as skipped from now on; survives reloads. Pausing again changes until when, and why.

    Args:
        reason: kept with the slots; None: what was said before, if it is paused already.
        until: slots due before are skipped; without an offset it is read in the schedule's time zone.
        lasting: the same, counted from now. Neither: until it is resumed.

    Returns:
        False if it was paused like that already.

    Raises:
        NotFound: no such schedule.
        InvalidInput: `until` is over, or given together with `lasting`.
    """
    async with conn.transaction():
        schedule = await _hold(conn, name)
        end = _end_of_pause(schedule, until, lasting)
        why = reason or (schedule["pause_reason"] if schedule["paused"] else None)
        changed = not schedule["paused"] or (schedule["paused_until"], schedule["pause_reason"]) != (end, why)
        if changed:
            await store.pause(conn, name, actor.name, end, why, again=schedule["paused"])
            await record_audit(conn, actor, "pause", "schedule", name, {"reason": why, "until": _text(end)})
    return changed


def _end_of_pause(schedule: asyncpg.Record, until: datetime | None, lasting: timedelta | None) -> datetime | None:
    if until is not None and lasting is not None:
        raise InvalidInput("give either until when or for how long, not both", pointer="/until")
    now: datetime = schedule["now"]
    try:
        if lasting is not None:
            if lasting <= timedelta():
                raise InvalidInput("a pause lasts longer than 0s", pointer="/for")
            return now + lasting
        end = None if until is None else in_zone(until, find_zone(schedule["timezone"]))
    except OverflowError:
        raise InvalidInput("the end of the pause is beyond the calendar", pointer="/until" if lasting is None else "/for") from None
    except ValueError as error:
        raise InvalidInput(f"the end of the pause cannot be read: {error}", pointer="/until") from None
    if end is not None and end <= now:
        raise InvalidInput(f"the pause would be over already: it is {now:%Y-%m-%d %H:%M:%S} UTC now", pointer="/until")
    return end


async def resume(conn: asyncpg.Connection, actor: Actor, name: str, *, from_now: bool = False) -> bool:
    """Let a schedule's slots fire again, from the next one on.

    Args:
        from_now: one that is accounted for beyond now, because the database's clock has been ahead, goes back to now and waits no
            longer. What was only recorded of the time to come is forgotten; a slot that has had its job does not fire again.

    Returns:
        False if it was neither paused nor, with `from_now`, ahead.

    Raises:
        NotFound: no such schedule.
        Conflict: its slots cannot be computed.
    """
    async with conn.transaction():
        schedule = await _hold(conn, name)
        ahead = schedule["accounted_to"] if from_now and schedule["accounted_to"] > schedule["now"] else None
        changed = bool(schedule["paused"] or ahead)
        if schedule["paused"]:
            await store.resume(conn, name)
        if ahead is not None:
            await store.go_back(conn, name, _rule(schedule).next_after(schedule["now"]))
        if changed:
            detail = None if ahead is None else {"accounted_to": _text(ahead), "back_to": _text(schedule["now"])}
            await record_audit(conn, actor, "resume", "schedule", name, detail)
    return changed


async def skip_next(conn: asyncpg.Connection, actor: Actor, name: str, reason: str | None = None) -> datetime:
    """Pass over a schedule's next slot, once; the ones behind it fire. Asking again changes nothing but the reason.

    Args:
        reason: kept with the slot; None: what was said before.

    Returns:
        When the slot is due that will be skipped; of a schedule paused for a while, the first one behind the pause.

    Raises:
        NotFound: no such schedule.
        Conflict: it has no slot to come that would fire.
    """
    async with conn.transaction():
        schedule = await _hold(conn, name)
        due_at = _next_to_fire(schedule)
        again = schedule["skip_at"] == due_at
        why = reason or (schedule["skip_reason"] if again else None)
        if not again or why != schedule["skip_reason"]:
            await store.skip(conn, name, due_at, actor.name, why)
            await record_audit(conn, actor, "skip_next", "schedule", name, {"due_at": _text(due_at), "reason": why})
    return due_at


def _next_to_fire(schedule: asyncpg.Record) -> datetime:
    name = schedule["name"]
    if not schedule["enabled"]:
        raise Conflict(f'schedule "{name}" is disabled: it has no slots to skip', current_state="disabled")
    if schedule["paused"] and schedule["paused_until"] is None:
        raise Conflict(
            f'schedule "{name}" is paused until it is resumed: all its slots are skipped',
            current_state="paused",
            hint="resume it first, or pause it until a moment",
        )
    start = schedule["now"] if not schedule["paused"] else schedule["paused_until"] - _INSTANT
    due_at = _rule(schedule).next_after(start)
    if due_at is None:
        raise Conflict(f'schedule "{name}" is over: it has no slot to come', current_state="over")
    return due_at


def _rule(schedule: asyncpg.Record) -> Rule:
    try:
        return parse_rule(schedule["rule"], schedule["timezone"], schedule["starts_at"], schedule["ends_at"])
    except ValueError as error:
        raise Conflict(f'the slots of schedule "{schedule["name"]}" cannot be computed: {error}', current_state="problem") from None


async def unskip(conn: asyncpg.Connection, actor: Actor, name: str) -> bool:
    """Let the slot fire that was to be passed over.

    Returns:
        False if none was.

    Raises:
        NotFound: no such schedule.
    """
    async with conn.transaction():
        due_at: datetime | None = (await _hold(conn, name))["skip_at"]
        if due_at is not None:
            await store.skip(conn, name, None)
            await record_audit(conn, actor, "unskip", "schedule", name, {"due_at": _text(due_at)})
    return due_at is not None


async def _hold(conn: asyncpg.Connection, name: str) -> Any:
    held = await store.hold_one(conn, name)
    if held is None:
        raise await no_such_schedule(conn, name)
    return held


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
