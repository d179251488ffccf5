"""The start and end of a schedule: exactly the slots of its rule that lie between them, whatever the clock does there."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.schedule.rules import BoundedRule, first_of, last_of, parse_rule, upcoming
from ingestd.schedule.slots import Policy, plan

# Clocks that move by half an hour, at midnight, back across it, by a whole day, or never.
ZONES = (
    "UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/Sao_Paulo", "America/St_Johns", "America/Havana", "Asia/Kathmandu",
    "Pacific/Apia", "Africa/Casablanca", "Asia/Beirut",
)  # fmt: skip
RULES = (
    "every 1s", "every 15m", "every 7h", "every 2d", "cron * * * * *", "cron 0 0 * * *", "cron 30 2 * * *", "cron 0 */6 * * *",
    "cron 15 1 * * SUN", "cron 0 0 1 * *", "cron 59 23 L * *",
)  # fmt: skip
# Days around which some of these clocks move.
DAYS = st.sampled_from(
    [date(2010, 11, 7), date(2011, 12, 30), date(2018, 11, 4), date(2018, 2, 18), date(2026, 3, 29), date(2026, 10, 4), date(2026, 10, 25)]
)
MOMENTS = st.builds(
    lambda day, seconds, micro: datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(seconds=seconds, microseconds=micro),
    DAYS,
    st.integers(-40 * 3600, 40 * 3600) | st.integers(-80, 80).map(lambda half: half * 1800),
    st.sampled_from([0, 0, 0, 1, 999_999]),
)


@given(st.sampled_from(RULES), st.sampled_from(ZONES), MOMENTS, st.none() | MOMENTS, st.none() | MOMENTS)
def test_a_bounded_rule_has_exactly_the_slots_between_its_bounds(
    text: str, zone: str, after: datetime, start: datetime | None, end: datetime | None
) -> None:
    inner, bounded = parse_rule(text, zone), parse_rule(text, zone, start, end)
    floor = after if start is None else max(after, start - timedelta(microseconds=1))
    wanted = [slot for slot in islice(inner.after(floor), 60) if end is None or slot <= end]
    assert list(islice(bounded.after(after), 60)) == wanted
    assert bounded.next_after(after) == (wanted[0] if wanted else None)
    assert all(slot > after and (start is None or slot >= start) for slot in wanted)
    if start is not None and (end is None or start <= end):
        # A slot at the very moment of a bound is within it.
        exact = inner.next_after(start)
        assert exact is None or parse_rule(text, zone, exact, exact).next_after(exact - timedelta(days=1)) == exact


@given(DAYS, st.sampled_from(ZONES), st.integers(-3, 3), st.integers(-100_000, 100_000))
def test_a_day_alone_includes_all_of_it(around: date, timezone: str, offset: int, seconds: int) -> None:
    zone, day = ZoneInfo(timezone), around + timedelta(days=offset)
    first, last = first_of(day, timezone), last_of(day, timezone)
    for edge in (first, last):
        for moment in (edge + timedelta(seconds=seconds), edge + timedelta(microseconds=1), edge - timedelta(microseconds=1), edge):
            if moment.astimezone(zone).date() == day:
                assert first <= moment <= last
    # Nothing of the next day but what is lived through twice, and a day that was left out is nothing.
    assert last - first <= timedelta(hours=26)
    assert last >= first - timedelta(microseconds=1)


def test_a_day_whose_end_comes_twice_ends_the_second_time() -> None:
    """In Newfoundland the clock went back from one minute past midnight to one past eleven of the day before."""
    assert last_of(date(2010, 11, 6), "America/St_Johns") == datetime(2010, 11, 7, 3, 30, tzinfo=UTC) - timedelta(microseconds=1)


@pytest.mark.parametrize(("start", "end"), [(None, date(2026, 3, 29)), (date(2026, 3, 29), None), (date(2026, 3, 29), date(2026, 3, 29))])
def test_transitions_are_noted_within_bounds_too(start: date | None, end: date | None) -> None:
    zone = "Europe/Berlin"
    rule = parse_rule("cron 30 2 * * *", zone, first_of(start, zone) if start else None, last_of(end, zone) if end else None)
    (shown,) = [slot for slot in upcoming(rule, datetime(2026, 3, 28, 12, tzinfo=UTC), 3) if slot.at.date() == date(2026, 3, 29)]
    assert "02:30 does not exist on this day" in str(shown.note)


def test_a_plan_ends_with_the_rule() -> None:
    end = datetime(2026, 1, 1, 0, 5, tzinfo=UTC)
    rule = BoundedRule(parse_rule("every 1m", "UTC"), None, end)
    made = plan(rule, end - timedelta(minutes=3), end + timedelta(hours=1), Policy("all", 100, None))
    assert [slot.due_at for slot in made.slots] == [end - timedelta(minutes=2), end - timedelta(minutes=1), end]
    assert (made.accounted_to, made.next_due_at) == (end, None)
