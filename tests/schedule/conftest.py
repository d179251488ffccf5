"""What the tests of schedules share: declaring them, and moving their beginning into the past."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import asyncpg

from ingestd.postgres.session import connect
from ingestd.schedule.declare import Applied, CompiledTarget, apply
from ingestd.schedule.firing import Firer
from ingestd.schedule.settings import ScheduleSettings, ScheduleTarget


def compile_target(target: ScheduleTarget) -> CompiledTarget:
    """As the daemon does it, in small: a target is a job of the same name."""
    return CompiledTarget(target.name, target.args)


async def declare(conn: asyncpg.Connection, schedules: Mapping[str, Mapping[str, Any]]) -> Applied:
    """Apply schedules written as in the configuration; each starts the job `tick` unless it says otherwise."""
    written = {name: ScheduleSettings.model_validate({"job": "tick"} | dict(keys)) for name, keys in schedules.items()}
    return await apply(conn, written, compile_target)


async def backdate(conn: asyncpg.Connection, age: timedelta, name: str | None = None) -> None:
    """Let schedules have been declared, and looked after for the last time, so long ago."""
    await conn.execute(
        """update ingestd.schedule set since = now() - $1::interval, accounted_to = now() - $1::interval,
           next_due_at = now() - $1::interval, turn = turn + 1 where $2::text is null or name = $2""",
        age,
        name,
    )


async def fire_until(dsn: str, over: asyncio.Event) -> None:
    """Fire slots as a node does, without a rest."""
    own = await connect(dsn)
    while not over.is_set():
        await Firer().fire(own)
    await own.close()


async def steps_other_than_a_second(conn: asyncpg.Connection) -> int:
    """How many slots of schedules that fire every second do not come a second after the one before."""
    found: int = await conn.fetchval(
        """select count(*) from (select due_at - lag(due_at) over (partition by schedule order by due_at) as step from ingestd.slot) g
           where step <> interval '1 second'"""
    )
    return found


async def slot_states(conn: asyncpg.Connection, name: str) -> list[str]:
    """States of a schedule's slots, in the order of their time."""
    return [row[0] for row in await conn.fetch("select state from ingestd.slot where schedule = $1 order by due_at", name)]
