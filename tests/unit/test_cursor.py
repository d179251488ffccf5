"""Cursors: where the next claim of a queue begins."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

from ingestd.jobs.model import Job
from ingestd.work.cursor import LOW_FIRST_EVERY, START, Cursor, sweep_again_in

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def job(job_id: int, run_at: datetime, priority: int = 0) -> Job:
    return Job(job_id, "k", "default", {}, 1, 4, 0, run_at, run_at, run_at, uuid.uuid4(), priority)


def test_a_cursor_moves_forward_with_what_was_taken_and_never_back() -> None:
    cursor = Cursor()
    cursor.advance([job(7, NOW), job(9, NOW), job(3, NOW - timedelta(seconds=5))])
    assert cursor.positions == {0: (NOW, 9)}


def test_each_priority_has_a_position_of_its_own() -> None:
    cursor = Cursor()
    cursor.advance([job(1, NOW, 10), job(2, NOW, -10)])
    assert sorted(cursor.positions) == [-10, 10]


def test_a_wake_up_from_an_old_transaction_lowers_the_cursor() -> None:
    cursor = Cursor()
    cursor.advance([job(9, NOW)])
    old = NOW - timedelta(hours=1)
    cursor.lower(0, old)
    assert cursor.positions[0] == (old, 0)
    cursor.lower(0, NOW)
    assert cursor.positions[0] == (old, 0), "a later one does not raise it again"


def test_each_eighth_claim_begins_with_the_least_urgent_priority() -> None:
    cursor = Cursor()
    cursor.know([-10, 0, 10])
    firsts = [cursor.bounds()[0][0] for _ in range(2 * LOW_FIRST_EVERY)]
    assert firsts.count(10) == 2
    assert firsts.count(-10) == 2 * LOW_FIRST_EVERY - 2


def test_a_reset_begins_every_priority_at_the_front() -> None:
    cursor = Cursor()
    cursor.advance([job(1, NOW), job(2, NOW, 5)])
    cursor.reset()
    assert set(cursor.positions.values()) == {(START, 0)}


def test_sweeps_never_take_more_than_a_twentieth_of_the_time() -> None:
    assert sweep_again_in(0.001) == 1.0
    assert sweep_again_in(2.0) == 40.0
