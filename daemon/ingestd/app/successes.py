"""Answers what schedules ask about the things they depend on: each at the room that keeps its past."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime

import asyncpg

from ingestd.imports.store import successes as import_store
from ingestd.jobs.store import successes as job_store
from ingestd.schedule.dependencies import Question

Ask = Callable[[asyncpg.Connection, Sequence[tuple[str, datetime]]], Awaitable[set[int]]]


async def successes(conn: asyncpg.Connection, asked: Collection[Question]) -> set[Question]:
    """Which of these have succeeded, in whole or in part, since the moment each names.

    An import has when a load of it has, or when its source was looked at, nothing in it failed and nothing had failed before: what
    failed is not new any more, and nobody has it.
    """
    found = await _those_of("job", job_store.kinds, conn, asked)
    found |= await _those_of("workflow", job_store.workflows, conn, asked)
    found |= await _those_of("import", import_store.loads, conn, asked)
    return found | await _looked_at(conn, [one for one in asked if one.type == "import" and one not in found])


async def _those_of(kind: str, ask: Ask, conn: asyncpg.Connection, asked: Collection[Question]) -> set[Question]:
    mine = [one for one in asked if one.type == kind]
    return {mine[place] for place in await ask(conn, [(one.name, one.since) for one in mine])} if mine else set()


async def _looked_at(conn: asyncpg.Connection, imports: Collection[Question]) -> set[Question]:
    if not imports:
        return set()
    broken = await import_store.failed_last(conn, sorted({one.name for one in imports}))
    last = await job_store.by_argument(conn, "import", "import", {one.name for one in imports}, min(one.since for one in imports))
    return {one for one in imports if one.name in last and one.name not in broken and last[one.name] > one.since}
