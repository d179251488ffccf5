"""Cron expressions: what crontab(5) says, in zones where the clock jumps, and against an independent reading of both."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from ingestd.schedule.cron import LONGEST, parse, read_expression
from ingestd.schedule.rules import AtRule, EveryRule, parse_rule, upcoming
from ingestd.schedule.zones import find_zone, first_change, resolve
from tests.unit.cron_truth import ByHand


def slots(expression: str, zone: str, start: str, count: int) -> list[str]:
    """The next slots after a wall clock time, as the wall clock shows them, with their offset."""
    begin = datetime.fromisoformat(start).replace(tzinfo=ZoneInfo(zone))
    found = islice(parse(expression, zone).after(begin), count)
    return [slot.astimezone(ZoneInfo(zone)).strftime("%m-%d %H:%M%z") for slot in found]


# --- what the fields mean


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0 2 * * *", ["01-01 02:00", "01-02 02:00"]),
        ("*/20 * * * *", ["01-01 00:20", "01-01 00:40", "01-01 01:00"]),
        ("5,10-12 3 * * *", ["01-01 03:05", "01-01 03:10", "01-01 03:11", "01-01 03:12", "01-02 03:05"]),
        ("0 0 * jan mon", ["01-05 00:00", "01-12 00:00"]),
        ("0 0 * * 7", ["01-04 00:00", "01-11 00:00"]),  # 2026-01-01 is a Thursday
        ("0 0 * * 0", ["01-04 00:00", "01-11 00:00"]),
        ("0 0 * * 5-7", ["01-02 00:00", "01-03 00:00", "01-04 00:00", "01-09 00:00"]),
        ("0 0 * * SUN", ["01-04 00:00"]),
        ("0 0 L * *", ["01-31 00:00", "02-28 00:00", "03-31 00:00"]),
        ("0 0 * * 5L", ["01-30 00:00", "02-27 00:00"]),
        ("0 0 * * MON#2", ["01-12 00:00", "02-09 00:00"]),
        ("0 0 13 * FRI", ["01-02 00:00", "01-09 00:00", "01-13 00:00", "01-16 00:00"]),  # OR
        ("0 0 */2 * FRI", ["01-09 00:00", "01-23 00:00", "02-13 00:00"]),  # AND, because a field starts with *
        ("0 0 13 * */5", ["02-13 00:00", "03-13 00:00", "09-13 00:00"]),  # AND: the 13th, if Sunday or Friday
        ("0 03-3/2 * * *", ["01-01 03:00", "01-02 03:00"]),
        ("0 0 * * MON-1/2", ["01-05 00:00", "01-12 00:00"]),
        ("@hourly", ["01-01 01:00", "01-01 02:00"]),
        ("@daily", ["01-02 00:00"]),
        ("@midnight", ["01-02 00:00"]),
        ("@weekly", ["01-04 00:00"]),
        ("@monthly", ["02-01 00:00"]),
        ("@yearly", ["01-01 00:00"]),
        ("@annually", ["01-01 00:00"]),
        ("  0\t2   * * * ", ["01-01 02:00"]),
    ],
)
def test_fields_mean_what_crontab_says(expression: str, expected: list[str]) -> None:
    got = [slot[:-5] for slot in slots(expression, "UTC", "2026-01-01T00:00", len(expected))]
    assert got == expected


def test_a_leap_day_comes_every_four_years() -> None:
    assert [slot.year for slot in islice(parse("0 0 29 2 *").after(datetime(2026, 1, 1, tzinfo=UTC)), 3)] == [2028, 2032, 2036]


# --- what is no expression


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has 0 of the five fields"),
        ("* * * *", "has 4 of the five fields"),
        ("0 0 2 * * *", "six fields.*use every"),
        ("60 * * * *", 'bad minute "60".*0 to 59'),
        ("* 24 * * *", 'bad hour "24"'),
        ("0 0 0 * *", 'bad day-of-month "0"'),
        ("0 0 * 13 *", 'bad month "13"'),
        ("0 0 * * 8", 'bad day-of-week "8".*0 and 7 are Sunday'),
        ("0 0 * * SAT-SUN", "bad day-of-week.*from low to high"),
        ("*/0 * * * *", "bad minute"),
        ("0 0 30 2 *", "a day that its months have"),
        ("0 0 */30 2 5#5", "never fires"),
        ("0 0 1--100000000 * *", "as many digits"),
        ("0 0 1--1 * *", "bad day-of-month"),
        ("0 0 1-99999999999 * *", "as many digits"),
        ("@reboot", "not known here: use one of @yearly"),
        ("@", "not known here"),
        ("0 2 * * * ; rm", "cannot hold ';'"),
        ("٣ 2 * * *", "cannot hold"),
        ("0 2 * * *\n0 3 * * *", "cannot hold"),
        ("0 0 * * L", "bad day-of-week"),
        ("0 0 ? * *", "cannot hold"),
        ("5/15 * * * *", 'a step needs a range.*write "5-59/15"'),
        ("3-3/0 * * * *", "bad minute"),
        ("** * * * *", "bad minute"),
    ],
)
def test_a_bad_expression_is_refused_with_its_reason(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "0 0 1--100000000 * *",
        "*" * 1_000_000,
        "0 0 * * " + "1," * 500_000,
        "9" * 1_000_000 + " * * * *",
        "0-59/1," * 25 + "0 * * * *",
        "0 0 31 2,4 2#5",
    ],
)
def test_hostile_expressions_are_answered_in_milliseconds(text: str) -> None:
    began = time.perf_counter()
    with suppress(ValueError):
        read_expression(text)
    assert time.perf_counter() - began < 0.1


@given(st.text(max_size=60) | st.text(alphabet="0123456789*,-/L# @ADNUSWMO", min_size=1, max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_text_is_an_expression_or_a_value_error(text: str) -> None:
    try:
        expression = read_expression(text)
    except ValueError:
        return
    assert len(expression) <= LONGEST
    assert parse(expression).next_after(datetime(2026, 1, 1, tzinfo=UTC)) is not None


# --- where the clock jumps

GAP = "2027-03-28"  # Berlin: 02:00 becomes 03:00
FOLD = "2026-10-25"  # Berlin: 03:00 becomes 02:00


def test_a_time_of_day_in_a_gap_runs_once_right_after_it() -> None:
    got = slots("30 2 * * *", "Europe/Berlin", "2027-03-27T12:00", 2)
    assert got == ["03-28 03:00+0200", "03-29 02:30+0200"]


def test_several_times_of_day_in_one_gap_run_once() -> None:
    got = slots("0,15,30 2,3 * * *", "Europe/Berlin", "2027-03-27T12:00", 4)
    assert got == ["03-28 03:00+0200", "03-28 03:15+0200", "03-28 03:30+0200", "03-29 02:00+0200"]


def test_a_time_of_day_in_a_fold_runs_once_the_first_time() -> None:
    got = slots("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", 2)
    assert got == ["10-25 02:30+0200", "10-26 02:30+0100"]


def test_starting_in_the_second_pass_of_a_fold_does_not_repeat_the_first() -> None:
    rule = parse("30 2 * * *", "Europe/Berlin")
    for minute in range(60):
        second_pass = datetime(2026, 10, 25, 1, minute, tzinfo=UTC)  # 02:xx+01:00
        assert rule.next_after(second_pass) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


def test_an_expression_in_real_time_has_no_slot_in_a_gap_and_two_in_a_fold() -> None:
    assert slots("*/30 2 * * *", "Europe/Berlin", "2027-03-27T12:00", 1) == ["03-29 02:00+0200"]
    assert slots("*/30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", 5) == [
        "10-25 02:00+0200",
        "10-25 02:30+0200",
        "10-25 02:00+0100",
        "10-25 02:30+0100",
        "10-26 02:00+0100",
    ]
    assert slots("0 * * * *", "Europe/Berlin", "2027-03-28T00:30", 3) == ["03-28 01:00+0100", "03-28 03:00+0200", "03-28 04:00+0200"]


def test_a_jump_of_half_an_hour_swallows_no_slot_behind_it() -> None:
    # Lord Howe: 02:00 becomes 02:30 in October, 02:00 becomes 01:30 in April
    assert slots("*/30 3 * * *", "Australia/Lord_Howe", "2026-10-04T00:00", 2) == ["10-04 03:00+1100", "10-04 03:30+1100"]
    assert slots("*/30 * * * *", "Australia/Lord_Howe", "2026-10-04T01:00", 2) == ["10-04 01:30+1030", "10-04 02:30+1100"]
    assert slots("*/30 2 * * *", "Australia/Lord_Howe", "2026-04-05T00:00", 2) == ["04-05 02:00+1030", "04-05 02:30+1030"]
    assert slots("*/30 1 * * *", "Australia/Lord_Howe", "2026-04-05T00:00", 3) == [
        "04-05 01:00+1100",
        "04-05 01:30+1100",
        "04-05 01:30+1030",
    ]


def test_a_midnight_that_does_not_exist() -> None:
    # Sao Paulo, 4 November 2018: 00:00 becomes 01:00
    assert slots("0 0 * * *", "America/Sao_Paulo", "2018-11-03T12:00", 2) == ["11-04 01:00-0200", "11-05 00:00-0200"]
    assert slots("*/30 0 * * *", "America/Sao_Paulo", "2018-11-03T12:00", 1) == ["11-05 00:00-0200"]


def test_a_day_that_does_not_exist() -> None:
    # Apia went from 29 to 31 December 2011
    assert slots("30 9 * * *", "Pacific/Apia", "2011-12-29T00:00", 3) == ["12-29 09:30-1000", "12-31 00:00+1400", "12-31 09:30+1400"]
    assert slots("0 */12 * * *", "Pacific/Apia", "2011-12-29T00:00", 3) == ["12-29 12:00-1000", "12-31 00:00+1400", "12-31 12:00+1400"]


ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia", "America/Sao_Paulo"]
STARTS = [
    datetime(2011, 12, 29, 8, tzinfo=UTC),
    datetime(2018, 11, 3, 20, tzinfo=UTC),
    datetime(2026, 3, 7, 20, tzinfo=UTC),
    datetime(2026, 3, 28, 20, tzinfo=UTC),
    datetime(2026, 4, 4, 10, tzinfo=UTC),
    datetime(2026, 10, 3, 10, tzinfo=UTC),
    datetime(2026, 10, 24, 20, tzinfo=UTC),
    datetime(2026, 10, 31, 20, tzinfo=UTC),
]


def field(low: int, high: int, spread: bool = True) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    span = st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}")
    step = st.integers(1, high)
    terms = number.map(str) | span | st.tuples(span, step).map(lambda both: f"{both[0]}/{both[1]}")
    some = st.lists(terms, min_size=1, max_size=3).map(",".join)
    return some | st.just("*") | step.map(lambda count: f"*/{count}") if spread else some


expressions = st.tuples(field(0, 59), field(0, 23), field(1, 31), field(1, 12) | st.just("*"), field(0, 7)).map(" ".join)


@given(expressions, st.sampled_from(ZONES), st.sampled_from(STARTS))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example("30 2 * * *", "Europe/Berlin", STARTS[3])
@example("*/15 1-3 * * *", "Australia/Lord_Howe", STARTS[5])
@example("0 0 * * *", "America/Sao_Paulo", STARTS[1])
@example("0 12 30 12 *", "Pacific/Apia", STARTS[0])
def test_slots_are_those_found_minute_by_minute(expression: str, zone: str, start: datetime) -> None:
    try:
        rule = parse(expression, zone)
    except ValueError as error:
        assume("never fires" not in str(error) and "bad day-of-month" not in str(error))
        raise
    end = start + timedelta(days=2)
    got = []
    for slot in rule.after(start):
        if slot > end:
            break
        got.append(slot)
    assert got == ByHand(expression).between(ZoneInfo(zone), start, end)


@given(st.sampled_from(ZONES), expressions, st.integers(1_104_537_600, 2_051_222_400))
@settings(max_examples=200, deadline=None)
def test_asking_from_any_moment_answers_the_first_later_slot(zone: str, expression: str, start: int) -> None:
    try:
        rule = parse(expression, zone)
    except ValueError:
        assume(False)
    moment = datetime.fromtimestamp(start, UTC)
    listed = list(islice(rule.after(moment), 4))
    assert all(slot > moment for slot in listed)
    assert listed == sorted(set(listed))
    for earlier, later in pairwise(listed):
        assert rule.next_after(earlier) == later


# --- zones


def test_a_change_of_the_clock_is_found_to_the_second() -> None:
    berlin = find_zone("Europe/Berlin")
    start = datetime(2026, 10, 1, 12, 34, 56, 789, tzinfo=UTC)
    assert first_change(berlin, start, start + timedelta(days=60)) == datetime(2026, 10, 25, 1, tzinfo=UTC)
    assert first_change(berlin, start, start + timedelta(days=20)) is None
    just_before = datetime(2026, 10, 25, 0, 59, 58, 500_000, tzinfo=UTC)
    assert first_change(berlin, just_before, just_before + timedelta(seconds=1.9)) == datetime(2026, 10, 25, 1, tzinfo=UTC)


def test_a_wall_clock_time_in_a_gap_is_the_moment_of_the_jump() -> None:
    berlin = find_zone("Europe/Berlin")
    jump = datetime(2027, 3, 28, 1, tzinfo=UTC)
    assert {resolve(berlin, datetime.fromisoformat(f"2027-03-28T02:{minute:02}")) for minute in range(60)} == {jump}


@pytest.mark.parametrize(
    "name", ["Europe/Berlni", "", "../../etc/passwd", "/etc/localtime", "America", "localtime", "right/UTC", "x" * 1000, "a\0b"]
)
def test_a_name_that_is_no_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a time zone"):
        find_zone(name)


def test_a_misspelt_zone_gets_a_suggestion() -> None:
    with pytest.raises(ValueError, match='did you mean "Europe/Berlin"'):
        find_zone("Europe/Berlni")
    with pytest.raises(ValueError, match='did you mean "Europe/Berlin"'):
        find_zone("right/Europe/Berlin")


def test_what_was_refused_is_not_suggested() -> None:
    for name in ("localtime", "Factory"):
        with pytest.raises(ValueError, match="write an IANA name"):
            find_zone(name)


# --- intervals, moments, notes


def test_an_interval_falls_on_its_multiples_since_1970_wherever_it_starts() -> None:
    rule = parse_rule("every 15m", "Europe/Berlin")
    assert isinstance(rule, EveryRule)
    assert rule.next_after(datetime(2026, 1, 1, 0, 7, 3, 5, tzinfo=UTC)) == datetime(2026, 1, 1, 0, 15, tzinfo=UTC)
    assert rule.next_after(datetime(2026, 1, 1, 0, 15, tzinfo=UTC)) == datetime(2026, 1, 1, 0, 30, tzinfo=UTC)


def test_a_moment_comes_once() -> None:
    rule = parse_rule("at 2027-01-01T02:00:00+00:00", "UTC")
    assert isinstance(rule, AtRule)
    moment = datetime(2027, 1, 1, 2, tzinfo=UTC)
    assert rule.next_after(moment - timedelta(seconds=1)) == moment
    assert rule.next_after(moment) is None


def test_the_end_of_the_calendar_ends_the_slots() -> None:
    end = datetime(9999, 12, 31, 23, 59, 30, tzinfo=UTC)
    assert parse("* * * * *").next_after(end) is None
    assert parse("0 0 1 1 *", "Europe/Berlin").next_after(end) is None
    assert parse_rule("every 1h", "UTC").next_after(end) is None


def notes(expression: str, zone: str, start: str, count: int) -> list[str | None]:
    begin = datetime.fromisoformat(start).replace(tzinfo=ZoneInfo(zone))
    return [slot.note for slot in upcoming(parse(expression, zone), begin, count)]


def test_notes_tell_what_the_clock_does() -> None:
    assert notes("30 2 * * *", "Europe/Berlin", "2027-03-26T12:00", 3) == [
        None,
        "02:30 does not exist on this day: runs when the clock jumps from 02:00 to 03:00",
        None,
    ]
    assert notes("0 3 * * *", "Europe/Berlin", "2027-03-27T12:00", 1) == [None]
    assert notes("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", 2) == [
        "02:30 comes twice on this day: runs the first time",
        None,
    ]
    assert notes("0 * * * *", "Europe/Berlin", "2026-10-25T00:30", 5) == [
        None,
        "the first 02:00 of this day: the clock is set back",
        "the second 02:00 of this day: the clock is set back",
        None,
        None,
    ]
    assert notes("0 * * * *", "Europe/Berlin", "2027-03-28T00:30", 3) == [
        None,
        "the clock jumps from 02:00 to 03:00 before this slot",
        None,
    ]


def test_upcoming_slots_carry_the_offset_of_their_zone() -> None:
    first = upcoming(parse("0 12 * * *", "Asia/Kathmandu"), datetime(2026, 1, 1, tzinfo=UTC), 1)[0]
    assert first.at.isoformat() == "2026-01-01T12:00:00+05:45"
