"""Whoever judges a node's death trusts only what was seen without a break."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from ingestd.work.death import LONGEST_GAP_S, LOOKS, SETTLES_S, SILENT_S, DeathWatch

NODE = uuid4()
T0 = datetime(2026, 1, 1, tzinfo=UTC)


def look_on(watch: DeathWatch, seconds: int, *, start: float = 0.0, session: int = 1, beat: datetime = T0) -> None:
    for second in range(seconds + 1):
        watch.look(start + second, session, {NODE: beat})


def silent(watch: DeathWatch, silent_s: float, *, elsewhere: bool = False, node: UUID = NODE) -> bool:
    return watch.is_silent(node, silent_s, lives_elsewhere_by_heartbeat=elsewhere)


def test_a_lock_must_be_free_on_three_looks_in_a_row() -> None:
    watch = DeathWatch(600)
    verdicts = []
    for second, free in enumerate([True, True, False, True, True, True]):
        watch.look(second, 1, {NODE: T0})
        verdicts.append(watch.lock_seen(NODE, free=free))
    assert LOOKS == 3
    assert verdicts == [False, False, False, False, False, True]


def test_a_broken_session_of_our_own_makes_earlier_looks_worthless() -> None:
    watch = DeathWatch(600)
    for second in range(2):
        watch.look(second, 1, {NODE: T0})
        watch.lock_seen(NODE, free=True)
    for second in range(2, 2 + int(SETTLES_S)):
        watch.look(second, 2, {NODE: T0})
        assert not watch.lock_seen(NODE, free=True)
    watch.look(2 + SETTLES_S, 2, {NODE: T0})
    assert watch.lock_seen(NODE, free=True)


def test_a_heartbeat_must_stand_still_before_our_own_eyes() -> None:
    watch = DeathWatch(600)
    look_on(watch, 1)
    # It looks old because everybody was away: the row alone proves nothing.
    assert not silent(watch, 9999)
    look_on(watch, 31)
    assert silent(watch, 9999)


def test_a_rescuer_that_was_stopped_itself_begins_anew() -> None:
    watch = DeathWatch(600)
    look_on(watch, 29)
    watch.look(29 + LONGEST_GAP_S + 60, 1, {NODE: T0})
    assert not silent(watch, 9999)


def test_a_beat_proves_life() -> None:
    watch = DeathWatch(600)
    look_on(watch, 40)
    watch.look(41, 1, {NODE: T0 + timedelta(seconds=2)})
    assert not silent(watch, 9999)


def test_behind_a_pooler_thirty_seconds_are_death_and_elsewhere_the_stall_limit_is() -> None:
    watch = DeathWatch(600)
    look_on(watch, 40)
    assert SILENT_S == 30
    assert silent(watch, 31, elsewhere=True)
    assert not silent(watch, 29, elsewhere=True)
    assert not silent(watch, 599)
    assert silent(watch, 601)


def test_a_short_stall_limit_needs_no_longer_watch_than_itself() -> None:
    watch = DeathWatch(5)
    look_on(watch, 5)
    assert silent(watch, 6)
