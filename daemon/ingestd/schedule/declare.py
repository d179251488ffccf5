"""Declared schedules into the database: what is new, what changed, what is gone, without losing or doubling a slot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg

from ingestd.errors import ConfigurationError, InvalidInput
from ingestd.jobs.checks import checked
from ingestd.jobs.model import NewJob
from ingestd.schedule.firing import Firer
from ingestd.schedule.rules import parse_rule
from ingestd.schedule.settings import ScheduleSettings, ScheduleTarget
from ingestd.schedule.store import declared as store
from ingestd.schedule.store import firing
from ingestd.schedule.store.declared import DeclaredRow
from ingestd.schedule.store.firing import RecordedSlot
from ingestd.settings import did_you_mean

OWNER = "file"
ROWS_A_TURN = 200
REMOVED = "its schedule was removed before it could run"
DISABLED = "its schedule was disabled before it could run"


@dataclass(frozen=True, slots=True)
class CompiledTarget:
    """A schedule's target as a job, so that any node can enqueue it.

    Args:
        priority: -100..100, larger is sooner.
        key: jobs with the same key run one at a time.
    """

    kind: str
    args: Mapping[str, Any] = field(default_factory=dict)
    queue: str = "default"
    priority: int = 0
    max_attempts: int = 4
    key: str | None = None
    tags: tuple[str, ...] = ()


Compile = Callable[[ScheduleTarget], CompiledTarget]


@dataclass(frozen=True, slots=True)
class Applied:
    """What applying a configuration changed.

    Args:
        settled: slots of old rules that were due just then, and are rows now.
        taken_over: schedules made by API or command line that the configuration declares from now on.
    """

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    settled: tuple[RecordedSlot, ...] = ()
    taken_over: tuple[str, ...] = ()


async def apply(conn: asyncpg.Connection, schedules: Mapping[str, ScheduleSettings], compile_target: Compile) -> Applied:
    """Make the declared schedules the ones in service; applying the same ones again changes nothing.

    A schedule whose rule or time zone changed, that is new, enabled again or declared again, has no slots before now. All others
    keep their place. What the old rule still owed is settled first: run by its own policy, or missed if the schedule goes.
    Schedules made by API or command line stay as they are, but for one whose name is among the declared: it is the file's now.

    Args:
        schedules: by name; those of the configuration that are not among them are removed.
        compile_target: turns a target into a job.

    Raises:
        ConfigurationError: a target cannot be compiled, or its queue does not exist.
    """
    async with conn.transaction():
        await store.lock(conn)
        held = await store.hold_all(conn)
        queues = await store.queue_ids(conn)
        jobs = compile_all(schedules, compile_target, queues)
        settled, accounted = await settle(conn, held, schedules)
        now = await firing.now(conn)
        rows: list[DeclaredRow] = []
        for name, settings in schedules.items():
            rows.append(compose(name, settings, jobs[name], queues, held.get(name), now, accounted))
            if len(rows) % ROWS_A_TURN == 0:
                await asyncio.sleep(0)  # thousands of rules take a second to compute; the daemon goes on meanwhile
        written = await store.save(conn, rows)
        await store.move(conn, _moved(row for name, row in held.items() if name not in schedules and row["owner"] != OWNER))
        in_service = {name for name, row in held.items() if row["removed_at"] is None}
        gone = sorted(name for name in in_service - set(schedules) if held[name]["owner"] == OWNER)
        await store.remove(conn, gone)
        if written or gone:
            await store.tell_changed(conn)
    return Applied(
        added=tuple(sorted(written - in_service)),
        changed=tuple(sorted(written & in_service)),
        removed=tuple(gone),
        settled=tuple(settled),
        taken_over=tuple(sorted(name for name in in_service & set(schedules) if held[name]["owner"] != OWNER)),
    )


def compile_all(schedules: Mapping[str, ScheduleSettings], compile_target: Compile, queues: Mapping[str, int]) -> dict[str, CompiledTarget]:
    jobs: dict[str, CompiledTarget] = {}
    problems: list[str] = []
    for name, settings in schedules.items():
        try:
            job = jobs[name] = compile_target(settings.target)
        except ConfigurationError as error:
            problems += error.problems
            continue
        except (ValueError, InvalidInput) as error:
            problems.append(f"[schedules.{name}]: {error}")
            continue
        problem = fault(job, settings, queues)
        if problem is not None:
            problems.append(f"[schedules.{name}]: {problem}")
    if problems:
        raise ConfigurationError(problems)
    return jobs


def _moved(rows: Iterable[asyncpg.Record]) -> dict[str, datetime | None]:
    """Next moments of schedules that stay as they are: a new release of the time zone data may have moved them."""
    found: dict[str, datetime | None] = {}
    for row in rows:
        if row["removed_at"] is None and row["enabled"]:
            # What cannot be computed is told by whoever fires it.
            with suppress(ValueError):
                rule = parse_rule(row["rule"], row["timezone"], row["starts_at"], row["ends_at"])
                following = rule.next_after(row["accounted_to"])
                if following != row["next_due_at"]:
                    found[row["name"]] = following
    return found


def fault(job: CompiledTarget, settings: ScheduleSettings, queues: Collection[str]) -> str | None:
    """Why jobs of a schedule could not be enqueued or read, as any other's would be refused; None if they can."""
    if job.queue not in queues:
        return f'there is no queue "{job.queue}"{did_you_mean(job.queue, queues)}'
    try:
        checked(NewJob(job.kind, job.args, queue=job.queue, tags=tuple(_tags(job, settings)), key=job.key))
    except InvalidInput as error:
        return error.message
    return None


def _tags(job: CompiledTarget, settings: ScheduleSettings) -> list[str]:
    return [*dict.fromkeys([*job.tags, *settings.tags])]


async def settle(
    conn: asyncpg.Connection, held: Mapping[str, asyncpg.Record], schedules: Mapping[str, ScheduleSettings], owner: str = OWNER
) -> tuple[list[RecordedSlot], dict[str, datetime]]:
    """Record what schedules owe that end or change here; returns that, and up to where each of all is accounted for.

    Args:
        held: as they are in the database, held by this transaction.
        schedules: as they shall be; those of `owner` that are not among them go.
    """
    live = {name: row for name, row in held.items() if row["removed_at"] is None and row["enabled"]}
    gone = [name for name, row in live.items() if name not in schedules and row["owner"] == owner]
    disabled = [name for name in live if name in schedules and not schedules[name].enabled]
    changed = [name for name, row in live.items() if name in schedules and schedules[name].enabled and not same_rule(row, schedules[name])]
    firer = Firer()
    settled: list[RecordedSlot] = []
    if changed:
        settled += await firer.fire_all(conn, changed)
    if gone:
        settled += await firer.write_off(conn, gone, REMOVED)
    if disabled:
        settled += await firer.write_off(conn, disabled, DISABLED)
    accounted = {name: row["accounted_to"] for name, row in held.items()}
    for slot in settled:
        accounted[slot.schedule] = max(accounted[slot.schedule], slot.due_at)
    return settled, accounted


def same_rule(row: asyncpg.Record, settings: ScheduleSettings) -> bool:
    """Whether a stored schedule has the times that it is declared with."""
    was = (row["rule"], row["timezone"], row["starts_at"], row["ends_at"])
    return was == (settings.rule, settings.timezone, settings.starts_at, settings.ends_at)


def compose(
    name: str,
    settings: ScheduleSettings,
    job: CompiledTarget,
    queues: Mapping[str, int],
    old: asyncpg.Record | None,
    now: datetime,
    accounted: Mapping[str, datetime],
    owner: str = OWNER,
) -> DeclaredRow:
    """The row of a schedule: one that keeps its rule goes on where it was, any other begins now.

    Args:
        job: its target, compiled.
        old: its row until now, if there ever was one.
        now: when the transaction began.
        accounted: up to where it is accounted for, by name, as `settle` told.
    """
    same = old is not None and old["removed_at"] is None and old["enabled"] == settings.enabled
    goes_on = same and old is not None and same_rule(old, settings)
    # `now` is when the transaction began; a node that was waited for may have fired since: never look behind what it recorded.
    since = old["since"] if goes_on and old is not None else max(now, accounted.get(name, now))
    accounted_to = accounted[name] if goes_on else since
    # Computed again even where nothing changed: a new release of the time zone data may have moved it.
    following = settings.parsed_rule().next_after(accounted_to) if settings.enabled else None
    urgency = job.priority if settings.priority is None else settings.priority
    target = settings.target
    return DeclaredRow(
        name=name,
        rule=settings.rule,
        timezone=settings.timezone,
        spec=settings.model_dump(mode="json", by_alias=True, exclude_none=True),
        target={"type": target.type, "name": target.name},
        enabled=settings.enabled,
        overlap=settings.overlap,
        catch_up=settings.catch_up,
        max_catch_up=settings.max_catch_up,
        start_within=settings.start_within,
        kind=job.kind,
        args=dict(job.args),
        queue_id=queues[job.queue],
        rank=-urgency,
        max_attempts=job.max_attempts,
        key=job.key,
        tags=_tags(job, settings),
        since=since,
        accounted_to=accounted_to,
        next_due_at=following,
        owner=owner,
        finish_within=settings.finish_within,
        target_runtime=settings.target_runtime,
        jitter=settings.jitter,
        starts_at=settings.starts_at,
        ends_at=settings.ends_at,
        after=[dependency.stored() for dependency in settings.after],
    )
