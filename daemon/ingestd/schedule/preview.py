"""What people ask about the slots of a schedule in service: the ones to come, and in which states the others are."""

from __future__ import annotations

from datetime import datetime

import asyncpg

from ingestd.errors import InvalidInput
from ingestd.schedule.rules import Upcoming, in_zone, parse_rule, upcoming
from ingestd.schedule.store import reads
from ingestd.schedule.zones import find_zone
from ingestd.settings import did_you_mean

MOST = 1000
SLOT_STATES = ("waiting", "fired", "late", "skipped", "missed")


async def next_slots(conn: asyncpg.Connection, name: str, count: int = 10, start: datetime | None = None) -> list[Upcoming]:
    """The next slots of a schedule by its rule, whether or not it is paused or disabled.

    Args:
        count: how many, 1..1000.
        start: slots later than this; without an offset it is read in the schedule's time zone; None: those that will fire next.

    Raises:
        NotFound: no such schedule.
        InvalidInput: `count` or `start` is out of range, or the rule cannot be computed.
    """
    if not 1 <= count <= MOST:
        raise InvalidInput(f"count must be 1 to {MOST}", pointer="count")
    found = await reads.stored_rule(conn, name)
    if found is None:
        raise await reads.no_such_schedule(conn, name)
    try:
        rule = parse_rule(found["rule"], found["timezone"], found["starts_at"], found["ends_at"])
        return upcoming(rule, found["begins"] if start is None else in_zone(start, find_zone(found["timezone"])), count)
    except OverflowError:
        raise InvalidInput('"from" is beyond the calendar', pointer="from") from None
    except ValueError as error:
        raise InvalidInput(f'the slots of schedule "{name}" cannot be computed: {error}') from None


def read_slot_states(text: str | None, pointer: str) -> tuple[str, ...] | None:
    """States of slots as people write them: one, or several with commas; None: all.

    Args:
        pointer: what the value is called where it was given.

    Raises:
        InvalidInput: one is not known.
    """
    words = [word.strip() for word in (text or "").split(",") if word.strip()]
    for word in words:
        if word not in SLOT_STATES:
            near = did_you_mean(word, SLOT_STATES) or f"; one of: {', '.join(SLOT_STATES)}"
            raise InvalidInput(f'{pointer} cannot be "{word[:100]}"{near}', pointer=pointer)
    return tuple(dict.fromkeys(words)) or None
