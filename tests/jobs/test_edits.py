"""Jobs changed by hand while others claim, end and change them: all of it or nothing, and nothing that stalls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from ingestd.access.roles import Actor
from ingestd.errors import Conflict, InvalidInput, NotFound
from ingestd.jobs import actions
from ingestd.jobs.filters import JobFilter
from ingestd.jobs.model import NewJob, State
from ingestd.jobs.promoter import promote_once
from ingestd.jobs.store import edits, history, reads
from ingestd.jobs.workflow import Step, Workflow, order_steps, start
from ingestd.postgres.session import connect
from tests.jobs.kit import end, new, put_back, take
from tests.support import eventually

ANN = Actor("ann", "operator", "page", "c-1")
LATER = datetime(2100, 1, 1, tzinfo=UTC)
HISTORY = """
insert into ingestd.history (keep, state, duration_ms, id, kind, queue_id, rank, attempt, max_attempts, crashes, run_at, due_at,
                             created_at, key_strict, unique_until, args, attempts, tags, triggered_by, correlation_id)
select case when n % 50 = 0 then 'bad' else 'ok' end, case when n % 50 = 0 then 'failed' else 'succeeded' end, 1, n, 'k' || n % 7,
       1, 0, 1, 4, 0, now(), now(), now(), false, 'finish', '{}', '[]', case when n % 1000 = 3 then array['odd'] else '{}' end, 'api',
       case when n % 100 = 0 then 'c' || n end
from generate_series(1, 20000) n"""
WAITS = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"


@pytest.fixture
async def other(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Somebody else's connection."""
    opened = await connect(dsn)
    yield opened
    await opened.close()


async def shown(conn: asyncpg.Connection, number: int) -> dict[str, Any]:
    found = await reads.show_whole(conn, number)
    assert found is not None
    return found


async def test_an_edit_changes_what_is_given_and_says_what_was(conn: asyncpg.Connection) -> None:
    number = await new(conn, args={"x": 1}, tags=("a",), notes="before", timeout=timedelta(minutes=5))
    await actions.edit_job(conn, ANN, number, {"args": {"x": 2}, "queue": "imports", "priority": 10, "notes": None, "timeout": 1.5})
    after = await shown(conn, number)
    assert (after["args"], after["queue"], after["priority"], after["notes"], after["tags"], after["timeout"]) == (
        {"x": 2}, "imports", "high", None, ["a"], timedelta(seconds=1.5),
    )  # fmt: skip
    (row,) = await conn.fetch("select action, object_id, detail from ingestd.audit")
    assert (row["action"], row["object_id"]) == ("edit", str(number))
    assert row["detail"]["before"] == {"args": {"x": 1}, "queue": "default", "priority": 0, "notes": "before", "timeout": 300}
    await actions.edit_job(conn, ANN, number, {"timeout": None, "tags": ["b", "c"], "max_attempts": 9, "run_at": LATER.isoformat()})
    after = await shown(conn, number)
    assert (after["timeout"], after["tags"], after["max_attempts"], after["run_at"]) == (None, ["b", "c"], 9, LATER)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queue": "default2"}, 'there is no queue "default2", did you mean "default"'),
        ({"kind": "x"}, '"kind" cannot be changed'),
        ({"priority": 101}, "priority must be"),
        ({"max_attempts": 0}, "max_attempts must be"),
        ({"args": None}, "args cannot be nothing"),
        ({"timeout": -1}, "timeout must be more than 0"),
    ],
)
async def test_an_edit_that_makes_no_sense_changes_nothing(conn: asyncpg.Connection, changes: dict[str, Any], message: str) -> None:
    number = await new(conn)
    before = await shown(conn, number)
    with pytest.raises(InvalidInput, match=message):
        await actions.edit_job(conn, ANN, number, {"notes": "new"} | changes)
    assert await shown(conn, number) == before
    assert await conn.fetchval("select count(*) from ingestd.audit") == 0


async def test_a_running_or_finished_job_is_neither_edited_nor_snoozed_nor_deleted_from_under_its_node(conn: asyncpg.Connection) -> None:
    number = await new(conn)
    (job,) = await take(conn)
    for act, message in (
        (actions.edit_job(conn, ANN, number, {"notes": "x"}), f"job {number} is running: only a job that waits can be edited"),
        (actions.snooze_job(conn, ANN, number, LATER), f"job {number} is running: only a job that waits can be snoozed"),
        (actions.delete_job(conn, ANN, number), f"job {number} is running: cancel it first"),
        (actions.run_again(conn, ANN, number), f"job {number} is running: only a finished job can be run again"),
    ):
        with pytest.raises(Conflict, match=message) as refused:
            await act
        assert refused.value.current_state == "running"
    await put_back(conn, job, delay=timedelta(), spent=False)
    await end(conn, number)
    for act in (actions.edit_job(conn, ANN, number, {"notes": "x"}), actions.snooze_job(conn, ANN, number, LATER)):
        with pytest.raises(Conflict, match="is succeeded"):
            await act
    assert await conn.fetchval("select count(*) from ingestd.audit") == 0


async def test_a_job_that_starts_between_look_and_write_is_asked_to_stop(conn: asyncpg.Connection, other: asyncpg.Connection) -> None:
    """The cancel waits for the claim that is under way, and then sees a running job."""
    number = await new(conn)
    claiming = other.transaction()
    await claiming.start()
    await take(other)
    cancelling = asyncio.create_task(actions.cancel_job(conn, ANN, number))
    looker = await other.fetchval("select current_setting('application_name')")
    assert looker
    await eventually(lambda: other.fetchval(WAITS))
    await claiming.commit()
    assert await cancelling == "cancelling"
    assert await conn.fetchval("select cancel_asked_at is not null from ingestd.job where id = $1", number)


async def test_a_job_that_ends_between_look_and_write_is_a_conflict(conn: asyncpg.Connection, other: asyncpg.Connection) -> None:
    number = await new(conn)
    (job,) = await take(conn)
    acking = other.transaction()
    await acking.start()
    from ingestd.jobs.store.ack import Result, ack

    assert await ack(other, [Result(job.id, job.claim, State.SUCCEEDED)])
    cancelling = asyncio.create_task(actions.cancel_job(conn, ANN, number))
    await eventually(lambda: other.fetchval(WAITS))
    await acking.commit()
    with pytest.raises(Conflict, match=f"job {number} is succeeded: there is nothing to cancel"):
        await cancelling


@pytest.mark.parametrize("verb", ["retry", "delete", "cancel", "again"])
async def test_of_two_operators_at_once_one_does_it_and_the_other_is_told(dsn: str, conn: asyncpg.Connection, verb: str) -> None:
    acts: dict[str, Callable[..., Awaitable[Any]]] = {
        "retry": actions.retry_job, "delete": actions.delete_job, "cancel": actions.cancel_job, "again": actions.run_again,
    }  # fmt: skip
    number = await new(conn)
    if verb in ("retry", "again"):
        await end(conn, number, State.FAILED)
    people = [await connect(dsn) for _ in range(4)]
    done = await asyncio.gather(*(acts[verb](person, ANN, number) for person in people), return_exceptions=True)
    for person in people:
        await person.close()
    happened = [one for one in done if not isinstance(one, BaseException)]
    assert all(isinstance(one, Conflict | NotFound) for one in done if isinstance(one, BaseException)), done
    # Running again is asked for anew each time; the others happen once.
    assert len(happened) == (4 if verb == "again" else 1)
    assert await conn.fetchval("select count(*) from ingestd.audit where action = $1", verb) == len(happened)
    assert await conn.fetchval("select count(*) from ingestd.job") == {"retry": 1, "again": 4}.get(verb, 0)


async def test_cancel_by_force_ends_a_running_job_and_its_node_can_write_nothing_more(conn: asyncpg.Connection) -> None:
    from ingestd.jobs.store.ack import Result, ack, already_acked

    number = await new(conn)
    (job,) = await take(conn)
    assert await actions.cancel_job(conn, ANN, number, force=True) == "cancelled"
    assert await ack(conn, [Result(job.id, job.claim, State.SUCCEEDED)]) == set()
    assert await already_acked(conn, [(job.id, job.claim)]) == set(), "the node must not take this for its own ack"
    after = await shown(conn, number)
    assert (after["state"], after["reason"], after["attempt"]) == ("cancelled", "cancelled by ann", 1)
    assert after["started_at"] is not None
    assert await conn.fetchval("select detail from ingestd.audit") == {"was": "running", "force": True}


async def test_run_again_makes_a_child_with_the_same_options_and_none_of_the_places(conn: asyncpg.Connection) -> None:
    first = await new(conn, args={"x": 1}, priority=7, tags=("a",), key="k", unique_key="u", max_attempts=9, queue="alerts")
    await promote_once(conn)
    await end(conn, first)
    made = await actions.run_again(conn, ANN, first)
    old, again = await shown(conn, first), await shown(conn, made)
    for same in ("args", "tags", "priority", "max_attempts", "queue", "kind", "key"):
        assert again[same] == old[same], same
    assert (again["parent_id"], again["attempt"], again["unique_key"], again["triggered_by"]) == (first, 0, None, "page")
    assert again["correlation_id"] == "c-1"
    assert [child["id"] for child in old["children"]] == [made]
    assert old["state"] == "succeeded"


async def test_what_moves_forward_is_told_with_its_position_and_what_moves_back_is_not(conn: asyncpg.Connection, heard: list[str]) -> None:
    number = await new(conn, run_at=LATER)
    queue_id = await conn.fetchval("select queue_id from ingestd.job")
    await actions.snooze_job(conn, ANN, number, LATER - timedelta(days=1))
    await eventually(lambda: len(heard) == 1)
    assert heard[0].split()[:2] == [str(queue_id), "0"]
    assert float(heard[0].split()[2]) == (LATER - timedelta(days=1)).timestamp()
    await actions.snooze_job(conn, ANN, number, LATER)
    await actions.edit_job(conn, ANN, number, {"notes": "x", "tags": ["y"]})
    await actions.edit_job(conn, ANN, number, {"priority": 10})
    await eventually(lambda: len(heard) == 2)
    assert heard[1].split()[:2] == [str(queue_id), "-10"], "another rank has another cursor"


async def test_what_comes_back_is_told(conn: asyncpg.Connection, heard: list[str]) -> None:
    number = await new(conn, run_at=LATER)
    queue_id = await conn.fetchval("select queue_id from ingestd.job")
    await actions.cancel_job(conn, ANN, number)
    assert heard == []
    await actions.retry_job(conn, ANN, number)
    await eventually(lambda: heard == [str(queue_id)])
    await actions.cancel_job(conn, ANN, number)
    await actions.run_again(conn, ANN, number)
    await eventually(lambda: heard == [str(queue_id)] * 2)


async def test_a_moment_of_the_past_means_now_in_the_queue(conn: asyncpg.Connection) -> None:
    """A row behind every cursor would wait for the sweep; the wish is kept in due_at."""
    number = await new(conn, run_at=LATER)
    past = datetime(2020, 1, 1, tzinfo=UTC)
    await actions.edit_job(conn, ANN, number, {"run_at": past.isoformat()})
    row = await conn.fetchrow("select run_at > now() - interval '1 minute' as near, due_at from ingestd.job")
    assert tuple(row) == (True, past)


async def test_retry_lets_a_job_that_waits_for_its_retry_run_now_or_at_a_time(conn: asyncpg.Connection) -> None:
    number = await new(conn)
    (job,) = await take(conn)
    await put_back(conn, job, delay=timedelta(hours=1), spent=True)
    await actions.retry_job(conn, ANN, number, LATER)
    assert (await shown(conn, number))["run_at"] == LATER
    await actions.retry_job(conn, ANN, number)
    assert [job.id for job in await take(conn)] == [number]


async def test_deleting_a_step_lets_its_run_go_on_without_it(conn: asyncpg.Connection) -> None:
    steps = [Step("a", NewJob("sync")), Step("b", NewJob("sync"), ("a",)), Step("c", NewJob("sync"), ("b",), on_failure="run")]
    run = await start(conn, Workflow("flow", order_steps("flow", steps)), triggered_by="api")
    ids = {row["step"]: row["job_id"] for row in await conn.fetch("select step, job_id from ingestd.workflow_step")}
    assert await actions.delete_job(conn, ANN, ids["b"]) == "waiting"
    await end(conn, ids["a"])
    await promote_once(conn)
    assert [job.id for job in await take(conn)] == [ids["c"]], "it runs whatever became of b"
    found = await reads.workflow_runs(conn, run=run)
    assert [(step["step"], step["state"], step["reason"]) for step in found[0]["steps"]][1] == ("b", "cancelled", "deleted by ann")
    assert {job["id"] for job in await reads.list_jobs(conn, JobFilter(workflow="flow"))} == {ids["a"], ids["c"]}


async def test_deleting_a_failed_job_frees_the_key_that_it_held(conn: asyncpg.Connection) -> None:
    first = await new(conn, key="k", key_strict=True)
    second = await new(conn, key="k", key_strict=True)
    await promote_once(conn)
    await end(conn, first, State.FAILED)
    await promote_once(conn)
    assert await take(conn) == []
    assert await actions.delete_job(conn, ANN, first) == "failed"
    await promote_once(conn)
    assert [job.id for job in await take(conn)] == [second]


async def test_deleting_the_last_child_lets_its_parent_go_on(conn: asyncpg.Connection) -> None:
    from ingestd.jobs.model import PARKED_CHILDREN

    parent = await new(conn, parked=PARKED_CHILDREN)
    child = await new(conn, parent_id=parent)
    await actions.delete_job(conn, ANN, child)
    await promote_once(conn)
    assert [job.id for job in await take(conn)] == [parent]


async def test_promoter_and_delete_never_wait_for_each_other_in_a_circle(conn: asyncpg.Connection, other: asyncpg.Connection) -> None:
    """The promoter holds a step and wants its job: whoever deletes the job must not hold it while it waits for the step."""
    steps = [Step("a", NewJob("sync")), Step("b", NewJob("sync"), ("a",))]
    await start(conn, Workflow("flow", order_steps("flow", steps)), triggered_by="api")
    number = await conn.fetchval("select job_id from ingestd.workflow_step where step = 'b'")
    promoting = other.transaction()
    await promoting.start()
    await other.execute("update ingestd.workflow_step set state = 'open' where step = 'b'")
    deleting = asyncio.create_task(actions.delete_job(conn, ANN, number))
    await eventually(lambda: other.fetchval(WAITS))
    await other.execute("update ingestd.job set parked = 0 where id = $1", number)
    await promoting.commit()
    assert await deleting == "waiting"


@pytest.mark.parametrize("force", [True, False])
async def test_cancel_and_the_ack_of_a_step_never_wait_for_each_other_in_a_circle(
    conn: asyncpg.Connection, other: asyncpg.Connection, force: bool
) -> None:
    run = await start(conn, Workflow("w", order_steps("w", [Step("load", NewJob("load"))])), triggered_by="cli")
    (job,) = await take(conn)
    async with other.transaction():
        # What an ack does: the job first, then its step.
        await other.execute("select from ingestd.job where id = $1 for update", job.id)
        cancelling = asyncio.create_task(actions.cancel_job(conn, ANN, job.id, force=force))
        await eventually(lambda: other.fetchval(WAITS))
        await other.execute("update ingestd.workflow_step set result = '1' where run = $1", run)
    assert await cancelling == ("cancelled" if force else "cancelling")


async def test_a_page_of_jobs_costs_a_page_whatever_history_holds(conn: asyncpg.Connection) -> None:
    await conn.execute(HISTORY)
    await conn.execute("analyze ingestd.history")
    for which in (
        JobFilter(), JobFilter(kind="k3"), JobFilter(states=("failed",)), JobFilter(states=("cancelled",)), JobFilter(tag="odd"),
        JobFilter(correlation_id="c300"), JobFilter(ids=(77,)), JobFilter(before_id=9000), JobFilter(parent_id=5),
        JobFilter(workflow_run=7),
    ):  # fmt: skip
        statement, values = reads.list_statement(which, 51)
        plan = "\n".join(row[0] for row in await conn.fetch(f"explain (analyze, timing off) {statement}", *values))
        lines = plan.splitlines()
        read = [float(line.split("actual rows=")[1].split()[0]) for line in lines if " on history" in line and "actual" in line]
        thrown_away = [float(line.split(":")[1]) for line in lines if "Rows Removed by Filter" in line]
        assert sum(read) + sum(thrown_away) <= 400, f"{which}\n{plan}"


async def test_an_edit_of_a_job_that_is_claimed_meanwhile_does_nothing(conn: asyncpg.Connection, other: asyncpg.Connection) -> None:
    """Without a lock before it, too: a bulk takes the row or leaves it."""
    number = await new(conn)
    claiming = other.transaction()
    await claiming.start()
    await take(other)
    assert await edits.edit(conn, [number], {"notes": "x"}) == {}
    assert await edits.move(conn, [number], LATER) == []
    assert await history.delete_waiting(conn, [number], "x") == []
    await claiming.commit()
    assert await edits.edit(conn, [number], {"notes": "x"}) == {}
    assert (await shown(conn, number))["notes"] is None
