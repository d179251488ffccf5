"""A rule in plain English: what people would say, and never the same words for different slots."""

from __future__ import annotations

import random
from datetime import timedelta
from itertools import islice

import pytest
from cronsim import CronSim

from ingestd.schedule.cron import read_expression
from ingestd.schedule.words import _SOME_DAY, cron_in_words, rule_in_words, span_in_words
from tests.support import LONG

SAID = {
    "* * * * *": "every minute",
    "*/15 * * * *": "every 15 minutes",
    "0,30 * * * *": "every 30 minutes",
    "*/7 * * * *": "at minutes 0, 7, 14 … 56 of every hour",
    "@hourly": "every hour",
    "5 * * * *": "every hour at minute 5",
    "0 2 * * *": "every day at 02:00",
    "0 */8 * * *": "every day at 00:00, 08:00 and 16:00",
    "0 */2 * * *": "every 2 hours",
    "30 1-23/2 * * *": "every 2 hours from 01:30",
    "* 2 * * *": "every minute from 02:00 to 02:59",
    "30 9-17 * * MON-FRI": "every hour from 09:30 to 17:30, Monday to Friday",
    "*/10 9-17 * * 1-5": "every 10 minutes from 09:00 to 17:50, Monday to Friday",
    "7,22 9-17 * * *": "at minutes 7 and 22 of every hour from 9 to 17",
    "*/5 0-6,22,23 * * *": "every 5 minutes in the hours 0 to 6, 22 and 23",
    "@weekly": "every Sunday at 00:00",
    "0 9 * * 1-5": "Monday to Friday at 09:00",
    "0 0 * * SAT,7": "every Saturday and Sunday at 00:00",
    "0 8 * * 5-7": "Friday to Sunday at 08:00",
    "@monthly": "on the 1st of the month at 00:00",
    "0 0 1,15 * *": "on the 1st and 15th of the month at 00:00",
    "0 12 1-5,20 * *": "on days 1 to 5 and 20 of the month at 12:00",
    "0 0 L * *": "on the last day of the month at 00:00",
    "0 9 * * MON#2": "on the second Monday of the month at 09:00",
    "0 0 * * 5L": "on the last Friday of the month at 00:00",
    "@yearly": "on 1 January at 00:00",
    "0 6 * 1-3,7 *": "every day at 06:00, in January to March and July",
    "0 0 1 */3 *": "on the 1st of January, April, July and October at 00:00",
    # day-of-month and weekday: either will do, but where one of them starts with a star it must be both
    "0 0 13 * FRI": "on the 13th of the month and every Friday at 00:00",
    "0 0 */2 * MON": "every Monday, but only on days 1, 3, 5 … 31 of the month at 00:00",
    "3 3 3 3 3": "on 3 March and every Wednesday at 03:03, in March",
    "0 0 1-31 * MON": "every day at 00:00",
}


EXPRESSIONS = 3_000 if LONG else 250


@pytest.mark.parametrize("expression", SAID)
def test_an_expression_reads_as_people_would_say_it(expression: str) -> None:
    assert cron_in_words(read_expression(expression)) == SAID[expression]


def test_intervals_moments_and_what_is_none() -> None:
    assert rule_in_words("every 15m") == "every 15 minutes"
    assert rule_in_words("every 1h") == "every hour"
    assert rule_in_words("every 1h30m") == "every 1 hour 30 minutes"
    assert span_in_words(timedelta(days=2, seconds=1)) == "2 days 1 second"
    assert rule_in_words("at 2027-01-01T00:00:00+00:00", "Europe/Berlin") == "once, on 1 January 2027 at 01:00"
    assert rule_in_words("at 2027-01-01T00:00:07+00:00") == "once, on 1 January 2027 at 00:00:07"
    for broken in ("cron 0 0 * *", "every", "at noon", "at 2027-01-01T00:00:00+00:00 ", "", "<b>"):
        assert rule_in_words(broken, "Nowhere/Land") == broken


def _field(rng: random.Random, low: int, high: int, special: tuple[str, ...] = ()) -> str:
    terms = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        first = rng.randint(low, high)
        last = rng.randint(first, high)
        step = rng.choice((1, 2, 3, 5, 10, 15))
        terms.append(rng.choice(("*", "*", f"*/{step}", str(first), str(first), f"{first}-{last}", f"{first}-{last}/{step}", *special)))
    return ",".join(terms)


def test_what_reads_alike_has_the_same_slots() -> None:
    """Of thousands of random expressions no two with different slots are told in the same words."""
    rng = random.Random(4)
    first: dict[str, tuple[str, list[str]]] = {}
    told = 0
    while told < EXPRESSIONS:
        day, weekday = _field(rng, 1, 31, ("L", "LW")), _field(rng, 0, 7, ("5L", "1#2", "0#2", "6#5"))
        day, weekday = rng.choice(((day, "*"), ("*", weekday), (day, weekday), ("*", "*")))
        written = " ".join((_field(rng, 0, 59), _field(rng, 0, 23), day, rng.choice(("*", "*", _field(rng, 1, 12))), weekday))
        try:
            expression = read_expression(written)
        except ValueError:
            continue
        told += 1
        words = cron_in_words(expression)
        assert len(words) < 400, words
        fields = CronSim(expression, _SOME_DAY)
        days = [f"{slot:%F}" for slot in islice(CronSim(_days_alone(expression), _SOME_DAY), 400)]
        meaning = [str(sorted(fields.minutes)), str(sorted(fields.hours)), *days]
        other, known = first.setdefault(words, (expression, meaning))
        assert known == meaning, f"{other} and {expression} both read: {words}"
    assert len(first) > EXPRESSIONS // 2


def _days_alone(expression: str) -> str:
    return " ".join(("0", "0", *expression.split()[2:]))
