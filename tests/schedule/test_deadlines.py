"""What a look at a slot decides, over any times: pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ingestd.schedule.deadlines import LOOK_FIRST, LOOK_LAST, JobNow, WatchedSlot, judge

DUE = datetime(2027, 1, 1, 2, tzinfo=UTC)
TICK = timedelta(microseconds=1)
ENDS = ("succeeded", "partial", "failed", "cancelled", "skipped")

spans = st.timedeltas(min_value=timedelta(seconds=1), max_value=timedelta(hours=6))
ages = st.timedeltas(min_value=timedelta(), max_value=timedelta(hours=8))
maybe = st.none() | spans


@st.composite
def slots(draw: st.DrawFn) -> WatchedSlot:
    start, finish = draw(maybe), draw(maybe)
    return WatchedSlot(
        "one",
        DUE,
        "fired",
        draw(st.none() | st.just("caught up")),
        7,
        DUE + draw(st.timedeltas(timedelta(), timedelta(minutes=1))),
        start_by=None if start is None else DUE + start,
        finish_by=None if finish is None else DUE + finish,
        target_runtime=draw(maybe),
    )


@st.composite
def lives(draw: st.DrawFn) -> tuple[WatchedSlot, datetime | None, datetime | None, str]:
    """A slot, when its job starts and ends (None: never), and how."""
    slot = draw(slots())
    starts = draw(st.none() | ages)
    began = None if starts is None else slot.fired_at + starts
    ends = draw(st.none() | ages)
    over = None if ends is None else (began or slot.fired_at) + ends
    return slot, began, over, draw(st.sampled_from(ENDS))


def job_at(life: tuple[WatchedSlot, datetime | None, datetime | None, Any], now: datetime) -> JobNow:
    """What there is to see of a job at a moment."""
    _, began, over, how = life
    starts = [began] if began is not None and began <= now else []
    return JobNow(starts, how, over) if over is not None and over <= now else JobNow(starts)


def follow(life: tuple[WatchedSlot, datetime | None, datetime | None, Any], looks: int = 10_000) -> tuple[WatchedSlot, list[Any]]:
    """Look whenever a look asks for the next, until the job is over; the slot at the end and all findings."""
    slot, now, found = life[0], life[0].fired_at + timedelta(seconds=1), []
    for _ in range(looks):
        finding = judge(slot, job_at(life, now), now)
        found.append((now, finding))
        slot = WatchedSlot(
            slot.schedule,
            slot.due_at,
            finding.state,
            finding.reason,
            slot.job_id,
            slot.fired_at,
            None,
            slot.start_by,
            slot.finish_by,
            slot.target_runtime,
            finding.started_at,
            finding.overdue,
            finding.slow_at,
        )
        if finding.check_at is None:
            return slot, found
        now = finding.check_at
    return slot, found


@given(slots(), ages, st.booleans())
def test_an_open_slot_is_looked_at_again_soon_and_no_later_than_at_its_next_deadline(slot: WatchedSlot, age: timedelta, runs: bool) -> None:
    now = slot.fired_at + age
    finding = judge(slot, JobNow([slot.fired_at] if runs else []), now)
    assert finding.check_at is not None
    assert now < finding.check_at <= now + LOOK_LAST + TICK
    assert finding.check_at <= now + max(LOOK_FIRST, age / 10) + TICK
    ahead = [slot.finish_by] + ([] if runs else [slot.start_deadline])
    if runs and slot.target_runtime is not None:
        ahead.append(slot.fired_at + slot.target_runtime)
    for deadline in ahead:
        if deadline is not None and deadline >= now:
            assert finding.check_at <= deadline + TICK


@given(lives(), ages)
def test_one_look_after_the_end_knows_as_much_as_the_times_tell(life: Any, late: timedelta) -> None:
    slot, began, over, how = life
    if over is None:
        return
    finding = judge(slot, job_at(life, over + late), over + late)
    assert (finding.ended, finding.ended_at, finding.started_at, finding.check_at) == (how, over, began, None)
    assert finding.duration_ms == (None if began is None else round((over - began) / timedelta(milliseconds=1)))
    broke = [deadline for deadline, _ in finding.broke]
    assert ("start" in broke) == (slot.start_deadline is not None and (began or over) > slot.start_deadline)
    assert ("finish" in broke) == (slot.finish_by is not None and over > slot.finish_by)
    assert finding.turned_slow == (slot.target_runtime is not None and began is not None and over - began > slot.target_runtime)
    assert finding.state == ("late" if broke else "fired")
    assert finding.overdue == (broke[-1] if broke else None)


@settings(deadline=None, max_examples=60)
@given(lives())
def test_looking_along_tells_each_thing_once_and_the_same_as_looking_once(life: Any) -> None:
    slot, began, over, _ = life
    if over is None:
        return
    last, found = follow(life)
    told = [deadline for _, finding in found for deadline, _ in finding.broke]
    once = judge(slot, job_at(life, over), over)
    assert told == [deadline for deadline, _ in once.broke]
    assert sum(finding.turned_slow for _, finding in found) == int(once.turned_slow)
    assert (last.state, last.overdue, last.started_at) == (once.state, once.overdue, began)
    assert (last.reason or "").split("; ") == (once.reason or "").split("; ")


@settings(deadline=None, max_examples=60)
@given(lives())
def test_a_broken_deadline_is_noticed_at_the_moment_it_passes(life: Any) -> None:
    slot = life[0]
    _, found = follow(life, 3000)
    for now, finding in found:
        for deadline, _ in finding.broke:
            until = slot.start_by if deadline == "start" else slot.finish_by
            assert until is not None
            assert now <= max(until, slot.fired_at + timedelta(seconds=1)) + TICK


def test_a_start_that_may_be_later_than_the_end_has_no_deadline_of_its_own() -> None:
    slot = WatchedSlot("one", DUE, "fired", None, 7, DUE, start_by=DUE + timedelta(hours=2), finish_by=DUE + timedelta(hours=1))
    assert [deadline for deadline, _ in judge(slot, JobNow(), DUE + timedelta(hours=3)).broke] == ["finish"]


def test_a_job_that_is_gone_settles_its_slot() -> None:
    finding = judge(WatchedSlot("one", DUE, "late", "3m late", 7, DUE), None, DUE + timedelta(minutes=4))
    assert (finding.ended, finding.started_at, finding.check_at) == ("cancelled", None, None)
    assert finding.reason == "3m late; its job was deleted before its end was seen"


def test_what_a_job_did_before_it_was_retried_counts_no_more() -> None:
    slot = WatchedSlot("one", DUE, "fired", None, 7, DUE, retried_at=DUE + timedelta(hours=5), target_runtime=timedelta(hours=1))
    now = DUE + timedelta(hours=6)
    assert judge(slot, JobNow([DUE]), now).started_at is None
    again = judge(slot, JobNow([DUE, DUE + timedelta(hours=5, minutes=1)]), now)
    assert again.started_at == DUE + timedelta(hours=5, minutes=1)
    assert not again.turned_slow
    assert judge(slot, JobNow([DUE], is_run=True), now).started_at == slot.retried_at


def test_a_clock_that_is_wrong_moves_the_start_no_further_than_between_firing_and_now() -> None:
    slot, now = WatchedSlot("one", DUE, "fired", None, 7, DUE), DUE + timedelta(minutes=1)
    assert judge(slot, JobNow([DUE - timedelta(minutes=2)]), now).started_at == DUE
    assert judge(slot, JobNow([DUE + timedelta(minutes=3)]), now).started_at == now
    ended = judge(slot, JobNow([DUE + timedelta(minutes=3)], "succeeded", DUE + timedelta(seconds=30)), now)
    assert (ended.started_at, ended.duration_ms) == (DUE + timedelta(seconds=30), 0)
