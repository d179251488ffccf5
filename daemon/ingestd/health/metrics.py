"""The daemon's numbers in the Prometheus text format.

Counters follow the bus. Gauges that live in the database are read at most every 15 s, however often somebody scrapes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client import Gauge as PlainGauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from ingestd import logging
from ingestd.events import (
    Bus,
    ConfigurationApplied,
    ConfigurationRefused,
    DatabaseLost,
    Downtime,
    Event,
    FileArrived,
    JobFinished,
    JobRetrying,
    JobSlow,
    JobsRescued,
    JobsSucceeded,
    JobStuck,
    LoadFinished,
    LoopFreed,
    RollupRefreshed,
    SlotFired,
    SlotMissed,
    SlotOverdue,
    SlotSlow,
    SlotsStopped,
    StaleAck,
)
from ingestd.facts import FactBook, Gauge
from ingestd.health.durations import Durations
from ingestd.health.loops import LoopMetrics
from ingestd.postgres.pool import Database
from ingestd.service import LoopState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FRESH_FOR_S = 15.0
READ_TIMEOUT_S = 5.0
MAX_LABEL_VALUES = 200
OTHER = "_other"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)


class GaugeCache(Collector):
    """The rooms' gauges as they were read last.

    Args:
        db: whose `services` connections they are read through.
        facts: every room's gauges.
        version: shown in `ingestd_build_info`.
    """

    def __init__(self, db: Database, facts: FactBook, version: str) -> None:
        self._db = db
        self._facts = facts
        self._version = version
        self._lock = asyncio.Lock()
        self._gauges: list[Gauge] = []
        self._read_at: float | None = None
        self._failed: set[str] = set()

    async def refresh(self) -> None:
        """Read the gauges again if they are older than 15 s; what cannot be read in time keeps no stale value."""
        async with self._lock:
            if self._read_at is not None and time.monotonic() - self._read_at < FRESH_FOR_S:
                return
            gauges: list[Gauge] = []
            self._failed = set()
            for room, facts in self._facts.rooms.items():
                if facts.gauges is None:
                    continue
                try:
                    async with asyncio.timeout(READ_TIMEOUT_S), self._db.services() as conn:
                        gauges += await facts.gauges(conn)
                except Exception:  # noqa: BLE001 - told as ingestd_scrape_error
                    self._failed.add(room)
            self._gauges = gauges
            self._read_at = time.monotonic()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The cached gauges as metric families."""
        info = GaugeMetricFamily("ingestd_build_info", "Always 1; the version is in its label.", labels=["version"])
        info.add_metric([self._version], 1)
        yield info
        errors = GaugeMetricFamily("ingestd_scrape_error", "1 where a room's gauges could not be read.", labels=["room"])
        for room in sorted(self._facts.rooms):
            errors.add_metric([room], float(room in self._failed))
        yield errors
        families: dict[str, tuple[GaugeMetricFamily, list[str]]] = {}
        for gauge in self._gauges:
            names = sorted(gauge.labels)
            family, known = families.setdefault(gauge.name, (GaugeMetricFamily(f"ingestd_{gauge.name}", gauge.help, labels=names), names))
            if names == known:
                family.add_metric([str(gauge.labels[name]) for name in names], gauge.value)
        yield from (family for family, _ in families.values())


class LogLines(Collector):
    """Lines of this process's log, as its output counts them."""

    def collect(self) -> Iterable[CounterMetricFamily]:
        """Lines written by level, and those lost."""
        written, lost = logging.tally()
        lines = CounterMetricFamily("ingestd_log_lines", "Lines written to the log.", labels=["level"])
        for level, count in sorted(written.items()):
            lines.add_metric([level], count)
        yield lines
        yield CounterMetricFamily("ingestd_log_lines_lost", "Lines that whoever reads the log did not take in time.", value=lost)


class Metrics:
    """Counts what happens on the bus and writes everything out on request.

    Args:
        db: see `GaugeCache`.
        facts: see `GaugeCache`.
        bus: whose events are counted.
        version: see `GaugeCache`.
        loops: the daemon's loops by name.
    """

    def __init__(self, db: Database, facts: FactBook, bus: Bus, version: str, loops: Callable[[], Mapping[str, LoopState]] = dict) -> None:
        self.registry = CollectorRegistry()
        self._gauges = GaugeCache(db, facts, version)
        self.registry.register(self._gauges)
        self.registry.register(LoopMetrics(loops))
        ProcessCollector(registry=self.registry)
        self.registry.register(LogLines())
        self._seen: dict[str, set[str]] = {}
        self._listeners = self._make_listeners()
        self._requests = self._counter("http_requests", "HTTP requests answered.", "method", "route", "code")
        self._request_seconds = self._histogram("http_request_duration_seconds", "Time to answer.", "method", "route")
        self._unsubscribe: Callable[[], None] | None = bus.subscribe(self)

    def close(self) -> None:
        """Stop listening to the bus; idempotent."""
        unsubscribe, self._unsubscribe = self._unsubscribe, None
        if unsubscribe is not None:
            unsubscribe()

    async def exposition(self) -> bytes:
        """All metrics as text."""
        await self._gauges.refresh()
        return generate_latest(self.registry)

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one HTTP request."""
        known = method if method in ("GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS") else OTHER
        self._requests.labels(known, route, str(status)).inc()
        self._request_seconds.labels(known, route).observe(seconds)

    def wants(self, kind: type[Event]) -> bool:
        """Whether events of this type are counted."""
        return kind in self._listeners

    def __call__(self, event: Event) -> None:
        """Count an event."""
        if (count := self._listeners.get(type(event))) is not None:
            count(event)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"ingestd_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str) -> PlainGauge:
        return PlainGauge(f"ingestd_{name}", text, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(f"ingestd_{name}", text, labels, registry=self.registry, buckets=_SECONDS)

    def _capped(self, label: str, value: str) -> str:
        """The value, or `_other` once a label has had 200 different ones: memory stays bounded whatever names come."""
        seen = self._seen.setdefault(label, set())
        if value not in seen:
            if len(seen) >= MAX_LABEL_VALUES:
                return OTHER
            seen.add(value)
        return value

    def _make_listeners(self) -> dict[type[Event], Callable[[Any], None]]:
        finished = self._counter("jobs_finished", "Jobs that reached a final state on this node.", "kind", "outcome")
        seconds = Durations("ingestd_job_duration_seconds", "Duration of the last attempt of finished jobs.", _SECONDS)
        self.registry.register(seconds)
        retried = self._counter("jobs_retried", "Attempts that ended in a retry.", "kind")
        stale = self._counter("stale_acks", "Results that came after the job had been given to somebody else.", "kind")
        rescued = self._counter("jobs_rescued", "Jobs taken back from dead nodes by this one.")
        files = self._counter("files_arrived", "New files noticed.", "import_name")
        file_bytes = self._counter("file_bytes", "Bytes of new files.", "import_name")
        loads = self._counter("loads_finished", "Loads that ended.", "import_name", "status")
        records = self._counter("load_records", "Input records by what became of them.", "import_name", "outcome")
        refreshes = self._counter("rollup_refreshes", "Refreshes of a rollup.", "rollup")
        refresh_seconds = self._histogram("rollup_refresh_duration_seconds", "Duration of a refresh.", "rollup")
        fired = self._counter("schedule_slots_fired", "Schedule slots that started a job.", "schedule")
        missed = self._counter("schedule_slots_missed", "Schedule slots that were missed.", "schedule")
        overdue = self._counter("schedule_slots_overdue", "Slots whose job did not start, or not end, in time.", "schedule", "deadline")
        slots_slow = self._counter("schedule_slots_slow", "Slots whose job took longer than target_runtime.", "schedule")
        stopped = self._counter("schedule_stopped", "Times this node saw that no node fires slots.")
        down = self._counter("schedule_downtime_slots", "Slots that fell into a time in which nothing fired them.", "outcome")
        slow = self._counter("jobs_slow", "Jobs that ran far longer than others of their kind.", "kind")
        stuck = self._counter("jobs_stuck", "Jobs that were stopped because they showed no progress.", "kind")
        blocked = self._histogram("loop_blocked_seconds", "Times the main loop did not answer, and for how long.")
        lost = self._counter("database_lost", "Times the database went away.")
        reloads = self._counter("config_reloads", "Times the configuration was read again, by how that ended.", "result")
        in_force = self._gauge("config_last_reload_successful", "1 if the configuration read last is in force, 0 if it was refused.")
        in_force.set(1)
        since = self._gauge("config_last_reload_success_timestamp_seconds", "When a configuration was put in force last.")
        since.set_to_current_time()
        cap = self._capped

        def configuration_applied(_: ConfigurationApplied) -> None:
            reloads.labels("applied").inc()
            in_force.set(1)
            since.set_to_current_time()

        def configuration_refused(_: ConfigurationRefused) -> None:
            reloads.labels("refused").inc()
            in_force.set(0)

        def job_finished(event: JobFinished) -> None:
            kind = cap("kind", event.kind)
            finished.labels(kind, event.state).inc()
            seconds.observe(kind, (event.duration_ms,))

        def jobs_succeeded(event: JobsSucceeded) -> None:
            kind = cap("kind", event.kind)
            finished.labels(kind, "succeeded").inc(len(event.durations_ms))
            seconds.observe(kind, event.durations_ms)

        def file_arrived(event: FileArrived) -> None:
            name = cap("import", event.import_name)
            files.labels(name).inc()
            file_bytes.labels(name).inc(event.size)

        def load_finished(event: LoadFinished) -> None:
            name = cap("import", event.import_name)
            loads.labels(name, event.status).inc()
            for outcome in ("inserted", "updated", "unchanged", "rejected", "superseded"):
                records.labels(name, outcome).inc(getattr(event, outcome))

        def rollup_refreshed(event: RollupRefreshed) -> None:
            name = cap("rollup", event.rollup)
            refreshes.labels(name).inc()
            refresh_seconds.labels(name).observe(event.duration_ms / 1000)

        def downtime(event: Downtime) -> None:
            down.labels("missed").inc(event.missed)
            down.labels("late").inc(event.late)

        return {
            JobsSucceeded: jobs_succeeded,
            JobFinished: job_finished,
            JobRetrying: lambda event: retried.labels(cap("kind", event.kind)).inc(),
            StaleAck: lambda event: stale.labels(cap("kind", event.kind)).inc(),
            JobsRescued: lambda event: rescued.inc(event.count),
            JobSlow: lambda event: slow.labels(cap("kind", event.kind)).inc(),
            JobStuck: lambda event: stuck.labels(cap("kind", event.kind)).inc(),
            ConfigurationApplied: configuration_applied,
            ConfigurationRefused: configuration_refused,
            LoopFreed: lambda event: blocked.observe(event.seconds),
            FileArrived: file_arrived,
            LoadFinished: load_finished,
            RollupRefreshed: rollup_refreshed,
            SlotFired: lambda event: fired.labels(cap("schedule", event.schedule)).inc(),
            SlotMissed: lambda event: missed.labels(cap("schedule", event.schedule)).inc(),
            SlotOverdue: lambda event: overdue.labels(cap("schedule", event.schedule), event.deadline).inc(),
            SlotSlow: lambda event: slots_slow.labels(cap("schedule", event.schedule)).inc(),
            SlotsStopped: lambda _: stopped.inc(),
            Downtime: downtime,
            DatabaseLost: lambda _: lost.inc(),
        }
