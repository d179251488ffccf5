"""One loop owns sleep, wake, stop and error backoff."""

from __future__ import annotations

import asyncio
import time

import pytest

from ingestd import service
from ingestd.events import Bus, Event, LoopFailed
from ingestd.logging import word
from ingestd.service import BACKOFF_CAP_S, BACKOFF_FIRST_S, Poller, backoff_s
from tests.support import eventually

FOREVER = 3600.0


class Turns:
    """A poll that counts, fails when told to, and asks to be left alone for an hour."""

    def __init__(self, failing: int = 0) -> None:
        self.count = 0
        self.failing = failing

    async def poll(self) -> float:
        self.count += 1
        if self.count <= self.failing:
            raise RuntimeError(f"turn {self.count}")
        return FOREVER


class Running:
    """A poller in its task, and what it told."""

    def __init__(self, turns: Turns) -> None:
        self.turns, self.told = turns, list[Event]()
        self.bus = Bus()
        self.bus.subscribe(self.told.append)
        self.poller = Poller("loop", turns.poll, self.bus)

    async def __aenter__(self) -> Running:
        self.task = asyncio.create_task(self.poller.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.poller.stop()
        await asyncio.wait_for(self.task, 5)


@pytest.fixture
def long_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failure, whatever comes comes not because its time has come."""
    monkeypatch.setattr(service, "BACKOFF_FIRST_S", FOREVER)
    monkeypatch.setattr(service, "BACKOFF_CAP_S", FOREVER)


async def turns_of_the_event_loop() -> None:
    """Let the loop do what it would do now; it needs two or three turns."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_a_pass_is_made_at_once_and_the_next_when_it_is_due() -> None:
    async with Running(Turns()) as running:
        await eventually(lambda: running.turns.count == 1)
        assert running.poller.state.expected_s == FOREVER
        assert running.poller.state.last_tick == pytest.approx(time.monotonic(), abs=5)


async def test_waking_cuts_the_wait_short() -> None:
    async with Running(Turns()) as running:
        await eventually(lambda: running.turns.count == 1)
        running.poller.wake()
        await eventually(lambda: running.turns.count == 2)


async def test_a_wake_up_during_a_pass_starts_another_one() -> None:
    running: Running

    class WakesItself(Turns):
        async def poll(self) -> float:
            delay = await super().poll()
            if self.count == 1:
                running.poller.wake()
            return delay

    async with Running(WakesItself()) as running:
        await eventually(lambda: running.turns.count == 2)


async def test_a_loop_that_wakes_itself_and_fails_waits_until_it_is_told_that_things_are_mended(long_backoff: None) -> None:
    running: Running

    class WakesItself(Turns):
        async def poll(self) -> float:
            running.poller.wake()
            return await super().poll()

    async with Running(WakesItself(failing=1)) as running:
        await eventually(lambda: running.turns.count == 1)
        await turns_of_the_event_loop()
        assert running.turns.count == 1
        running.poller.try_again()
        await eventually(lambda: running.turns.count > 1)


async def test_waking_from_outside_cuts_no_backoff_short(long_backoff: None) -> None:
    async with Running(Turns(failing=1)) as running:
        await eventually(lambda: running.turns.count == 1)
        running.poller.wake()
        await turns_of_the_event_loop()
        assert running.turns.count == 1


async def test_what_is_mended_during_a_failing_pass_is_tried_at_once(long_backoff: None) -> None:
    running: Running

    class MendedMeanwhile(Turns):
        async def poll(self) -> float:
            if self.count == 0:
                running.poller.try_again()
            return await super().poll()

    async with Running(MendedMeanwhile(failing=1)) as running:
        await eventually(lambda: running.turns.count == 2)


async def test_a_loop_that_fails_once_more_after_a_long_outage_tries_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "backoff_s", lambda failures: 0.0 if failures < 10 else FOREVER)
    async with Running(Turns(failing=11)) as running:
        await eventually(lambda: running.turns.count == 10)
        running.poller.try_again()
        await eventually(lambda: running.poller.state.failures == 0)


async def test_stopping_ends_a_backoff_at_once(long_backoff: None) -> None:
    async with Running(Turns(failing=1)) as running:
        await eventually(lambda: running.poller.state.failures == 1)
    assert running.turns.count == 1


async def test_stopping_ends_the_wait_and_lets_the_pass_under_way_finish() -> None:
    entered, go, left = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Slow(Turns):
        async def poll(self) -> float:
            entered.set()
            await go.wait()
            left.set()
            return 0

    async with Running(Slow()) as running:
        await entered.wait()
        running.poller.stop()
        running.poller.stop()
        go.set()
    assert left.is_set()
    assert running.turns.count == 0


async def test_an_error_is_told_counted_and_tried_again() -> None:
    async with Running(Turns(failing=2)) as running:
        await eventually(lambda: running.turns.count == 3)
        assert [type(event) for event in running.told] == [LoopFailed, LoopFailed]
        assert running.told[0] == LoopFailed("loop", "RuntimeError: turn 1", running.told[0].retry_in_s)  # type: ignore[attr-defined]
        state = running.poller.state
        assert (state.failures, state.restarts, state.error) == (0, 2, None)


async def test_a_loop_that_goes_on_failing_for_one_reason_is_written_about_once_and_then_more_and_more_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "backoff_s", lambda _: 0.0)

    class Outage(Turns):
        async def poll(self) -> float:
            self.count += 1
            raise ConnectionError("refused" if self.count <= 40 else "no such password")

    async with Running(Outage()) as running:
        await eventually(lambda: running.turns.count >= 50)
    written = [turn for turn, event in enumerate(running.told, start=1) if word(event)[0] == "error"]  # type: ignore[index]
    # Another reason is told at once.
    assert [turn for turn in written if turn <= 50] == [1, 8, 16, 32, 41]


async def test_an_error_stays_on_record_until_a_pass_goes_well() -> None:
    async with Running(Turns(failing=10**6)) as running:
        await eventually(lambda: running.poller.state.failures >= 2)
        assert str(running.poller.state.error).startswith("RuntimeError: turn")
        assert running.poller.state.last_tick == 0


async def test_a_cancelled_loop_ends() -> None:
    running = Running(Turns())
    task = asyncio.create_task(running.poller.run())
    await eventually(lambda: running.turns.count == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert running.told == []


@pytest.mark.parametrize("failures", [1, 2, 5, 20, 10**6])
def test_the_wait_after_errors_doubles_up_to_a_cap(failures: int) -> None:
    ceiling = min(BACKOFF_CAP_S, BACKOFF_FIRST_S * 2 ** min(failures - 1, 16))
    for _ in range(20):
        assert ceiling / 2 <= backoff_s(failures) <= ceiling
