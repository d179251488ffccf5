"""What a cron expression means at one moment, written after crontab(5) and apart from the code it judges; and random expressions."""

from __future__ import annotations

import calendar
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
NUMBERS = {name: number for number, name in [*enumerate(MONTHS, 1), *enumerate(DAYS)]}


def number(text: str) -> int:
    """A number of a field, or the one that a name stands for."""
    return NUMBERS[text.upper()] if text.isalpha() else int(text)


def values(text: str, low: int, high: int) -> set[int]:
    """The plain numbers a field names."""
    found: set[int] = set()
    for term in text.split(","):
        if "L" in term.upper().replace("JUL", "") or "#" in term:
            continue
        body, _, step = term.partition("/")
        ends = (low, high) if body == "*" else tuple(number(end) for end in body.split("-"))
        found |= set(range(ends[0], ends[-1] + 1, int(step or 1)))
    return found


class ByHand:
    """An expression, matched one wall clock minute at a time."""

    def __init__(self, expression: str) -> None:
        self.texts = expression.split()
        sets = [values(text, *bounds) for text, bounds in zip(self.texts, BOUNDS, strict=True)]
        self.minutes, self.hours, self.days, self.months, self.weekdays = sets
        self.both = self.texts[2].startswith("*") or self.texts[4].startswith("*")
        self.time_of_day = not self.texts[0].startswith("*") and not self.texts[1].startswith("*")

    def matches(self, wall: datetime) -> bool:
        """Whether the fields name this wall clock time."""
        if wall.minute not in self.minutes or wall.hour not in self.hours or wall.month not in self.months:
            return False
        by_day, by_weekday = self.by_day(wall), self.by_weekday(wall)
        return (by_day and by_weekday) if self.both else (by_day or by_weekday)

    def by_day(self, wall: datetime) -> bool:
        """Whether the day-of-month field names this day."""
        last = calendar.monthrange(wall.year, wall.month)[1]
        return wall.day in self.days or ("L" in self.texts[2].split(",") and wall.day == last)

    def by_weekday(self, wall: datetime) -> bool:
        """Whether the day-of-week field names this day."""
        today = {wall.isoweekday(), wall.isoweekday() % 7}
        if today & self.weekdays:
            return True
        last = calendar.monthrange(wall.year, wall.month)[1]
        for term in self.texts[4].split(","):
            name, hashed, nth = term.partition("#")
            if hashed and number(name) in today and (wall.day + 6) // 7 == int(nth):
                return True
            if term.endswith("L") and number(term[:-1]) in today and wall.day + 7 > last:
                return True
        return False

    def at(self, zone: ZoneInfo, moment: datetime) -> bool:
        """Whether a slot is due at this moment, by Debian's rule for gaps and folds."""
        wall, before = wall_at(zone, moment), wall_at(zone, moment - MINUTE)
        if not self.time_of_day:
            return self.matches(wall)
        if any(self.matches(before + MINUTE * n) for n in range(1, round((wall - before) / MINUTE))):
            return True  # right behind a gap that swallowed one
        return self.matches(wall) and moment.astimezone(zone).fold == 0

    def between(self, zone: ZoneInfo, start: datetime, end: datetime) -> list[datetime]:
        """All slots in (start, end], minute by minute."""
        minutes = int((end - start) / MINUTE) + 1
        first = start.replace(second=0, microsecond=0)
        return [moment for n in range(minutes + 1) if start < (moment := first + MINUTE * n) <= end and self.at(zone, moment)]


def wall_at(zone: ZoneInfo, moment: datetime) -> datetime:
    """What the wall clock shows."""
    return moment.astimezone(zone).replace(tzinfo=None)


@dataclass(frozen=True, slots=True)
class Change:
    """A jump of the clock: the first moment behind it, and the wall clock on both sides."""

    at: datetime
    before: datetime
    behind: datetime

    @property
    def gap(self) -> bool:
        """Whether wall clock times are missing."""
        return self.behind > self.before

    @property
    def whole_hours(self) -> bool:
        """Whether it is by whole hours, at a whole hour."""
        return not (self.behind - self.before) % timedelta(hours=1) and not self.before.minute


def changes_between(zone: ZoneInfo, start: datetime, end: datetime) -> list[Change]:
    """The jumps of a zone's clock in a stretch of time, looked for hour by hour."""
    found = []
    hour = start.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    while hour < end:
        if hour.astimezone(zone).utcoffset() != (hour + timedelta(hours=1)).astimezone(zone).utcoffset():
            found += [change for n in range(1, 61) if (change := change_at(zone, hour + MINUTE * n)) is not None]
        hour += timedelta(hours=1)
    return found


def change_at(zone: ZoneInfo, moment: datetime) -> Change | None:
    """The jump at this very minute."""
    before, behind = wall_at(zone, moment - MINUTE) + MINUTE, wall_at(zone, moment)
    return Change(moment, before, behind) if before != behind else None


def random_expression(dice: random.Random) -> str:
    """Five fields as people write them, and as nobody does; often at the hours at which clocks change."""
    minute = _field(dice, 0, dice.choice((0, 15, 30, 45, 59)), 59, star=0.25)
    hour = _field(dice, 0, 4, 23, star=0.3)
    day = "L" if dice.random() < 0.04 else _field(dice, 1, 31, 31, star=0.65)
    month = _named(dice, MONTHS, _field(dice, 1, 12, 12, star=0.75), 1)
    return f"{minute} {hour} {day} {month} {_weekday(dice)}"


def _weekday(dice: random.Random) -> str:
    if dice.random() < 0.1:
        terms = {f"{dice.randint(0, 7)}{dice.choice(('L', '#1', '#2', '#4', '#5', ''))}" for _ in range(dice.randint(1, 2))}
        return ",".join(sorted(terms))
    return _named(dice, DAYS, _field(dice, 0, 7, 7, star=0.6), 0)


def _field(dice: random.Random, low: int, usual: int, high: int, star: float) -> str:
    if dice.random() < star:
        return dice.choice(("*", "*", f"*/{dice.randint(1, high)}"))
    return ",".join(_term(dice, low, usual if dice.random() < 0.7 else high, high) for _ in range(dice.choice((1, 1, 1, 2, 3))))


def _term(dice: random.Random, low: int, usual: int, high: int) -> str:
    shape = dice.random()
    first = dice.randint(low, usual)
    if shape < 0.6:
        return str(first)
    last = dice.randint(first, high)
    return f"{first}-{last}" if shape < 0.8 else f"{first}-{last}/{dice.randint(1, high)}"


def _named(dice: random.Random, names: tuple[str, ...], field: str, offset: int) -> str:
    """Write a field of single numbers with names, now and then."""
    if dice.random() > 0.3 or not all(term.isdigit() and int(term) - offset < len(names) for term in field.split(",")):
        return field
    return ",".join(dice.choice((str.lower, str.upper))(names[int(term) - offset]) for term in field.split(","))
