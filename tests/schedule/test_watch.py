"""The watch of slots against a real Postgres: what it writes about jobs, whom it tells, and that nothing stops it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from ingestd.access.roles import Actor
from ingestd.events import Bus, Notice, SlotOverdue, SlotSlow, SlotsStopped
from ingestd.jobs import actions as job_actions
from ingestd.jobs import run_actions
from ingestd.jobs.model import State
from ingestd.postgres.pool import Database
from ingestd.postgres.session import connect
from ingestd.schedule import watch as watch_module
from ingestd.schedule.deadlines import judge
from ingestd.schedule.store import watch as store
from ingestd.schedule.watch import EVERY_S, REST_S, SlotWatch
from tests.schedule.conftest import backdate, declare
from tests.schedule.watching import Watching, begin, end, pulse, slot_of, slot_with_job, wait_for_children
from tests.support import eventually

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
ANNA = Actor("anna", "operator", "cli")


@pytest.fixture
def watching(db: Database) -> Watching:
    return Watching(db)


@pytest.mark.parametrize(
    ("state", "partial", "ended"),
    [
        (State.SUCCEEDED, False, "succeeded"),
        (State.SUCCEEDED, True, "partial"),
        (State.FAILED, False, "failed"),
        (State.CANCELLED, False, "cancelled"),
        (State.SKIPPED, False, "skipped"),
    ],
)
async def test_how_a_job_ended_is_written_into_its_slot(
    conn: asyncpg.Connection, watching: Watching, state: State, partial: bool, ended: str
) -> None:
    job = await slot_with_job(conn, age=HOUR)
    claim = await begin(conn, job)
    await end(conn, job, claim, state, took=10 * MINUTE, ago=20 * MINUTE, partial=partial)
    await watching.look(conn)
    slot = await slot_of(conn, job)
    assert (slot["ended"], slot["state"], slot["check_at"], slot["overdue"]) == (ended, "fired", None, None)
    assert slot["duration_ms"] == 600_000
    assert slot["ended_at"] - slot["started_at"] == 10 * MINUTE
    assert timedelta() <= slot["now"] - slot["ended_at"] - 20 * MINUTE < MINUTE
    assert watching.told == []


async def test_an_open_job_is_looked_at_again_and_its_first_start_is_kept(conn: asyncpg.Connection, watching: Watching) -> None:
    job = await slot_with_job(conn, age=timedelta(seconds=100))
    await begin(conn, job, timedelta(seconds=90))
    await watching.look(conn)
    slot = await slot_of(conn, job)
    assert slot["ended"] is None
    assert timedelta(seconds=5) < slot["check_at"] - slot["now"] < timedelta(seconds=11)
    # The attempt fails, a later one succeeds: the job began with the first.
    await conn.execute("update ingestd.job set claim = null, node = null, claimed_at = null where id = $1", job)
    await end(conn, job, await begin(conn, job), took=timedelta(seconds=1))
    await watching.look(conn)
    again = await slot_of(conn, job)
    assert again["started_at"] == slot["started_at"]
    assert 90_000 <= again["duration_ms"] < 150_000


async def test_a_job_that_waits_for_its_children_has_started(conn: asyncpg.Connection, watching: Watching) -> None:
    job = await slot_with_job(conn, age=HOUR, start_within=2 * HOUR)
    await wait_for_children(conn, job, await begin(conn, job))
    await watching.look(conn)
    slot = await slot_of(conn, job)
    assert slot["started_at"] is not None
    assert slot["ended"] is None


async def test_a_job_that_has_not_started_in_time_is_told_of_once_and_goes_on(conn: asyncpg.Connection, watching: Watching) -> None:
    job = await slot_with_job(conn, age=11 * MINUTE, start_within=10 * MINUTE)
    await watching.look(conn)
    await watching.look(conn)
    slot = await slot_of(conn, job)
    assert (slot["state"], slot["overdue"], slot["reason"]) == ("late", "start", "not started within 10m")
    assert slot["overdue_at"] is not None
    assert slot["check_at"] is not None
    (told,) = watching.heard(SlotOverdue)
    assert told == SlotOverdue("one", slot["due_at"], "start", job, "not started within 10m")
    assert await conn.fetchval("select count(*) from ingestd.job where cancel_asked_at is null") == 1


async def test_a_job_that_has_not_ended_in_time_is_told_of_as_well(conn: asyncpg.Connection, watching: Watching) -> None:
    job = await slot_with_job(conn, age=3 * HOUR, start_within=10 * MINUTE, finish_within=2 * HOUR)
    claim = await begin(conn, job, timedelta(hours=2, minutes=30))
    await watching.look(conn)
    slot = await slot_of(conn, job)
    assert (slot["state"], slot["overdue"]) == ("late", "finish")
    assert slot["reason"] == "not started within 10m; not finished within 2h"
    assert [event.deadline for event in watching.heard(SlotOverdue)] == ["start", "finish"]
    await end(conn, job, claim)
    await watching.look(conn)
    ended = await slot_of(conn, job)
    assert (ended["ended"], ended["overdue"], ended["overdue_at"]) == ("succeeded", "finish", slot["overdue_at"])
    assert len(watching.told) == 2


async def test_a_job_found_late_that_kept_its_times_is_not_overdue(conn: asyncpg.Connection, watching: Watching) -> None:
    job = await slot_with_job(conn, age=24 * HOUR, start_within=10 * MINUTE, finish_within=2 * HOUR, target_runtime=HOUR)
    claim = await begin(conn, job)
    await end(conn, job, claim, took=30 * MINUTE, ago=23 * HOUR + 29 * MINUTE)
    await watching.look(conn)
    slot = await slot_of(conn, job)
    assert (slot["state"], slot["overdue"], slot["slow_at"], slot["ended"]) == ("fired", None, None, "succeeded")


async def test_a_deadline_is_noticed_when_it_passes_though_the_slot_is_seldom_looked_at(
    conn: asyncpg.Connection, watching: Watching
) -> None:
    job = await slot_with_job(conn, age=3 * HOUR, finish_within=3 * HOUR + timedelta(seconds=3), target_runtime=4 * HOUR)
    await begin(conn, job, 3 * HOUR)
    await watching.look(conn)
    slot = await slot_of(conn, job)
    assert slot["check_at"] - slot["finish_by"] == timedelta(microseconds=1)
    assert REST_S <= await watching.watch.poll() <= 3.1


async def test_a_job_that_runs_longer_than_its_target_is_told_of_once(conn: asyncpg.Connection, watching: Watching) -> None:
    job = await slot_with_job(conn, age=HOUR, target_runtime=5 * MINUTE)
    await begin(conn, job, 6 * MINUTE)
    await watching.look(conn)
    await watching.look(conn)
    slot = await slot_of(conn, job)
    assert slot["slow_at"] is not None
    assert (slot["state"], slot["overdue"]) == ("fired", None)
    assert watching.told == [SlotSlow("one", slot["due_at"], job, "5m")]


async def test_a_slot_whose_job_was_deleted_is_settled_with_the_reason(conn: asyncpg.Connection, watching: Watching) -> None:
    job = await slot_with_job(conn)
    await conn.execute("delete from ingestd.job where id = $1", job)
    await watching.look(conn)
    slot = await slot_of(conn, job)
    assert (slot["ended"], slot["reason"], slot["check_at"]) == ("cancelled", "its job was deleted before its end was seen", None)


async def test_a_job_that_ended_long_before_anybody_watched_is_still_found(conn: asyncpg.Connection, watching: Watching) -> None:
    job = await slot_with_job(conn)
    await end(conn, job, await begin(conn, job), State.FAILED, ago=20 * timedelta(days=1))
    await watching.look(conn)
    assert (await slot_of(conn, job))["ended"] == "failed"


async def test_a_workflow_counts_by_its_run(conn: asyncpg.Connection, watching: Watching) -> None:
    job = await slot_with_job(conn, kind="workflow")
    run = await conn.fetchval(
        """insert into ingestd.workflow_run (workflow, definition, job_id, triggered_by) values ('flow', '{}', $1, 'schedule')
           returning id""",
        job,
    )
    claim = await begin(conn, job)
    await watching.look(conn)
    assert (await slot_of(conn, job))["started_at"] is not None
    await end(conn, job, claim, State.FAILED)
    await watching.look(conn)
    assert (await slot_of(conn, job))["ended"] is None, "the run goes on"
    await conn.execute("update ingestd.workflow_run set state = 'partial', finished_at = now() where id = $1", run)
    await watching.look(conn)
    slot = await slot_of(conn, job)
    assert (slot["ended"], slot["check_at"]) == ("partial", None)


async def test_a_retried_job_opens_its_slot_again(conn: asyncpg.Connection, watching: Watching) -> None:
    job = await slot_with_job(conn, age=3 * HOUR, finish_within=HOUR)
    await end(conn, job, await begin(conn, job), State.FAILED, took=MINUTE, ago=150 * MINUTE)
    await watching.look(conn)
    assert (await slot_of(conn, job))["ended"] == "failed"
    await job_actions.retry_job(conn, ANNA, job)
    opened = await slot_of(conn, job)
    assert (opened["ended"], opened["ended_at"], opened["duration_ms"]) == (None, None, None)
    assert opened["check_at"] is not None
    await end(conn, job, await begin(conn, job), took=timedelta(milliseconds=1))
    await watching.look(conn)
    slot = await slot_of(conn, job)
    assert (slot["ended"], slot["state"], slot["overdue"]) == ("succeeded", "fired", None)
    assert slot["started_at"] >= slot["retried_at"]
    assert watching.told == []


async def test_a_retry_while_the_watch_writes_is_not_overwritten(dsn: str, conn: asyncpg.Connection, watching: Watching) -> None:
    """The watch has read that the job failed; the retry waits until that is written, and then opens the slot again."""
    job = await slot_with_job(conn)
    await end(conn, job, await begin(conn, job), State.FAILED)
    other = await connect(dsn)
    try:
        async with other.transaction():
            now, slots = await store.hold(other, 10)
            assert now is not None
            jobs = await store.jobs_of(other, slots, now)
            retry = asyncio.create_task(job_actions.retry_job(conn, ANNA, job))

            async def retry_waits() -> bool:
                return bool(await other.fetchval("select exists (select from pg_locks where not granted and pid <> pg_backend_pid())"))

            await eventually(retry_waits)
            await store.write(other, [judge(slot, jobs[slot.job_id], now) for slot in slots])
        await retry
    finally:
        await other.close()
    opened = await slot_of(conn, job)
    assert (opened["ended"], opened["check_at"]) == (None, opened["retried_at"])


async def test_a_retry_that_has_not_committed_is_passed_by(db: Database, conn: asyncpg.Connection, watching: Watching) -> None:
    job = await slot_with_job(conn)
    await end(conn, job, await begin(conn, job), State.FAILED)
    async with conn.transaction():
        await job_actions.retry_job(conn, ANNA, job)
        await watching.watch.poll()
    assert (await slot_of(conn, job))["ended"] is None


async def test_other_jobs_leave_history_without_touching_slots(conn: asyncpg.Connection, watching: Watching) -> None:
    job = await slot_with_job(conn)
    await end(conn, job, await begin(conn, job), State.FAILED)
    await watching.look(conn)
    await job_actions.delete_job(conn, ANNA, job)
    slot = await slot_of(conn, job)
    assert (slot["ended"], slot["check_at"]) == ("failed", None)


async def test_a_retried_run_opens_its_slot_again(conn: asyncpg.Connection, watching: Watching) -> None:
    job = await slot_with_job(conn, kind="workflow")
    run, step = await conn.fetchrow(
        """with run as (insert into ingestd.workflow_run (workflow, definition, job_id, triggered_by, state, finished_at)
                        values ('flow', '{}', $1, 'schedule', 'failed', now()) returning id),
           job as (insert into ingestd.job (kind, queue_id, workflow_run, step) select 'tick', 1, id, 'a' from run returning id),
           step as (insert into ingestd.workflow_step (run, step, position, job_id, state) select run.id, 'a', 1, job.id, 'failed'
                    from run, job)
           select run.id, job.id from run, job""",
        job,
    )
    await end(conn, step, await begin(conn, step), State.FAILED)
    await end(conn, job, await begin(conn, job), State.FAILED)
    await watching.look(conn)
    assert (await slot_of(conn, job))["ended"] == "failed"
    await run_actions.retry_run(conn, ANNA, run)
    await watching.look(conn)
    slot = await slot_of(conn, job)
    assert (slot["ended"], slot["started_at"]) == (None, slot["retried_at"])


async def test_two_watches_tell_of_each_deadline_once(db: Database, conn: asyncpg.Connection) -> None:
    for number in range(40):
        await slot_with_job(conn, f"s{number}", age=HOUR, start_within=MINUTE)
    several = [Watching(db) for _ in range(3)]
    await conn.execute("update ingestd.slot set check_at = now()")
    await asyncio.gather(*(one.watch.poll() for one in several for _ in range(2)))
    told = [event.schedule for one in several for event in one.heard(SlotOverdue)]
    assert sorted(told) == sorted(f"s{number}" for number in range(40))


async def test_a_slot_that_cannot_be_judged_keeps_no_other_from_it(conn: asyncpg.Connection, watching: Watching) -> None:
    broken = await slot_with_job(conn, "broken", age=HOUR)
    sound = await slot_with_job(conn, "sound", age=HOUR, start_within=MINUTE)
    await conn.execute("update ingestd.slot set finish_by = '20000-01-01' where job_id = $1", broken)
    await watching.look(conn)
    assert (await slot_of(conn, sound))["overdue"] == "start"
    assert await conn.fetchval("select check_at > now() + interval '4 minutes' from ingestd.slot where job_id = $1", broken)
    (notice,) = watching.heard(Notice)
    assert "broken" in notice.message
    assert watching.watch.troubles[0].startswith("broken: ")


async def test_an_idle_watch_asks_one_statement_and_rests(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1h"}})
    await pulse(conn, timedelta())
    statements: list[str] = []
    with conn.query_logger(lambda record: statements.append(record.query)):
        assert await _poll_with(conn) == EVERY_S
        await eventually(lambda: statements)
    assert len(statements) == 1


async def _poll_with(conn: asyncpg.Connection) -> float:
    """One pass over this very connection."""

    class Lent:
        def services(self) -> Lent:
            return self

        async def __aenter__(self) -> asyncpg.Connection:
            return conn

        async def __aexit__(self, *_: object) -> None:
            return None

    return await SlotWatch(Lent(), Bus()).poll()  # type: ignore[arg-type]


async def test_more_slots_than_one_look_takes_are_looked_at_at_once(
    conn: asyncpg.Connection, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "SLOTS_A_LOOK", 2)
    for number in range(3):
        await slot_with_job(conn, f"s{number}")
    assert await watching.watch.poll() == 0.0
    assert await watching.watch.poll() == REST_S
    assert await conn.fetchval("select count(*) from ingestd.slot where check_at > now()") == 3


async def test_what_comes_late_below_the_floor_is_found_by_a_sweep(conn: asyncpg.Connection, watching: Watching) -> None:
    await watching.watch.poll()
    assert watching.watch._floor is not None
    job = await slot_with_job(conn, age=HOUR)
    await watching.watch.poll()
    assert (await slot_of(conn, job))["check_at"] < watching.watch._floor
    watching.watch._sweep_at = 0.0
    await watching.watch.poll()
    assert (await slot_of(conn, job))["check_at"] > watching.watch._floor


async def test_a_clock_set_back_leaves_no_slot_unwatched(conn: asyncpg.Connection, watching: Watching) -> None:
    job = await slot_with_job(conn)
    await end(conn, job, await begin(conn, job))
    await conn.execute("update ingestd.slot set check_at = now() + interval '1 day'")
    assert await watching.watch.poll() == 0.0
    await watching.watch.poll()
    assert (await slot_of(conn, job))["ended"] == "succeeded"


async def test_a_dead_scheduler_is_noticed_and_told_once(
    conn: asyncpg.Connection, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "SURE_AFTER_S", 0.0)
    await declare(conn, {"one": {"every": "1m"}})
    await backdate(conn, 3 * MINUTE)
    await pulse(conn, timedelta(seconds=30))
    await watching.watch.poll()
    assert watching.told == [], "a scheduler may rest"
    await pulse(conn, 2 * MINUTE)
    await watching.watch.poll()
    await watching.watch.poll()
    (told,) = watching.heard(SlotsStopped)
    assert told.overdue == 1
    assert watching.watch.stopped_since == told.since
    await pulse(conn, timedelta())
    await watching.watch.poll()
    assert watching.watch.stopped_since is None
    await pulse(conn, 2 * MINUTE)
    await watching.watch.poll()
    assert len(watching.heard(SlotsStopped)) == 2, "it stopped again"


async def test_a_scheduler_gets_time_for_its_first_pass_before_anybody_cries(conn: asyncpg.Connection, watching: Watching) -> None:
    await declare(conn, {"one": {"every": "1m"}})
    await backdate(conn, 24 * HOUR)
    await pulse(conn, 24 * HOUR)
    await watching.watch.poll()
    assert watching.told == []


async def test_slots_that_never_had_a_scheduler_are_noticed_too(
    conn: asyncpg.Connection, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "SURE_AFTER_S", 0.0)
    await declare(conn, {"one": {"every": "1m"}, "off": {"every": "1m", "enabled": False}})
    await watching.watch.poll()
    assert watching.told == []
    await backdate(conn, 5 * MINUTE, "one")
    await watching.watch.poll()
    assert [event.overdue for event in watching.heard(SlotsStopped)] == [1]
