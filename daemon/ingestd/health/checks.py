"""Runs every room's health checks, plus the daemon's own: database, loops, disk.

Weakness: one answer is shared by all who ask within a second, so that eager probes cost nothing; it may be that old.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import asyncpg

from ingestd.facts import Check, CheckSource, FactBook, Status, worst
from ingestd.health.store import ping
from ingestd.postgres.outage import OUTAGE, reason
from ingestd.postgres.pool import Database
from ingestd.service import LoopState

SOURCE_TIMEOUT_S = 3.0
# Whoever asks during trouble is told soon that there is some.
ALL_TIMEOUT_S = 5.0
SHARED_FOR_S = 1.0
SLOW_PING_MS = 500
LATE_AFTER_S = 30.0
DISK_LOW_BYTES = 2 << 30
DISK_LOW_RATIO = 0.05
DISK_FULL_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Report:
    """All checks at one moment.

    Args:
        status: the worst of them.
        at: when they were run.
    """

    status: Status
    checks: tuple[Check, ...]
    at: datetime

    def find(self, name: str) -> Check | None:
        """The check of that name."""
        return next((check for check in self.checks if check.name == name), None)


class HealthRunner:
    """Runs the checks when asked.

    Args:
        db: whose `services` connections the checks read through.
        facts: every room's checks.
        loops: the daemon's loops by name.
        state_dir: the folder whose disk is watched; None: none.
    """

    def __init__(
        self,
        db: Database,
        facts: FactBook,
        loops: Callable[[], Mapping[str, LoopState]],
        state_dir: Path | None = None,
    ) -> None:
        self._db = db
        self._facts = facts
        self._loops = loops
        self._state_dir = state_dir
        self._lock = asyncio.Lock()
        self._latest: Report | None = None
        self._latest_at = 0.0
        self._since: dict[str, datetime] = {}

    async def report(self) -> Report:
        """All checks, run now or less than a second ago."""
        async with self._lock:
            if self._latest is None or time.monotonic() - self._latest_at > SHARED_FOR_S:
                self._latest = await self._run()
                self._latest_at = time.monotonic()
            return self._latest

    async def _run(self) -> Report:
        checks = [await self._database()]
        if checks[0].status != "critical":  # the rooms would only repeat that the database is away
            began = time.monotonic()
            for room, facts in self._facts.rooms.items():
                if facts.checks is not None and time.monotonic() - began > ALL_TIMEOUT_S:
                    checks.append(Check(room, "degraded", "not asked: Postgres is too slow", hint=SLOW))
                elif facts.checks is not None:
                    checks += await self._ask(room, facts.checks)
        checks.append(self._loop_check())
        if self._state_dir is not None:
            checks.append(await asyncio.to_thread(disk_check, self._state_dir))
        dated = tuple(self._date(check) for check in checks)
        return Report(worst([check.status for check in dated]), dated, datetime.now(UTC))

    async def _database(self) -> Check:
        began = time.perf_counter()
        try:
            async with asyncio.timeout(SOURCE_TIMEOUT_S), self._db.services() as conn:
                writable, ours = await ping(conn)
        except (*OUTAGE, asyncpg.PostgresError) as error:
            text = f"unreachable: {reason(error)}"
            full = isinstance(error.__cause__ or error, asyncpg.TooManyConnectionsError)
            hint = FULL if full else SILENT if isinstance(error, TimeoutError) else "start Postgres, or check [database] url"
            return Check("database", "critical", text[:300], hint=hint)
        if not ours:
            return Check("database", "critical", "it holds no tables of ingestd", hint=EMPTY)
        if not writable:
            return Check("database", "critical", "it takes no writes", hint=READ_ONLY)
        took_ms = (time.perf_counter() - began) * 1000
        status: Status = "degraded" if took_ms > SLOW_PING_MS else "healthy"
        return Check("database", status, f"{took_ms:.1f} ms", f"{SLOW_PING_MS} ms", hint="" if status == "healthy" else SLOW)

    async def _ask(self, room: str, source: CheckSource) -> list[Check]:
        try:
            async with asyncio.timeout(SOURCE_TIMEOUT_S), self._db.services() as conn:
                return await source(conn)
        except TimeoutError:
            return [Check(room, "degraded", f"no answer within {SOURCE_TIMEOUT_S:g} s", hint=SLOW)]
        except Exception as error:  # noqa: BLE001 - a check that fails is itself a finding
            return [Check(room, "degraded", f"the check failed: {type(error).__name__}: {error}"[:300])]

    def _loop_check(self) -> Check:
        loops = dict(self._loops())
        failing = [f"{name}: {state.error}" for name, state in sorted(loops.items()) if state.failures]
        late = [f"{name} is late by {by:.0f} s" for name, state in sorted(loops.items()) if (by := late_by_s(state)) > 0]
        if failing or late:
            hint = "the daemon retries by itself; its log tells more"
            return Check("loops", "degraded", "; ".join([*failing, *late])[:300], hint=hint)
        return Check("loops", "healthy", f"{len(loops)} turning")

    def _date(self, check: Check) -> Check:
        if check.status == "healthy":
            self._since.pop(check.name, None)
            return check
        since = self._since.setdefault(check.name, check.since or datetime.now(UTC))
        return replace(check, since=check.since or since)


FULL = "all its connections are taken: raise max_connections of Postgres, or lower [database] pool_max"
SILENT = "look in pg_stat_activity for who holds a lock on tables of ingestd; if that does not answer either, at the server and the network"
EMPTY = "it was made anew, or is another one: restore a backup, or start the daemon again to begin with an empty one"
READ_ONLY = "a standby, or told to be read-only; [database] url may name several servers, and the one that takes writes is found"
SLOW = "Postgres is busy: look for long transactions in pg_stat_activity"


def late_by_s(state: LoopState) -> float:
    """Seconds by which a loop is overdue; 0 while it is on time, failing (that is told apart) or has not begun."""
    if not state.last_tick or state.failures:
        return 0.0
    overdue = time.monotonic() - state.last_tick - state.expected_s
    return overdue if overdue > LATE_AFTER_S else 0.0


def disk_check(folder: Path) -> Check:
    """How much room the disk under `folder` has left."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError as error:
        return Check("disk", "critical", f"{folder}: {error.strerror}", hint="check that [daemon] state_dir exists")
    low = min(DISK_LOW_BYTES, int(usage.total * DISK_LOW_RATIO))
    status: Status = "critical" if usage.free < DISK_FULL_BYTES else "degraded" if usage.free < low else "healthy"
    hint = "" if status == "healthy" else f"free some space on the disk of {folder}"
    return Check("disk", status, f"{usage.free / (1 << 30):.1f} GiB free", f"{max(low, DISK_FULL_BYTES) / (1 << 30):.1f} GiB", hint=hint)
