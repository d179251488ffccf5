"""Time zones as a schedule needs them: wall clock to instant, and where the clock jumps in between.

Instants are always in UTC: Python compares two moments of the same zone by their wall clocks, which a fold makes wrong.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from ingestd.settings import did_you_mean

_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
# Names that exist as files but mean something else on each machine.
_LOCAL = ("localtime", "posixrules", "Factory")
# Zones once more in two readings; one of them counts leap seconds, so that its slots would be due half a minute late.
_TWINS = ("right/", "posix/")


def find_zone(name: str) -> ZoneInfo:
    """The IANA time zone of that name.

    Raises:
        ValueError: there is none; the message suggests the nearest.
    """
    try:
        if len(name) <= 64 and name not in _LOCAL and not name.startswith(_TWINS):
            return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass
    shown = name if len(name) <= 64 else name[:60] + "…"
    near = did_you_mean(name, available_timezones().difference(_LOCAL)) if len(name) <= 64 else ""
    raise ValueError(f'"{shown}" is not a time zone{near or ": write an IANA name such as Europe/Berlin or UTC"}')


def parse_zone(name: str) -> str:
    """Check the name of a time zone.

    Raises:
        ValueError: there is no such zone.
    """
    find_zone(name)
    return name


def offset_at(zone: ZoneInfo, instant: datetime) -> timedelta:
    """How far the zone's wall clock is ahead of UTC at an instant."""
    offset = instant.astimezone(zone).utcoffset()
    assert offset is not None
    return offset


def wall_at(zone: ZoneInfo, instant: datetime) -> datetime:
    """What the zone's wall clock shows at an instant, without a zone."""
    return instant.astimezone(zone).replace(tzinfo=None)


def first_change(zone: ZoneInfo, after: datetime, until: datetime) -> datetime | None:
    """The first instant in (after, until] from which the clock is offset otherwise than at `after`, or None.

    Looks once a day and halves from there: no zone has changed twice within a day and back.
    """
    before = offset_at(zone, after)
    low = after
    while low < until:
        high = min(low + _DAY, until)
        if offset_at(zone, high) != before:
            return _halve(zone, low, high, before)
        low = high
    return None


def _halve(zone: ZoneInfo, low: datetime, high: datetime, before: timedelta) -> datetime:
    """The second in (low, high] at which the offset stops being `before`."""
    low = low.replace(microsecond=0)
    high += timedelta(microseconds=-high.microsecond % 1_000_000)
    while high - low > _SECOND:
        middle = low + timedelta(seconds=(high - low) // _SECOND // 2)
        if offset_at(zone, middle) == before:
            low = middle
        else:
            high = middle
    return low + _SECOND


def resolve(zone: ZoneInfo, wall: datetime) -> datetime:
    """The instant of a wall clock time: the first of two in a fold, the end of the jump for one in a gap."""
    instant = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if wall_at(zone, instant) == wall:
        return instant
    # In a gap the two readings of the wall clock, by the offset before and after the jump, lie on both sides of it.
    earlier = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    return first_change(zone, earlier, instant) or instant


def exists(zone: ZoneInfo, wall: datetime) -> bool:
    """Whether the wall clock ever shows this time."""
    return wall_at(zone, wall.replace(tzinfo=zone, fold=0).astimezone(UTC)) == wall


def twice(zone: ZoneInfo, wall: datetime) -> bool:
    """Whether the wall clock shows this time two times."""
    first, second = (wall.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
    return first != second and exists(zone, wall)
