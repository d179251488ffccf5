"""A rule in plain English: `cron 0 9 * * 1-5` reads "Monday to Friday at 09:00". Pure.

It goes by what an expression means, not by how it is written, so two expressions read alike only if they have the same slots.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from itertools import groupby, pairwise

from cronsim import CronSim, CronSimError

from ingestd.schedule.zones import find_zone
from ingestd.settings import parse_duration

_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_NTH = {1: "first", 2: "second", 3: "third", 4: "fourth", 5: "fifth", CronSim.LAST: "last"}
_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))
_SOME_DAY = datetime(2000, 1, 1)  # noqa: DTZ001 - only the fields of the expression are read
# More times of day than that are better told as hours and minutes.
MOST_TIMES = 6


def rule_in_words(text: str, timezone: str = "UTC") -> str:
    """A rule as the database keeps it, in words; as it stands where it cannot be read.

    Args:
        timezone: that a single moment is told in.
    """
    word, _, rest = text.partition(" ")
    try:
        if word == "cron":
            return cron_in_words(rest)
        if word == "every":
            return f"every {span_in_words(parse_duration(rest))}"
        if word == "at":
            moment = datetime.fromisoformat(rest).astimezone(find_zone(timezone))
            return f"once, on {moment.day} {_MONTHS[moment.month - 1]} {moment.year} at {moment:%H:%M}" + (
                f":{moment:%S}" if moment.second else ""
            )
    except (ValueError, OverflowError, CronSimError):
        pass  # told as it is written: a rule that cannot be computed is told by its problem
    return text


def span_in_words(span: timedelta) -> str:
    """A length of time behind "every": `minute`, `15 minutes`, `1 hour 30 minutes`."""
    seconds = int(span.total_seconds())
    parts: list[tuple[int, str]] = []
    for name, length in _UNITS:
        count, seconds = divmod(seconds, length)
        if count:
            parts.append((count, name))
    if len(parts) == 1 and parts[0][0] == 1:
        return parts[0][1]
    return " ".join(f"{count} {name}{'s' if count != 1 else ''}" for count, name in parts)


def cron_in_words(expression: str) -> str:
    """Five fields of crontab, checked, in words."""
    fields = CronSim(expression, _SOME_DAY)
    times, told_as_moments = _times(fields.minutes, fields.hours)
    days = _days(fields)
    # Where only dates are named, the months stand behind them.
    dates_alone = days.endswith(_months(fields.months))
    months = "" if len(fields.months) == 12 or dates_alone else f"in {_months(fields.months)}"
    if told_as_moments:
        return ", ".join(part for part in (f"{days or 'every day'} at {times}", months) if part)
    return ", ".join(part for part in (times, days, months) if part)


def _times(minutes: Collection[int], hours: Collection[int]) -> tuple[str, bool]:
    """The times of a day, and whether these are single moments, which go behind the days."""
    if len(minutes) * len(hours) <= MOST_TIMES:
        return _listed([f"{hour:02}:{minute:02}" for hour in sorted(hours) for minute in sorted(minutes)]), True
    whole_day, (first, last) = len(hours) == 24, (min(hours), max(hours))
    through = _contiguous(hours)
    if step := _step(minutes, 60):
        often = "every minute" if step == 1 else f"every {step} minutes"
        if whole_day:
            return often, False
        if through:
            return f"{often} from {first:02}:00 to {last:02}:{max(minutes):02}", False
        return f"{often} in the hours {_numbers(hours)}", False
    if len(minutes) == 1:
        return _hourly(min(minutes), hours), False
    which = f"at minutes {_numbers(minutes)}"
    if whole_day:
        return f"{which} of every hour", False
    return f"{which} of {'every hour from ' if through else 'the hours '}{_numbers(hours)}", False


def _hourly(minute: int, hours: Collection[int]) -> str:
    first, last = min(hours), max(hours)
    if len(hours) == 24:
        return "every hour" if minute == 0 else f"every hour at minute {minute}"
    if _contiguous(hours):
        return f"every hour from {first:02}:{minute:02} to {last:02}:{minute:02}"
    if step := _step(hours, 24):
        return f"every {step} hours" if minute == 0 else f"every {step} hours from {first:02}:{minute:02}"
    return f"at minute {minute} of the hours {_numbers(hours)}"


def _days(fields: CronSim) -> str:
    """The days, or nothing where it is all of them."""
    weekdays = {day % 7 if isinstance(day, int) else (day[0] % 7, day[1]) for day in fields.weekdays}
    all_dates, all_weekdays = set(range(1, 32)) <= fields.days, set(range(7)) <= weekdays
    if fields.day_and:
        if all_dates:
            return "" if all_weekdays else _weekdays(weekdays)
        dates = f"on {_dates(fields.days, fields.months)}"
        return dates if all_weekdays else f"{_weekdays(weekdays)}, but only {dates}"
    if all_dates or all_weekdays:
        return ""
    return f"on {_dates(fields.days, fields.months)} and {_weekdays(weekdays)}"


def _dates(days: Collection[int], months: Collection[int]) -> str:
    plain = sorted(day for day in days if day > 0)
    told = []
    if len(plain) == 1:
        if len(months) == 1 and len(days) == 1:
            return f"{plain[0]} {_months(months)}"
        told.append(f"the {_ordinal(plain[0])}")
    elif plain:
        several = plain[1] - plain[0] > 1 or len(plain) == 2
        few = several and len(plain) <= MOST_TIMES and not _progression(plain)
        told.append("the " + _listed([_ordinal(day) for day in plain]) if few else f"days {_numbers(plain)}")
    if CronSim.LAST in days:
        told.append("the last day")
    if CronSim.LAST_WEEKDAY in days:
        told.append("the last working day")
    return f"{_listed(told)} of {_months(months)}"


def _months(months: Collection[int]) -> str:
    if len(months) == 12:
        return "the month"
    return _listed([_MONTHS[low - 1] + _to(_MONTHS, low, high, 1) for low, high in _runs(months)])


def _weekdays(days: Iterable[int | tuple[int, int]]) -> str:
    known = list(days)
    # Weeks begin on Monday for those who read them: Saturday and Sunday are neighbours.
    plain = {(day - 1) % 7 for day in known if isinstance(day, int)}
    names = (*_DAYS[1:], _DAYS[0])
    told = [names[low] + _to(names, low, high, 0) for low, high in _runs(plain)]
    # "Monday to Friday" needs no "every" before it, a day alone does.
    every = "" if len(told) == 1 and len(plain) > 2 else "every "
    text = every + _listed(told) if told else ""
    nth = sorted((day for day in known if isinstance(day, tuple)), key=lambda day: (day[1] % 100, day[0]))
    if nth:
        special = f"the {_listed([f'{_NTH[which]} {_DAYS[day]}' for day, which in nth])} of the month"
        text = f"{text} and on {special}" if text else f"on {special}"
    return text


def _numbers(values: Collection[int]) -> str:
    ordered = sorted(values)
    if _progression(ordered) and len(ordered) > 4:
        return f"{ordered[0]}, {ordered[1]}, {ordered[2]} … {ordered[-1]}"
    return _listed([str(low) if low == high else f"{low} to {high}" for low, high in _runs(ordered)])


def _progression(ordered: Sequence[int]) -> int:
    """The step between all of them, 2 or more; 0 where there is none."""
    steps = {after - before for before, after in pairwise(ordered)}
    return steps.pop() if len(steps) == 1 and len(ordered) > 2 and min(steps) > 1 else 0


def _step(values: Collection[int], circle: int) -> int:
    """The step of values that go evenly round from 0 or, in larger steps, from later on; 0 where they do not."""
    ordered = sorted(values)
    if len(ordered) == circle:
        return 1
    step = _progression(ordered) or (circle // 2 if len(ordered) == 2 and ordered[1] - ordered[0] == circle // 2 else 0)
    if not step or circle % step or len(ordered) != circle // step:
        return 0
    return step if ordered[0] == 0 or circle == 24 else 0


def _contiguous(values: Collection[int]) -> bool:
    return max(values) - min(values) + 1 == len(values)


def _runs(values: Iterable[int]) -> list[tuple[int, int]]:
    """Values as ranges of neighbours; two neighbours alone are two."""
    found: list[tuple[int, int]] = []
    for _, run in groupby(enumerate(sorted(values)), key=lambda pair: pair[1] - pair[0]):
        members = [value for _, value in run]
        found += [(value, value) for value in members] if len(members) < 3 else [(members[0], members[-1])]
    return found


def _to(names: Sequence[str], low: int, high: int, first: int) -> str:
    return "" if low == high else f" to {names[high - first]}"


def _listed(words: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    told = list(words)
    return told[0] if len(told) == 1 else f"{', '.join(told[:-1])} and {told[-1]}"


def _ordinal(day: int) -> str:
    ending = "th" if 10 < day < 14 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"
