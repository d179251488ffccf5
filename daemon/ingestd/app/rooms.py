"""Builds the rooms of one node from its configuration and wires what would otherwise have to import upwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from ingestd import __version__
from ingestd.access.book import TokenBook
from ingestd.admin.feed import Feed
from ingestd.admin.settings import AdminSettings
from ingestd.app import facts as app_facts
from ingestd.app import handlers as app_handlers
from ingestd.app.definitions import definitions
from ingestd.app.settings import Settings
from ingestd.app.successes import successes
from ingestd.app.targets import target_job
from ingestd.events import Bus, Event, LoadFinished
from ingestd.facts import FactBook
from ingestd.files.spool import Store
from ingestd.health import horizon
from ingestd.health.checks import HealthRunner
from ingestd.health.horizon import Horizon
from ingestd.imports import facts as import_facts
from ingestd.imports import handlers as import_handlers
from ingestd.imports.arrivals import Intake
from ingestd.imports.loader import LoaderPool
from ingestd.imports.watch import ArrivalWatch
from ingestd.jobs import facts as job_facts
from ingestd.jobs import handlers as job_handlers
from ingestd.jobs.care import Care
from ingestd.jobs.promoter import Promoter
from ingestd.jobs.registry import HandlerSpec, Registry
from ingestd.jobs.workflow import Workflow
from ingestd.logging import conceal
from ingestd.postgres.listen import Listener
from ingestd.postgres.pool import Database
from ingestd.redaction import secrets_in
from ingestd.rollups import facts as rollup_facts
from ingestd.rollups import handlers as rollup_handlers
from ingestd.rollups.upkeep import Upkeep
from ingestd.schedule import facts as schedule_facts
from ingestd.schedule.ping import Ping
from ingestd.schedule.scheduler import Scheduler
from ingestd.schedule.store import firing as slot_store
from ingestd.schedule.watch import SlotWatch
from ingestd.service import LoopState, Poller
from ingestd.work import facts as work_facts
from ingestd.work.autoscale import Autoscaler
from ingestd.work.heartbeat import Heartbeat
from ingestd.work.lines import Lines
from ingestd.work.node import NodeIdentity
from ingestd.work.presence import Presence
from ingestd.work.rescuer import Rescuer
from ingestd.work.watchdog import Watchdog
from ingestd.work.worker import Worker

JOB_CHANNEL = "ingestd_job"
SCHEDULE_CHANNEL = "ingestd_schedule"
ACCESS_CHANNEL = "ingestd_access"


@dataclass
class InForce:
    """The configuration in force. A reload replaces it; rooms ask it at each use."""

    settings: Settings
    workflows: dict[str, Workflow] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.replace(self.settings)

    def replace(self, settings: Settings) -> None:
        """Put another configuration in force."""
        # Of the one before as well: what was said with its secrets may still be on its way.
        conceal(secrets_in(settings))
        self.settings = settings
        self.workflows = {name: declared.compile(name, target_job) for name, declared in settings.workflows.items()}


class Rooms:
    """Everything one node consists of, built and wired but not started.

    Args:
        in_force: the configuration.
        db: open pools.
        store: the open store of this state folder.
        node: who this is.
        bus: where events are told.
        folders: searched for the user's handler modules, in this order.
        extra: further kinds of jobs, of the demo.
        loops: the node's loops, as its supervisor knows them.
        on_drain: called with a name when somebody asks this node to drain.
        feed: keeps the service manager's watchdog quiet while the node is well.
    """

    def __init__(
        self,
        in_force: InForce,
        db: Database,
        store: Store,
        node: NodeIdentity,
        bus: Bus,
        folders: Sequence[Path],
        extra: list[HandlerSpec],
        loops: Callable[[], Mapping[str, LoopState]] = dict,
        on_drain: Callable[[str], None] = lambda asker: None,
        feed: Callable[[], None] = lambda: None,
    ) -> None:
        settings = in_force.settings
        self.in_force = in_force
        self.db = db
        self.node = node
        self.bus = bus
        self.facts = FactBook()
        self.admin_url: str | None = None
        self.renew_admin: Callable[[AdminSettings], None] = lambda _: None

        self.intake = Intake(db, store, bus)
        self.watch = ArrivalWatch(self._imports, self.intake, bus)
        self.loaders = LoaderPool(
            db.dsn,
            size=settings.slots().get("imports", 1) or 1,
            application_name=node.application_name,
            bus=bus,
            pooled=db.pooled,
        )
        self.health = HealthRunner(db, self.facts, loops, settings.daemon.state_dir)
        self.registry = Registry(
            [
                *import_handlers.handlers(self._imports, store, self.loaders, self.watch),
                *rollup_handlers.handlers(),
                *job_handlers.handlers(),
                *app_handlers.handlers(lambda: in_force.settings.retention, lambda: in_force.workflows, self._health_report, [_tidy_slots]),
                *app_handlers.user_handlers(settings.daemon.handlers, folders),
                *extra,
            ]
        )

        self.promoter = Poller("promoter", Promoter(db, lambda: self.worker.wake()).poll, bus)
        self.worker = Worker(db, bus, self.registry, node, settings.slots(), self.promoter.wake)
        self.watchdog = Watchdog(
            db,
            bus,
            self.registry,
            self.worker.running_jobs,
            self.worker.interrupt,
            settings.daemon.stuck_after.total_seconds(),
        )
        self.lines = Poller("lines", Lines(db, bus).poll, bus)
        self.horizon = Horizon(db, bus)
        self.care = Care(db, bus)
        self.rollups = Poller("rollups", Upkeep(db).poll, bus)
        self.scheduler = Scheduler(db, bus, successes)
        self.slot_watch = SlotWatch(db, bus)
        self.feed = Feed(db, bus, node.name)
        scheduling = self.scheduler.state if "schedule" in settings.daemon.duties else None
        self.ping = Ping(db, bus, lambda: in_force.settings.heartbeat, scheduling)
        self.definitions = definitions(lambda: in_force.settings, bus, self.registry.specs)
        self.presence = Presence(settings.daemon.state_dir / "nodes")
        self.rescuer = Rescuer(db, node, self.presence, bus, lambda: self.heartbeat.sessions, settings.daemon.stall_limit.total_seconds())
        self.tokens = TokenBook(db)
        self.token_reader = Poller("tokens", self.tokens.poll, bus)
        self.tokens.wake = self.token_reader.wake
        self.listener = Listener(
            db,
            {
                JOB_CHANNEL: self._on_job,
                SCHEDULE_CHANNEL: lambda _: self.scheduler.wake(),
                ACCESS_CHANNEL: lambda _: self.token_reader.wake(),
            },
        )
        self.heartbeat = Heartbeat(
            db,
            node,
            bus,
            version=__version__,
            duties=list(settings.daemon.duties),
            queues=list(settings.slots()),
            kinds=self.registry.kinds,
            admin_url=lambda: self.admin_url,
            running=self.worker.running_jobs,
            stall_limit_s=settings.daemon.stall_limit.total_seconds(),
            blocked_after_s=settings.daemon.blocked_after.total_seconds(),
            feed=feed,
        )
        self.autoscaler = Autoscaler(db, node, bus, self.worker.claimer, self.registry.kinds, lambda: self.heartbeat.lag_ms, on_drain)
        self._collect_facts()
        bus.subscribe(self._on_event)

    def _imports(self) -> Mapping[str, Any]:
        return self.in_force.settings.imports

    def _failures_in_a_row(self) -> int:
        return self.in_force.settings.daemon.failures_in_a_row

    async def _health_report(self) -> Mapping[str, Any]:
        report = await self.health.report()
        return {
            "status": report.status,
            "checks": [{"name": check.name, "status": check.status, "value": check.value} for check in report.checks],
        }

    def _on_job(self, payload: str) -> None:
        place = payload.count(" ") == 2
        if place or payload != "keys":
            self.worker.claimer.hear(payload)
        if not place:
            # Only what says no more than its queue, or that it has a key, may have to be freed first.
            self.promoter.wake()

    def _on_event(self, event: Event) -> None:
        # Rows have changed: the dirty log has something to say.
        if isinstance(event, LoadFinished) and event.status in ("succeeded", "partial"):
            self.rollups.wake()

    def _collect_facts(self) -> None:
        self.facts.add("app", app_facts.facts(self.bus))
        self.facts.add("jobs", job_facts.facts(lambda: self.in_force.workflows, self._failures_in_a_row))
        self.facts.add("work", work_facts.facts())
        self.facts.add("watchdog", self.watchdog.facts())
        self.facts.add("imports", import_facts.facts(self._imports, self.bus, self.watch, self._failures_in_a_row))
        self.facts.add("rollups", rollup_facts.facts())
        self.facts.add("health", horizon.facts(self.horizon))
        self.facts.add("schedule", schedule_facts.facts(self.scheduler, self.slot_watch, self.ping, self._failures_in_a_row))


async def _tidy_slots(conn: asyncpg.Connection) -> Mapping[str, int]:
    return {"slot_partitions_made": await slot_store.make_partitions(conn)}
