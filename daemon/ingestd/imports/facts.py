"""What imports know about themselves."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import asyncpg

from ingestd.events import Bus, Event, LoadFinished
from ingestd.facts import Check, Gauge, RoomFacts
from ingestd.imports.settings import ImportSettings
from ingestd.imports.sources.folder import look_at_folder
from ingestd.imports.store import reads, records
from ingestd.imports.watch import ArrivalWatch, Imports
from ingestd.jobs.failing import failure_check, failure_gauges

OUTCOMES = ("inserted", "updated", "unchanged", "rejected", "superseded")


class ImportFacts:
    """The room's gauges and checks.

    Args:
        imports: the imports of the configuration in force.
        bus: loads are counted as they finish in this process.
        watch: this process's folder watch, if it has one.
        failures_in_a_row: so many loads make an import unhealthy.
    """

    def __init__(self, imports: Imports, bus: Bus, watch: ArrivalWatch | None, failures_in_a_row: Callable[[], int]) -> None:
        self._imports = imports
        self._failures_in_a_row = failures_in_a_row
        self._watch = watch
        self._records: Counter[tuple[str, str]] = Counter()
        bus.subscribe(self._count)

    async def gauges(self, conn: asyncpg.Connection) -> list[Gauge]:
        """Records by outcome, pending loads, and how fresh each source is."""
        names = list(self._imports())
        found = [
            Gauge(
                "ingest_records_total",
                float(number),
                "Records loaded by this process, by outcome.",
                {"import": name, "outcome": outcome},
            )
            for (name, outcome), number in sorted(self._records.items())
        ]
        pending = await reads.pending(conn)
        waits = [Gauge("loads_pending", float(pending.get(name, 0)), "Loads that wait or run.", {"import": name}) for name in names]
        ages = [
            Gauge("source_freshness_seconds", seconds, "Time since a file last arrived.", {"import": name})
            for name, seconds in (await reads.freshness(conn, names)).items()
        ]
        return [*found, *waits, *ages, *failure_gauges("import", await records.streaks(conn, names))]

    async def checks(self, conn: asyncpg.Connection) -> list[Check]:
        """Whether sources can be read, whether an import fails again and again, and whether failed loads hold others up."""
        found = [await self._source_check(name, settings) for name, settings in self._imports().items() if settings.pattern]
        streaks = await records.streaks(conn, list(self._imports()))
        return [*found, failure_check("import", streaks, self._failures_in_a_row()), await _blocked_check(conn)]

    async def _source_check(self, name: str, settings: ImportSettings) -> Check:
        assert settings.pattern is not None
        trouble = await asyncio.to_thread(look_at_folder, settings.pattern.base)
        problems = [trouble] if trouble else self._watch.problems(name) if self._watch else []
        return Check(
            f"import_{name}_source",
            "degraded" if problems else "healthy",
            "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "") or "readable",
            hint="make it, or let the daemon's user read it; it is picked up by itself then" if problems else "",
        )

    def _count(self, event: Event) -> None:
        if isinstance(event, LoadFinished):
            for outcome in OUTCOMES:
                self._records[event.import_name, outcome] += getattr(event, outcome)


async def _blocked_check(conn: asyncpg.Connection) -> Check:
    # Those that somebody waits behind first: the hint is about the first one that the value names.
    blocking = sorted(await reads.blocking_loads(conn), key=lambda item: not item[0]["waiting"])
    held_up = [
        f"load {row['id']} ({row['file_name']}) failed and holds up {row['waiting']} into {row['target']}"
        for row, _ in blocking
        if row["waiting"]
    ]
    idle = f"{len(blocking)} failed load(s) would hold up the next" if blocking else "none"
    first = blocking[0] if blocking else None
    return Check(
        "loads_blocked",
        "degraded" if blocking else "healthy",
        "; ".join(held_up[:3]) or idle,
        "0",
        since=min((since for _, since in blocking), default=None),
        hint=f"ingestd loads retry {first[0]['id']} once its cause is gone, or ingestd loads skip {first[0]['id']}" if first else "",
    )


def facts(imports: Imports, bus: Bus, watch: ArrivalWatch | None = None, failures_in_a_row: Callable[[], int] = lambda: 3) -> RoomFacts:
    """The room's gauges and checks."""
    room = ImportFacts(imports, bus, watch, failures_in_a_row)
    return RoomFacts(gauges=room.gauges, checks=room.checks)
