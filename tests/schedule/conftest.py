"""What the tests of schedules share: declaring them, and moving their beginning into the past."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import asyncpg

from ingestd.schedule.declare import Applied, CompiledTarget, apply
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


async def slot_states(conn: asyncpg.Connection, name: str) -> list[str]:
    """States of a schedule's slots, in the order of their time."""
    return [row[0] for row in await conn.fetch("select state from ingestd.slot where schedule = $1 order by due_at", name)]
