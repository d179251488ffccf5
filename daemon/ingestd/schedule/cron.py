"""Cron expressions as crontab(5) of Debian means them, in a time zone.

`cronsim` knows the fields: names, steps, 7 as Sunday, `L`, `#`, and that day-of-month and day-of-week are OR unless one of them
starts with `*`. It is asked about plain wall clock times only; which instants those are is decided here, because its own
walk through a zone in steps of an hour passes over slots where the clock moves by half an hour (Lord Howe) and answers
midnights that do not exist.

Where neither the minute nor the hour field starts with `*`, the job is meant for a time of day: in a gap it runs right after,
in a fold once, the first time. Any other expression follows real time: a missing hour has no slots, a repeated one has two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from ingestd.schedule.zones import find_zone, first_change, offset_at, resolve, wall_at

LONGEST = 200
_SECOND = timedelta(seconds=1)
_MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_NUMBERS = {name: str(number) for number, name in [*enumerate(_DAYS), *enumerate(_MONTHS, 1)]}
_FIELDS = ("minute", "hour", "day-of-month", "month", "day-of-week")
_STRANGE = re.compile(r"[^0-9A-Za-z*,/#\- \t]")
_LONG_NUMBER = re.compile(r"[0-9]{5}")
# Every rule is tried from here: what has no slot in the 50 years that cronsim looks ahead never fires.
_TRIAL = datetime(2000, 1, 1)  # noqa: DTZ001 - a wall clock time


def read_expression(text: str) -> str:
    """Check a cron expression and return it as five fields with single spaces.

    Everything that could cost time or memory is refused before `cronsim` sees it.

    Raises:
        ValueError: it is none; the message names the field.
    """
    if len(text) > LONGEST:
        raise ValueError(f"the cron expression is {len(text)} characters long; {LONGEST} is the most")
    stripped = text.strip()
    if stripped.startswith("@"):
        return _read_macro(stripped)
    if strange := _STRANGE.search(stripped):
        raise ValueError(f'"{text}" is not a cron expression: it cannot hold {strange[0]!r}')
    if long := _LONG_NUMBER.search(stripped):
        raise ValueError(f'"{text}" is not a cron expression: no number has as many digits as {long[0]}…')
    fields = stripped.split()
    if len(fields) == 6:
        raise ValueError(f'"{text}" has six fields: crontab has no seconds, use every = "10s" for less than a minute')
    if len(fields) != 5:
        raise ValueError(f'"{text}" has {len(fields)} of the five fields minute, hour, day-of-month, month, day-of-week')
    expression = " ".join(_read_steps(text, field.upper(), most) for field, most in zip(fields, (59, 23, 31, 12, 7), strict=True))
    try:
        walk = CronSim(expression, _TRIAL)
    except CronSimError as error:
        raise ValueError(_explain(text, fields, str(error))) from None
    # With every day of one kind the other kind's come; a look at each of thousands of expressions is half of what loading them takes.
    if "*" not in (fields[2], fields[4]) and next(walk, None) is None:
        raise ValueError(f'"{text}" never fires: no date matches it')
    return expression


def _read_macro(text: str) -> str:
    expression = _MACROS.get(text.lower())
    if expression is None:
        known = ", ".join(_MACROS)
        raise ValueError(f'"{text}" is not known here: use one of {known}')
    return expression


def _read_steps(text: str, field: str, most: int) -> str:
    """Settle the two forms of step that programs read differently: one after a single number, one after a range of one."""
    terms = []
    for term in field.split(","):
        body, slash, step = term.partition("/")
        low, dash, high = body.partition("-")
        if slash and body != "*" and not dash:
            instead = f'; write "{body}-{most}/{step}", or "{body}" alone' if _number(body).isdigit() and step.isdigit() else ""
            raise ValueError(f'"{text}": a step needs a range, "{term}" has none{instead}')
        one = bool(slash and dash and step.strip("0")) and _number(low) == _number(high)
        terms.append(low if one else term)
    return ",".join(terms)


def _number(value: str) -> str:
    return _NUMBERS.get(value, value).lstrip("0") or "0"


def _explain(text: str, fields: list[str], problem: str) -> str:
    name = problem.removeprefix("Bad ")
    if name not in _FIELDS:
        return f'"{text}" is not a cron expression: {problem}'
    value = fields[_FIELDS.index(name)]
    hint = {
        "minute": "0 to 59",
        "hour": "0 to 23",
        "day-of-month": "1 to 31, L for the last day or LW for the last from Monday to Friday, and a day that its months have",
        "month": "1 to 12 or JAN to DEC",
        "day-of-week": "0 to 7 (0 and 7 are Sunday) or SUN to SAT, 5L for the last Friday, MON#2 for the second Monday",
    }[name]
    return f'"{text}": bad {name} "{value}"; it takes {hint}, ranges from low to high, lists and steps'


@dataclass(frozen=True, slots=True)
class CronRule:
    """A cron expression in a time zone.

    Args:
        expression: five fields, checked.
        zone: whose wall clock it reads.
    """

    expression: str
    zone: ZoneInfo

    @property
    def time_of_day(self) -> bool:
        """Whether it names times of day, rather than following real time."""
        minute, hour = self.expression.split()[:2]
        return not minute.startswith("*") and not hour.startswith("*")

    def after(self, moment: datetime) -> Iterator[datetime]:
        """All slots later than `moment`, in UTC, in order and each once."""
        moment = moment.astimezone(UTC)
        try:
            yield from self._by_wall_clock(moment) if self.time_of_day else self._by_real_time(moment)
        except (OverflowError, ValueError):
            return  # the end of the calendar, in the year 9999

    def next_after(self, moment: datetime) -> datetime | None:
        """The first slot later than `moment`, in UTC; None if there is none in 50 years."""
        return next(self.after(moment), None)

    def _by_wall_clock(self, moment: datetime) -> Iterator[datetime]:
        last = moment
        for wall in CronSim(self.expression, wall_at(self.zone, moment)):
            slot = resolve(self.zone, wall)
            # Several times in one gap are one slot; times of a fold's second pass have had theirs in the first.
            if slot > last:
                last = slot
                yield slot

    def _by_real_time(self, moment: datetime) -> Iterator[datetime]:
        """Between two jumps of the clock wall time runs evenly: walk it there, and start afresh behind each jump."""
        last: datetime | None = moment
        wall = wall_at(self.zone, moment)
        while last is not None:
            offset = offset_at(self.zone, last)
            start, last = last, None
            for candidate in CronSim(self.expression, wall):
                slot = (candidate - offset).replace(tzinfo=UTC)
                change = first_change(self.zone, start, slot)
                if change is not None:
                    # A second earlier, so that the first wall time behind the jump is looked at too.
                    last, wall = change, wall_at(self.zone, change) - _SECOND
                    break
                start = slot
                yield slot


def parse(expression: str, zone: str = "UTC") -> CronRule:
    """Read a cron expression in an IANA time zone.

    Raises:
        ValueError: either is none.
    """
    return CronRule(read_expression(expression), find_zone(zone))
