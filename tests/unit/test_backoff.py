"""How long a job waits before its next attempt."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.jobs.backoff import Backoff


@pytest.mark.parametrize(("attempt", "minutes"), [(1, 1), (2, 2), (3, 4), (4, 8), (6, 32), (7, 60), (1000, 60)])
def test_the_stated_waits_are_1_2_4_8_minutes_and_never_over_an_hour(attempt: int, minutes: int) -> None:
    assert Backoff(jitter=0).delay(attempt) == timedelta(minutes=minutes)


@given(
    attempt=st.integers(min_value=-5, max_value=10**6),
    base=st.floats(min_value=0.001, max_value=1e4),
    factor=st.floats(min_value=1, max_value=100),
    cap=st.floats(min_value=0.001, max_value=1e6),
    jitter=st.floats(min_value=0, max_value=1),
)
def test_any_wait_is_near_the_capped_power(attempt: int, base: float, factor: float, cap: float, jitter: float) -> None:
    wait = Backoff(base, factor, cap, jitter).delay(attempt).total_seconds()
    assert 0 <= wait <= cap * (1 + jitter / 2) + 1e-6


def test_jitter_spreads_jobs_that_failed_together() -> None:
    waits = {Backoff().delay(1).total_seconds() for _ in range(50)}
    assert len(waits) > 40
    assert 57 <= min(waits) <= max(waits) <= 63


def test_a_wait_does_not_shrink_from_one_attempt_to_the_next() -> None:
    waits = [Backoff(jitter=0).delay(attempt) for attempt in range(1, 20)]
    assert waits == sorted(waits)
