"""What a schedule can follow: cron, an interval, or one moment; and how its next slots look to people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from typing import NamedTuple, Protocol
from zoneinfo import ZoneInfo

from ingestd.schedule.cron import CronRule, parse
from ingestd.schedule.zones import exists, find_zone, first_change, offset_at, resolve, twice, wall_at
from ingestd.settings import format_duration, parse_duration

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TIME = "%H:%M"
_DAY_AND_TIME = "%Y-%m-%d %H:%M"


class Rule(Protocol):
    """When a schedule is due."""

    @property
    def zone(self) -> ZoneInfo:
        """The time zone its slots are shown in."""
        ...

    def after(self, moment: datetime) -> Iterator[datetime]:
        """All slots later than `moment`, in UTC, in order and each once."""
        ...

    def next_after(self, moment: datetime) -> datetime | None:
        """The first slot later than `moment`, in UTC, or None."""
        ...


@dataclass(frozen=True, slots=True)
class EveryRule:
    """An interval: the multiples of it since 1970-01-01T00:00Z, so that every node and every start means the same moments."""

    interval: timedelta
    zone: ZoneInfo

    def after(self, moment: datetime) -> Iterator[datetime]:
        """All slots later than `moment`, in UTC, in order."""
        step = self.interval // _MICROSECOND
        count = ((moment - EPOCH) // _MICROSECOND) // step + 1
        try:
            while True:
                yield EPOCH + timedelta(microseconds=count * step)
                count += 1
        except OverflowError:
            return

    def next_after(self, moment: datetime) -> datetime | None:
        """The first slot later than `moment`, in UTC."""
        return next(self.after(moment), None)


@dataclass(frozen=True, slots=True)
class AtRule:
    """One moment, once."""

    moment: datetime
    zone: ZoneInfo

    def after(self, moment: datetime) -> Iterator[datetime]:
        """The moment, if it is later than `moment`."""
        if self.moment > moment:
            yield self.moment

    def next_after(self, moment: datetime) -> datetime | None:
        """The moment, if it is later than `moment`, else None."""
        return next(self.after(moment), None)


@dataclass(frozen=True, slots=True)
class BoundedRule:
    """A rule that has no slots before a first moment, or none after a last one."""

    inner: Rule
    starts_at: datetime | None = None
    ends_at: datetime | None = None

    @property
    def zone(self) -> ZoneInfo:
        """The time zone its slots are shown in."""
        return self.inner.zone

    def after(self, moment: datetime) -> Iterator[datetime]:
        """The slots later than `moment` from its first moment to its last, both included."""
        if self.starts_at is not None:
            moment = max(moment, self.starts_at - _MICROSECOND)
        for slot in self.inner.after(moment):
            if self.ends_at is not None and slot > self.ends_at:
                return
            yield slot

    def next_after(self, moment: datetime) -> datetime | None:
        """The first slot later than `moment` within its bounds, or None."""
        return next(self.after(moment), None)


def parse_rule(text: str, timezone: str, starts_at: datetime | None = None, ends_at: datetime | None = None) -> Rule:
    """Read a rule as the database keeps it: `cron 0 2 * * *`, `every 15m` or `at 2027-01-01T00:00:00+00:00`.

    Args:
        starts_at: no slot before it.
        ends_at: no slot after it.

    Raises:
        ValueError: it is none of those, or there is no such time zone.
    """
    return bound(_parse_unbounded(text, timezone), starts_at, ends_at)


def bound(rule: Rule, starts_at: datetime | None, ends_at: datetime | None) -> Rule:
    """A rule within a first and a last moment; itself where there is neither."""
    return rule if starts_at is None and ends_at is None else BoundedRule(rule, starts_at, ends_at)


def _parse_unbounded(text: str, timezone: str) -> Rule:
    word, _, rest = text.partition(" ")
    if word == "cron":
        return parse(rest, timezone)
    if word == "every":
        return EveryRule(parse_duration(rest), find_zone(timezone))
    if word == "at":
        return AtRule(in_zone(datetime.fromisoformat(rest), find_zone(timezone)), find_zone(timezone))
    raise ValueError(f'"{text[:60]}" is not a rule: cron, every or at')


def every_text(interval: timedelta) -> str:
    """How the database keeps an interval."""
    return f"every {format_duration(interval)}"


def at_text(moment: datetime, timezone: str) -> str:
    """How the database keeps a moment."""
    return f"at {in_zone(moment, find_zone(timezone)).isoformat()}"


def in_zone(moment: datetime, zone: ZoneInfo) -> datetime:
    """The instant of a moment in UTC; one without a zone is what that zone's wall clock shows."""
    return resolve(zone, moment) if moment.tzinfo is None else moment.astimezone(UTC)


def first_of(day: date, timezone: str) -> datetime:
    """The first instant of a moment or a whole day in a time zone, in UTC."""
    return in_zone(day if isinstance(day, datetime) else datetime.combine(day, time()), find_zone(timezone))


def last_of(day: date, timezone: str) -> datetime:
    """The last instant of a moment or a whole day in a time zone, in UTC."""
    if isinstance(day, datetime):
        return first_of(day, timezone)
    zone, midnight = find_zone(timezone), datetime.combine(day + timedelta(days=1), time())
    # A clock set back across midnight ends the day a second time.
    behind = midnight.replace(tzinfo=zone, fold=1).astimezone(UTC) if twice(zone, midnight) else resolve(zone, midnight)
    return behind - _MICROSECOND


class Upcoming(NamedTuple):
    """A slot to come.

    Args:
        at: in the rule's time zone.
        note: what the clock does around it, or None.
    """

    at: datetime
    note: str | None


def upcoming(rule: Rule, start: datetime, count: int) -> list[Upcoming]:
    """The next `count` slots later than `start`, with a note where the clock changes."""
    shown: list[Upcoming] = []
    previous = start.astimezone(UTC)
    for slot in islice(rule.after(previous), count):
        shown.append(Upcoming(slot.astimezone(rule.zone), _note(rule, previous, slot)))
        previous = slot
    return shown


def _note(rule: Rule, previous: datetime, slot: datetime) -> str | None:
    if isinstance(rule, BoundedRule):
        rule = rule.inner
    if isinstance(rule, CronRule) and rule.time_of_day:
        return _note_time_of_day(rule, slot)
    return _note_real_time(rule.zone, previous, slot)


def _note_time_of_day(rule: CronRule, slot: datetime) -> str | None:
    jump = _jump_at(rule.zone, slot)
    if jump is not None:
        # Right behind a jump stand the slots that it swallowed, beside one that may be meant for this very minute.
        missing = [wall for wall in _walls(rule, *jump) if not exists(rule.zone, wall)]
        if missing:
            shown = _DAY_AND_TIME if jump[0].date() != jump[1].date() else _TIME
            times = " and ".join(f"{wall:{shown}}" for wall in missing[:3]) + (" …" if missing[3:] else "")
            verb = "do not exist" if missing[1:] else "does not exist"
            day = " on this day" if shown == _TIME else ""
            return f"{times} {verb}{day}: runs when the clock jumps from {jump[0]:{shown}} to {jump[1]:{shown}}"
    wall = wall_at(rule.zone, slot)
    return f"{wall:%H:%M} comes twice on this day: runs the first time" if twice(rule.zone, wall) else None


def _jump_at(zone: ZoneInfo, slot: datetime) -> tuple[datetime, datetime] | None:
    """The wall clock before and after, if it jumps forward at this very instant."""
    gained = offset_at(zone, slot) - offset_at(zone, slot - timedelta(seconds=1))
    wall = wall_at(zone, slot)
    return (wall - gained, wall) if gained > timedelta() else None


def _walls(rule: CronRule, low: datetime, high: datetime) -> Iterator[datetime]:
    """The wall clock times in [low, high) that the expression names, whether they exist or not."""
    plain = CronRule(rule.expression, find_zone("UTC"))
    for slot in plain.after((low - timedelta(seconds=1)).replace(tzinfo=UTC)):
        wall = slot.replace(tzinfo=None)
        if wall >= high:
            return
        yield wall


def _note_real_time(zone: ZoneInfo, previous: datetime, slot: datetime) -> str | None:
    wall = wall_at(zone, slot)
    if twice(zone, wall):
        first = slot == wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
        return f"the {'first' if first else 'second'} {wall:%H:%M} of this day: the clock is set back"
    change = first_change(zone, max(previous, slot - timedelta(days=1)), slot)
    if change is None:
        return None
    before = wall_at(zone, change - timedelta(seconds=1)) + timedelta(seconds=1)
    behind = wall_at(zone, change)
    how = "is set back" if behind < before else "jumps"
    shown = _DAY_AND_TIME if before.date() != behind.date() else _TIME
    return f"the clock {how} from {before:{shown}} to {behind:{shown}} before this slot"
