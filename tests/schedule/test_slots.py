"""The decision about slots that have come due: pure, no database."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestd.schedule.rules import parse_rule
from ingestd.schedule.slots import KEEP_SINGLE, PROMPT, PlannedSlot, Policy, plan, share

NOW = datetime(2026, 6, 1, 12, 0, 10, tzinfo=UTC)
MINUTELY = parse_rule("every 1m", "UTC")
SECONDLY = parse_rule("every 1s", "UTC")


def decided(policy: Policy, behind: timedelta, rule: str = "every 1m") -> list[tuple[str, str]]:
    made = plan(parse_rule(rule, "UTC"), NOW - behind, NOW, policy)
    return [(f"{slot.due_at:%H:%M}", slot.state) for slot in made.slots]


def test_a_slot_on_time_is_fired_and_the_next_one_is_known() -> None:
    made = plan(MINUTELY, NOW - timedelta(seconds=20), NOW, Policy("none"))
    assert made.slots == (PlannedSlot(NOW.replace(second=0), "fired"),)
    assert made.accounted_to == NOW.replace(second=0)
    assert made.next_due_at == NOW.replace(minute=1, second=0)


def test_nothing_due_leaves_everything_as_it_was() -> None:
    after = NOW - timedelta(seconds=5)
    made = plan(MINUTELY, after, NOW, Policy())
    assert (made.slots, made.accounted_to) == ((), after)


def test_without_catch_up_what_came_due_in_downtime_is_missed() -> None:
    assert decided(Policy("none"), timedelta(minutes=3)) == [("11:58", "missed"), ("11:59", "missed"), ("12:00", "fired")]
    assert decided(Policy("none"), timedelta(minutes=15), "every 1h") == [("12:00", "fired")]
    assert decided(Policy("none"), timedelta(hours=3), "cron 30 * * * *") == [
        ("09:30", "missed"),
        ("10:30", "missed"),
        ("11:30", "missed"),
    ]


def test_latest_runs_one_slot_for_all_that_came_due_in_downtime() -> None:
    assert decided(Policy("latest"), timedelta(hours=3), "cron 30 * * * *") == [
        ("09:30", "missed"),
        ("10:30", "missed"),
        ("11:30", "late"),
    ]
    # the slot that is due right now is that one
    assert decided(Policy("latest"), timedelta(minutes=3)) == [("11:58", "missed"), ("11:59", "missed"), ("12:00", "fired")]


def test_all_runs_every_slot_of_downtime_up_to_the_limit_the_newest() -> None:
    assert decided(Policy("all"), timedelta(minutes=3)) == [("11:58", "late"), ("11:59", "late"), ("12:00", "fired")]
    assert decided(Policy("all", max_catch_up=1), timedelta(minutes=4)) == [
        ("11:57", "missed"),
        ("11:58", "missed"),
        ("11:59", "late"),
        ("12:00", "fired"),
    ]
    made = plan(MINUTELY, NOW - timedelta(minutes=3), NOW, Policy("all"))
    assert [slot.triggered_by for slot in made.slots] == ["catch_up", "catch_up", "schedule"]
    assert [slot.in_line for slot in made.slots] == [True, True, False]


def test_a_slot_found_later_than_start_within_is_missed_whatever_catch_up_says() -> None:
    policy = Policy("all", start_within=timedelta(seconds=90))
    assert decided(policy, timedelta(minutes=3)) == [("11:58", "missed"), ("11:59", "late"), ("12:00", "fired")]
    made = plan(MINUTELY, NOW - timedelta(seconds=30), NOW, Policy("latest", start_within=timedelta(seconds=5)))
    assert [(slot.state, slot.reason) for slot in made.slots] == [("missed", "could not start within 5s")]


def test_lagging_for_less_than_two_rests_of_the_loop_is_not_downtime() -> None:
    made = plan(SECONDLY, NOW - PROMPT, NOW, Policy("none"))
    assert {slot.state for slot in made.slots} == {"fired"}
    assert len(made.slots) == PROMPT.total_seconds()


def test_a_month_of_downtime_is_few_rows_and_every_slot_is_counted() -> None:
    behind, after, rows = timedelta(days=30), NOW - timedelta(days=30), []
    while True:
        made = plan(MINUTELY, after, NOW, Policy("latest"))
        rows += made.slots
        after = made.accounted_to
        assert made.next_due_at is not None
        if made.next_due_at > NOW:
            break
    assert sum(slot.slots for slot in rows) == behind / timedelta(minutes=1)
    assert len(rows) < 15 * KEEP_SINGLE
    assert [slot.state for slot in rows if slot.state != "missed"] == ["fired"]


def test_a_limit_too_small_to_decide_anything_is_refused() -> None:
    with pytest.raises(ValueError, match="more slots than it may hold back"):
        plan(MINUTELY, NOW - timedelta(days=1), NOW, Policy("all", max_catch_up=100), limit=50)


policies = st.builds(
    Policy,
    st.sampled_from(["none", "latest", "all"]),
    st.integers(1, 20),
    st.none() | st.integers(1, 7200).map(lambda seconds: timedelta(seconds=seconds)),
)


@given(policies, st.integers(1, 40), st.integers(0, 5000), st.integers(60, 200))
@settings(max_examples=200, deadline=None)
def test_every_slot_of_a_gap_is_decided_once_however_it_is_cut(policy: Policy, step: int, behind: int, limit: int) -> None:
    rule = parse_rule(f"every {step}s", "UTC")
    start = after = NOW - timedelta(seconds=behind)
    rows: list[PlannedSlot] = []
    while True:
        made = plan(rule, after, NOW, policy, limit)
        rows += made.slots
        after = made.accounted_to
        if made.next_due_at is None or made.next_due_at > NOW:
            break
    expected = []
    for slot in rule.after(start):
        if slot > NOW:
            break
        expected.append(slot)
    assert [row.due_at for row in rows] == sorted({row.due_at for row in rows})
    assert sum(row.slots for row in rows) == len(expected)
    assert {row.due_at for row in rows} <= set(expected)
    whole = plan(rule, start, NOW, policy, 100_000)
    assert [row for row in rows if row.state != "missed"] == [row for row in whole.slots if row.state != "missed"]


def test_a_share_of_the_jitter_is_the_same_on_every_node_and_in_every_release() -> None:
    berlin = NOW.astimezone(ZoneInfo("Europe/Berlin"))
    assert share("nightly", NOW, timedelta(seconds=30)) == share("nightly", berlin, timedelta(seconds=30))
    assert share("nightly", NOW, timedelta(seconds=30)) == timedelta(seconds=14, microseconds=260450)
    assert share("nightly", NOW, timedelta()) == timedelta()


def test_shares_are_spread_evenly_over_schedules_and_over_slots() -> None:
    jitter = timedelta(seconds=100)
    of_schedules = [share(f"s{number}", NOW, jitter) for number in range(1000)]
    of_slots = [share("s", NOW + timedelta(minutes=number), jitter) for number in range(1000)]
    for drawn in (of_schedules, of_slots):
        assert all(timedelta() <= one < jitter for one in drawn)
        tenths = Counter(int(one / jitter * 10) for one in drawn)
        assert min(tenths.values()) > 60
        assert max(tenths.values()) < 140
