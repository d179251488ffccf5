"""Applies a configuration to the database, and tells what a reload changes now and what needs a restart."""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from ingestd.admin.binding import bind
from ingestd.app.definitions import compile_target, lost_kinds, lost_names
from ingestd.app.handlers import homeless
from ingestd.app.settings import Settings
from ingestd.app.workflows import unknown_undos
from ingestd.errors import ConfigurationError
from ingestd.events import Bus, Notice
from ingestd.jobs.registry import HandlerSpec
from ingestd.jobs.store import queues as queue_store
from ingestd.rollups import declare as rollup_declare
from ingestd.schedule import declare as schedule_declare
from ingestd.schedule.firing import announce

HOT = ("queues", "imports", "rollups", "schedules", "workflows", "heartbeat", "retention", "logs")
RESTART_ONLY = ("daemon", "database", "admin")
HOT_KEYS = {"admin": ("token", "rate", "trigger_rate")}  # of those sections


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs between two configurations.

    Args:
        changed: sections and keys that take effect at once.
        pending: keys that need a restart.
    """

    changed: tuple[str, ...]
    pending: tuple[str, ...]


def difference(old: Settings, new: Settings) -> Difference:
    """Compare two configurations section by section."""
    changed = [f"[{name}]" for name in HOT if getattr(old, name) != getattr(new, name)]
    pending: list[str] = []
    for name in RESTART_ONLY:
        before, after = getattr(old, name), getattr(new, name)
        for key in type(before).model_fields:
            if getattr(before, key) != getattr(after, key):
                (changed if key in HOT_KEYS.get(name, ()) else pending).append(f"[{name}] {key}")
    return Difference(tuple(changed), tuple(pending))


def merge(old: Settings, new: Settings) -> Settings:
    """The new configuration, but what needs a restart keeps its old value, so that the next reload still tells of it."""
    kept = {}
    for name in RESTART_ONLY:
        hot = {key: getattr(getattr(new, name), key) for key in HOT_KEYS.get(name, ())}
        kept[name] = getattr(old, name).model_copy(update=hot)
    return new.model_copy(update=kept)


def check_address(settings: Settings) -> None:
    """Find out before a configuration is applied whether its node could serve: one that cannot start must not have replaced it.

    Raises:
        PortTaken: another process listens where this node would.
        Refused: the address cannot be bound.
    """
    if "serve" in settings.daemon.duties:
        bind(settings.admin.host, settings.admin.port).close()


async def apply(conn: asyncpg.Connection, settings: Settings, specs: list[HandlerSpec], bus: Bus) -> None:
    """Make the declared queues, rollups and schedules the ones in service, in one transaction.

    Args:
        specs: the kinds this node runs, whose defaults a schedule's job takes.
        bus: told of slots that the old schedules still owed.

    Raises:
        ConfigurationError: something declared does not fit the database, or what undoes a step is not among the kinds of a node
            that has handlers; nothing was changed.
    """
    kinds = [name for spec in specs for name in (spec.kind, *spec.aliases)]
    strange = unknown_undos(settings.workflows, kinds) if settings.daemon.handlers else []
    if strange:
        raise ConfigurationError(strange)
    defaults = {name: (spec.queue, spec.priority, spec.max_attempts) for spec in specs for name in (spec.kind, *spec.aliases)}
    async with conn.transaction():
        for name, queue in settings.all_queues().items():
            await queue_store.declare_queue(conn, name, queue)
        await rollup_declare.apply(conn, settings.rollups)
        applied = await schedule_declare.apply(conn, settings.schedules, lambda target: compile_target(target, defaults))
        lost = await lost_names(conn, settings)
        unknown = await lost_kinds(conn, settings.schedules, kinds) if settings.daemon.handlers else []
        unknown += homeless(specs, [row["name"] for row in await queue_store.queues(conn)])
    announce(bus, applied.settled)
    for name in applied.taken_over:
        bus.emit(Notice(f'schedule "{name}" was made by API or command line; the configuration declares it: it is the file\'s from now on'))
    for problem in lost:
        bus.emit(Notice(f"a schedule made by API or command line names what is not declared: {problem}"))
    for problem in unknown:
        bus.emit(Notice(problem))
