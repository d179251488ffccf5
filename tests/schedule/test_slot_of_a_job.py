"""What a handler is told about the slot that its job was made for."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from ingestd.postgres.pool import Database
from ingestd.schedule.firing import Firer
from ingestd.work.context import Context
from tests.jobs.kit import take
from tests.schedule.conftest import backdate, declare
from tests.support import eventually
from tests.work import elsewhere
from tests.work.conftest import handler, working


async def in_the_loop(ctx: Context) -> list[Any] | None:
    return None if ctx.slot is None else [ctx.slot.schedule, ctx.slot.due_at.isoformat(), ctx.slot.catch_up]


@pytest.mark.parametrize(
    "spec",
    [handler("in_the_loop", in_the_loop), elsewhere.slot_in_a_thread.spec, elsewhere.slot_far_away.spec],
    ids=lambda spec: str(spec.kind),
)
async def test_the_handler_is_told_its_slot_wherever_it_runs(db: Database, conn: asyncpg.Connection, spec: Any) -> None:
    await declare(conn, {"nightly": {"job": spec.kind, "every": "1h"}})
    await backdate(conn, timedelta(hours=1))
    (slot,) = (await Firer().fire(conn)).recorded
    (by_hand,) = await enqueue(conn, [NewJob(spec.kind)])
    async with working(db, spec):

        async def ended() -> list[Any]:
            rows = await conn.fetch("select id, result from ingestd.history order by id")
            return [row["result"] for row in rows] if len(rows) == 2 else []

        results = await eventually(ended)
    assert slot.job_id is not None
    assert slot.job_id < by_hand
    assert results == [["nightly", slot.due_at.isoformat(), slot.triggered_by == "catch_up"], None]


async def test_what_people_write_into_metadata_makes_no_slot(conn: asyncpg.Connection) -> None:
    odd = [{"schedule": "x"}, {"schedule": "x", "due_at": 5}, {"schedule": "x", "due_at": "soon"}, {"due_at": "2027-01-01T00:00:00Z"}]
    await enqueue(conn, [NewJob("sync", metadata=metadata, triggered_by="cli") for metadata in odd])
    assert [job.slot for job in await take(conn)] == [None] * len(odd)
