"""`cleanup`: every room forgets what is not kept, one cleanup at a time in the whole database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import asyncpg

from ingestd.access import facts as access_facts
from ingestd.admin import facts as admin_facts
from ingestd.errors import AlreadyRunning, InvalidInput
from ingestd.facts import Clear, Cleared, Keep
from ingestd.jobs import facts as job_facts
from ingestd.jobs.settings import RetentionSettings
from ingestd.jobs.store.care import note_cleanup
from ingestd.postgres import locks
from ingestd.schedule import facts as schedule_facts
from ingestd.work import facts as work_facts

LOCK = "cleanup"
LONGEST_DAYS = 36500
NEEDS_DIRECT_URL = "a pooler stands before this database, and partitions are detached only past it: set [database] direct_url"


def rooms() -> list[Clear]:
    """What every room forgets."""
    offered = [facts.facts().clear for facts in (job_facts, schedule_facts, work_facts, access_facts, admin_facts)]
    return [clear for clear in offered if clear is not None]


async def clean(conn: asyncpg.Connection, retention: RetentionSettings, *, days: int | None = None, dry_run: bool = False) -> list[Cleared]:
    """Clear what is not kept, or only count it.

    Args:
        conn: in no transaction, past any pooler.
        days: keep that many, instead of what the settings say, of everything that jobs leave behind (not of the audit log), to
            the row; without, partly old partitions are kept until they are over.
        dry_run: change nothing. The counts are those that the real run would tell now.

    Raises:
        InvalidInput: so many days would forget what is being done now, or are none of any calendar.
        AlreadyRunning: another cleanup is under way.
    """
    if days is not None and not 1 <= days <= LONGEST_DAYS:
        raise InvalidInput(f"a cleanup keeps 1 to {LONGEST_DAYS} days, not {days}", pointer="/days")
    keep = what_is_kept(retention, await locks.now(conn), days)
    if dry_run:
        return await _each_room(conn, keep, dry_run)
    async with locks.alone(conn, LOCK) as mine:
        if not mine:
            raise AlreadyRunning("another cleanup is under way", hint="`ingestd jobs list --kind cleanup` shows those that nodes run")
        cleared = await _each_room(conn, keep, dry_run)
        await note_cleanup(conn)
        return cleared


def what_is_kept(retention: RetentionSettings, now: Any, days: int | None = None) -> Keep:
    """The settings as moments."""
    if days is not None:
        before = now - timedelta(days=days)
        return Keep(before, before, now - retention.audit, before, now, exactly=True)
    return Keep(now - retention.history, now - retention.failed, now - retention.audit, now - retention.statistics, now)


async def _each_room(conn: asyncpg.Connection, keep: Keep, dry_run: bool) -> list[Cleared]:
    return [cleared for clear in rooms() for cleared in await clear(conn, keep, dry_run)]


def document(cleared: Sequence[Cleared], dry_run: bool) -> dict[str, Any]:
    """A cleanup as JSON."""
    return {
        "dry_run": dry_run,
        "rows": sum(one.rows for one in cleared),
        "bytes": sum(one.bytes for one in cleared),
        "postponed": [name for one in cleared for name in one.postponed],
        "cleared": [asdict(one) for one in cleared],
    }
