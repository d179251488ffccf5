"""What the room of schedules asks of the others when a schedule is made while the daemon runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import asyncpg

from ingestd.app.settings import Settings
from ingestd.app.targets import target_job, unknown_names
from ingestd.errors import InvalidInput
from ingestd.events import Bus
from ingestd.jobs.kinds import require_kind
from ingestd.jobs.options import OURS
from ingestd.jobs.registry import HandlerSpec
from ingestd.jobs.store import queues as queue_store
from ingestd.schedule.declare import CompiledTarget
from ingestd.schedule.definitions import Definitions, read_definition
from ingestd.schedule.firing import announce
from ingestd.schedule.settings import ScheduleSettings, ScheduleTarget
from ingestd.schedule.store import declared as declared_store
from ingestd.settings import did_you_mean


def definitions(settings: Callable[[], Settings], bus: Bus | None = None, specs: Callable[[], Sequence[HandlerSpec]] = list) -> Definitions:
    """What creates, edits and deletes schedules, for a daemon or a command line.

    Args:
        settings: the configuration in force, asked at each use: its imports, rollups and workflows are those that can be named.
        bus: told of slots that a changed schedule still owed.
        specs: kinds whose code is at hand; published if no node has done so yet.
    """
    known = _Known(settings, specs)
    return Definitions(known.compile, known.problems, lambda slots: None if bus is None else announce(bus, slots))


async def lost_names(conn: asyncpg.Connection, settings: Settings) -> list[str]:
    """What schedules made by API or command line start or wait for and the configuration does not declare, one line each."""
    found: list[str] = []
    for row in await declared_store.made_by_hand(conn):
        try:
            found += [message for _, message in unknown_names(row["name"], read_definition(row["name"], row["spec"]), _there(settings))]
        except InvalidInput as error:
            found.append(error.message)
    return found


async def lost_kinds(conn: asyncpg.Connection, schedules: Mapping[str, ScheduleSettings], here: Collection[str]) -> list[str]:
    """Kinds of jobs that declared schedules start or wait for and nobody runs, one line each.

    Args:
        here: the kinds that this node runs; another one may run others.
    """
    known = {*here, *(row["name"] for row in await queue_store.kinds(conn))}
    return [
        f'"{key}" in [schedules.{name}]: no node knows the kind "{kind}"{did_you_mean(kind, known)}'
        for name, schedule in schedules.items()
        for key, kind in _jobs(schedule)
        if kind not in known
    ]


class _Known:
    def __init__(self, settings: Callable[[], Settings], specs: Callable[[], Sequence[HandlerSpec]]) -> None:
        self._settings = settings
        self._specs = specs

    async def compile(self, conn: asyncpg.Connection, target: ScheduleTarget) -> CompiledTarget:
        """The job of a target, with the defaults that nodes have published for its kind: a command line has no handlers."""
        published = {row["name"]: row for row in await queue_store.kinds(conn)}
        if target.type == "job":
            kind = (await require_kind(conn, target.name)).name
            target = ScheduleTarget("job", kind, target.args)
        return compile_target(target, {name: (row["queue"], row["priority"], row["max_attempts"]) for name, row in published.items()})

    async def problems(self, conn: asyncpg.Connection, name: str, schedule: ScheduleSettings) -> list[str]:
        """What a schedule names that is not there, and arguments that do not fit its job."""
        found = [message for _, message in unknown_names(name, schedule, _there(self._settings()))]
        for key, kind in _jobs(schedule):
            found += await self._unfit(conn, f'"{key}" in [schedules.{name}]', kind, schedule.args if key == "job" else None)
        return found

    async def _unfit(self, conn: asyncpg.Connection, place: str, kind: str, args: Mapping[str, object] | None) -> list[str]:
        if kind in OURS:
            return [f"{place}: jobs of the kind {kind} are made by ingestd alone: {OURS[kind]}"]
        if not await queue_store.kind_known(conn, kind):
            await queue_store.publish_missing_kinds(conn, self._specs())
        try:
            published = await require_kind(conn, kind)
            if args is not None:
                published.check([args])
        except InvalidInput as error:
            return [f"{place}: {error.message}"]
        return []


def _jobs(schedule: ScheduleSettings) -> list[tuple[str, str]]:
    """Kinds of jobs that a schedule names, each with the key that does."""
    named = [("job", schedule.job), *(("after", dependency.job) for dependency in schedule.after)]
    return [(key, kind) for key, kind in named if kind]


def _there(settings: Settings) -> dict[str, Collection[str]]:
    return {"import": settings.imports, "rollup": settings.rollups, "workflow": settings.workflows}


def compile_target(target: ScheduleTarget, defaults: Mapping[str, tuple[str, int, int]]) -> CompiledTarget:
    """The job of a target.

    Args:
        defaults: queue, priority and attempts of the kinds that are known.
    """
    job = target_job(target.type, target.name, target.args)
    queue, priority, max_attempts = defaults.get(job.kind, ("default", 0, 4))
    return CompiledTarget(
        job.kind, job.args, queue=job.queue or queue, priority=priority, max_attempts=max_attempts, key=job.key, tags=job.tags
    )
