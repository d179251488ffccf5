"""When a queue gets more slots, and when it loses some."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.work.autoscale import IDLE_S, Calm, Load, decide

BUSY = Load(slots=4, least=2, most=16, running=4, waiting=True, peak=4, calm_s=0, lag_ms=1)
CALM = Load(slots=8, least=2, most=16, running=0, waiting=False, peak=3, calm_s=IDLE_S, lag_ms=1)


def test_slots_grow_while_jobs_wait_and_the_loop_keeps_up() -> None:
    slots, reason = decide(BUSY)
    assert slots == 6
    assert "jobs waited while all 4 slots were taken" in reason


def test_a_single_slot_grows_too_and_never_past_the_most() -> None:
    assert decide(replace(BUSY, slots=1, running=1, least=1))[0] == 2
    assert decide(replace(BUSY, slots=15, running=15))[0] == 16
    assert decide(replace(BUSY, slots=16, running=16)) == (16, "")


def test_a_late_loop_is_given_no_more_and_the_reason_says_so() -> None:
    slots, reason = decide(replace(BUSY, lag_ms=50))
    assert slots == 4
    assert "50 ms late" in reason


@pytest.mark.parametrize("change", [{"waiting": False}, {"running": 3}])
def test_nothing_grows_while_nothing_waits_or_a_slot_is_free(change: dict[str, int]) -> None:
    assert decide(replace(BUSY, **change)) == (4, "")  # type: ignore[arg-type]


def test_after_a_minute_the_slots_that_nobody_needed_go() -> None:
    slots, reason = decide(CALM)
    assert slots == 3
    assert "3 of 8 slots" in reason
    assert decide(replace(CALM, calm_s=IDLE_S - 1)) == (8, "")
    assert decide(replace(CALM, peak=0))[0] == 2


def test_a_queue_is_calm_only_while_some_slot_is_free() -> None:
    calm = Calm(since=0)
    calm.note(10, running=3, slots=4)
    calm.note(20, running=1, slots=4)
    assert (calm.since, calm.peak) == (0, 3)
    calm.note(30, running=4, slots=4)
    assert (calm.since, calm.peak) == (30, 0)


@given(
    st.integers(1, 50), st.integers(0, 50), st.integers(0, 50), st.integers(0, 60), st.booleans(), st.integers(0, 60), st.floats(0, 500),
    st.floats(0, 500),
)  # fmt: skip
def test_whatever_happens_the_slots_stay_within_their_bounds(
    least: int, above: int, wide: int, running: int, waiting: bool, peak: int, calm_s: float, lag_ms: float
) -> None:
    most = least + above
    slots = min(least + wide, most)
    decided, _ = decide(Load(slots, least, most, running, waiting, min(peak, slots), calm_s, lag_ms))
    assert least <= decided <= most
