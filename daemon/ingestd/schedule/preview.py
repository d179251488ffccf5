"""The slots to come of a schedule in service."""

from __future__ import annotations

from datetime import datetime

import asyncpg

from ingestd.errors import InvalidInput
from ingestd.schedule.rules import Upcoming, in_zone, parse_rule, upcoming
from ingestd.schedule.store import reads
from ingestd.schedule.zones import find_zone

MOST = 1000


async def next_slots(conn: asyncpg.Connection, name: str, count: int = 10, start: datetime | None = None) -> list[Upcoming]:
    """The next slots of a schedule by its rule, whether or not it is paused or disabled.

    Args:
        count: how many, 1..1000.
        start: slots later than this; without an offset it is read in the schedule's time zone; None: now.

    Raises:
        NotFound: no such schedule.
        InvalidInput: `count` is out of range.
    """
    if not 1 <= count <= MOST:
        raise InvalidInput(f"count must be 1 to {MOST}", pointer="count")
    found = await reads.stored_rule(conn, name)
    if found is None:
        raise await reads.no_such_schedule(conn, name)
    try:
        rule = parse_rule(found["rule"], found["timezone"], found["starts_at"], found["ends_at"])
        return upcoming(rule, found["now"] if start is None else in_zone(start, find_zone(found["timezone"])), count)
    except OverflowError:
        raise InvalidInput("start is beyond the calendar", pointer="from") from None
