"""Workflows at size and under real concurrency: nothing is released twice, and nothing waits for ever."""

from __future__ import annotations

import asyncio
import time
import uuid

import asyncpg
import pytest

from ingestd.errors import Conflict
from ingestd.jobs import actions, run_actions
from ingestd.jobs.model import Job, NewJob, State
from ingestd.jobs.promoter import promote_once
from ingestd.jobs.store import ack, claim, history
from ingestd.jobs.store.ack import Result
from ingestd.jobs.store.claim import Claimant
from ingestd.jobs.store.waiting import waiting_reason
from ingestd.jobs.workflow import Step, Workflow, order_steps, start
from ingestd.postgres.session import connect
from tests.jobs.test_actions import ANN
from tests.jobs.test_workflow_runs import begin, states, step
from tests.support import CROWDED, LONG, eventually

KINDS = ["a", "b", "child", "top", "fan", "last"]


async def take_all(conn: asyncpg.Connection, limit: int = 1000) -> list[Job]:
    queues = {row["id"]: row["name"] for row in await conn.fetch("select id, name from ingestd.queue")}
    who = Claimant(uuid.uuid4(), uuid.uuid4(), KINDS, uuid.uuid4())
    return await claim.sweep(conn, who, dict.fromkeys(queues, limit), queues)


async def ack_all(conn: asyncpg.Connection, jobs: list[Job], state: State = State.SUCCEEDED) -> None:
    assert len(await ack.ack(conn, [Result(job.id, job.claim, state) for job in jobs])) == len(jobs)


async def test_two_parents_acked_at_the_same_moment_always_release_their_child(conn: asyncpg.Connection, dsn: str) -> None:
    """Each from a connection of its own, each followed at once by its own promoter, and nobody looks again afterwards."""
    ackers = [await connect(dsn) for _ in range(2)]
    try:
        for turn in range(150):
            run = await begin(conn, step("a"), step("b"), step("child", "a", "b"))
            jobs = {job.kind: job for job in await take_all(conn) if job.workflow_run == run}

            async def parent(one: asyncpg.Connection, name: str, parents: dict[str, Job] = jobs) -> None:
                await ack_all(one, [parents[name]])
                await promote_once(one)

            await asyncio.gather(parent(ackers[0], "a"), parent(ackers[1], "b"))
            assert (await states(conn, run))["child"] == "open", f"turn {turn}"
            await ack_all(conn, await take_all(conn))
    finally:
        for one in ackers:
            await one.close()


async def test_one_to_five_hundred_to_one(conn: asyncpg.Connection, dsn: str) -> None:
    names = [f"fan{number}" for number in range(500)]
    fan = [Step(name, NewJob("fan"), ("top",)) for name in names]
    run = await begin(conn, step("top"), *fan, Step("last", NewJob("last"), tuple(names), require="complete"))
    nodes = [await connect(dsn) for _ in range(4)]
    began = time.monotonic()

    async def node(one: asyncpg.Connection) -> None:
        while (await states(one, run))["run"] == "running":
            await ack_all(one, await take_all(one, 25))
            await promote_once(one)

    try:
        await asyncio.wait_for(asyncio.gather(*(node(one) for one in nodes)), 60 * CROWDED)
    finally:
        for one in nodes:
            await one.close()
    assert set((await states(conn, run)).values()) == {"succeeded"}
    assert await conn.fetchval("select count(*) from ingestd.history where workflow_run = $1", run) == 502
    assert time.monotonic() - began < 60 * CROWDED


async def test_five_hundred_are_taken_back_in_one_go(conn: asyncpg.Connection) -> None:
    fan = [Step(f"fan{number}", NewJob("fan"), ("top",), "compensate", undo=NewJob("a")) for number in range(500)]
    last = Step("last", NewJob("last"), tuple(one.name for one in fan), "compensate")
    run = await begin(conn, Step("top", NewJob("top"), undo=NewJob("b")), *fan, last)
    for state in (State.SUCCEEDED, State.SUCCEEDED, State.FAILED):
        await ack_all(conn, await take_all(conn), state)
        await promote_once(conn)
    undos = await take_all(conn)
    assert (len(undos), {job.kind for job in undos}) == (500, {"a"})
    await ack_all(conn, undos)
    await promote_once(conn)
    (top,) = await take_all(conn)
    assert (top.kind, top.step) == ("b", "top.undo")
    await ack_all(conn, [top])
    await promote_once(conn)
    assert (await states(conn, run))["run"] == "failed"


def only_one(overlap: str) -> Workflow:
    return Workflow("only", order_steps("only", (step("a"),)), overlap=overlap)  # type: ignore[arg-type]


async def test_of_many_starts_at_once_one_begins_and_the_others_are_told_which(conn: asyncpg.Connection, dsn: str) -> None:
    starters = [await connect(dsn) for _ in range(8)]
    try:
        for _ in range(10):
            found = await asyncio.gather(*(start(one, only_one("skip"), triggered_by="api") for one in starters), return_exceptions=True)
            runs = [one for one in found if isinstance(one, int)]
            refused = [one for one in found if isinstance(one, Conflict)]
            assert (len(runs), len(refused)) == (1, 7), found
            assert {one.message for one in refused} == {f'workflow "only" is still busy with run {runs[0]}'}
            await ack_all(conn, await take_all(conn))
            await promote_once(conn)
    finally:
        for one in starters:
            await one.close()


async def test_runs_that_wait_for_their_turn_go_one_by_one_in_order(conn: asyncpg.Connection, dsn: str) -> None:
    starters = [await connect(dsn) for _ in range(6)]
    try:
        runs = sorted(await asyncio.gather(*(start(one, only_one("queue"), triggered_by="api") for one in starters)))
        ended = []
        for _ in runs:
            await asyncio.gather(*(promote_once(one) for one in starters))
            open_runs = await conn.fetch("select id from ingestd.workflow_run where state = 'running'")
            assert len(open_runs) == 1
            (job,) = await take_all(conn)
            assert job.workflow_run == open_runs[0]["id"]
            ended.append(job.workflow_run)
            await ack_all(conn, [job], State.FAILED if len(ended) == 3 else State.SUCCEEDED)
            await asyncio.gather(*(promote_once(one) for one in starters))
        assert ended == runs
    finally:
        for one in starters:
            await one.close()


async def test_a_waiting_run_can_be_cancelled_and_the_next_one_goes_on(conn: asyncpg.Connection) -> None:
    first, second, third = [await start(conn, only_one("queue"), triggered_by="cli") for _ in range(3)]
    await run_actions.cancel_run(conn, ANN, second)
    await promote_once(conn)
    assert (await states(conn, second))["run"] == "cancelled"
    await ack_all(conn, await take_all(conn))
    await promote_once(conn)
    assert (await states(conn, first))["run"] == "succeeded"
    assert (await states(conn, third))["run"] == "running"


async def test_a_retry_keeps_to_the_rule_about_overlap(conn: asyncpg.Connection) -> None:
    for overlap in ("skip", "queue"):
        first = await start(conn, only_one(overlap), triggered_by="cli")
        await ack_all(conn, await take_all(conn), State.FAILED)
        await promote_once(conn)
        second = await start(conn, only_one(overlap), triggered_by="cli")
        if overlap == "skip":
            with pytest.raises(Conflict, match=f"busy with run {second}"):
                await run_actions.retry_run(conn, ANN, first)
        else:
            assert (await run_actions.retry_run(conn, ANN, first)).state == "waiting"
        await ack_all(conn, await take_all(conn))
        for _ in range(2):  # the one that waits is older than the one it waited for
            await promote_once(conn)
        assert (await states(conn, first))["run"] == ("failed" if overlap == "skip" else "running")
        await ack_all(conn, await take_all(conn))
        await promote_once(conn)


@pytest.mark.parametrize("overlap", ["skip", "queue"])
async def test_a_job_that_is_retried_opens_its_run_only_by_the_rule_about_overlap(conn: asyncpg.Connection, overlap: str) -> None:
    first = await start(conn, only_one(overlap), triggered_by="cli")
    (job,) = await take_all(conn)
    await ack_all(conn, [job], State.FAILED)
    await promote_once(conn)
    second = await start(conn, only_one(overlap), triggered_by="cli")
    if overlap == "skip":
        with pytest.raises(Conflict, match=f"busy with run {second}: run {first} cannot go on beside it"):
            await actions.retry_job(conn, ANN, job.id)
        assert (await states(conn, first))["run"] == "failed"
    else:
        await actions.retry_job(conn, ANN, job.id)
        assert await states(conn, first) == {"run": "waiting", "a": "blocked"}
        assert await waiting_reason(conn, [job.id]) == {job.id: f"waits for run {second} of its workflow to end"}
    await ack_all(conn, await take_all(conn))
    for _ in range(2):  # the one that waits is older than the one it waited for
        await promote_once(conn)
    if overlap == "skip":
        await actions.retry_job(conn, ANN, job.id)
    assert await states(conn, first) == {"run": "running", "a": "open"}


@pytest.mark.parametrize(
    ("overlap", "found"), [("skip", ["failed", "running"]), ("queue", ["running", "waiting"]), ("allow", ["running"] * 2)]
)
async def test_failed_jobs_that_are_retried_together_open_their_runs_by_the_rule_about_overlap(
    conn: asyncpg.Connection, overlap: str, found: list[str]
) -> None:
    for _ in range(2):
        await start(conn, only_one(overlap), triggered_by="cli")
        await ack_all(conn, await take_all(conn), State.FAILED)
        await promote_once(conn)
    ids = [row["id"] for row in await conn.fetch("select id from ingestd.history")]
    async with conn.transaction():
        back = await history.revive_all(conn, ids)
    assert sorted(row["state"] for row in await conn.fetch("select state from ingestd.workflow_run")) == found
    assert len(back) == (1 if overlap == "skip" else 2)


async def test_a_run_that_starts_while_a_job_of_another_is_retried_is_seen(conn: asyncpg.Connection, dsn: str) -> None:
    one, other = await connect(dsn), await connect(dsn)
    try:
        for _ in range(20):
            run = await start(conn, only_one("skip"), triggered_by="cli")
            (job,) = await take_all(conn)
            await ack_all(conn, [job], State.FAILED)
            await promote_once(conn)
            both = (start(one, only_one("skip"), triggered_by="cli"), actions.retry_job(other, ANN, job.id))
            answers = await asyncio.gather(*both, return_exceptions=True)
            assert sum(isinstance(answer, Conflict) for answer in answers) == 1, (run, answers)
            await ack_all(conn, await take_all(conn))
            await promote_once(conn)
    finally:
        await one.close()
        await other.close()


async def test_cancel_retry_and_promoters_never_wait_for_each_other_in_a_circle(conn: asyncpg.Connection, dsn: str) -> None:
    others = [await connect(dsn) for _ in range(4)]
    names = [f"fan{number}" for number in range(20)]
    fan = [Step(name, NewJob("fan"), ("top",)) for name in names]
    run = await begin(conn, step("top"), *fan, Step("last", NewJob("last"), tuple(names)))
    until = time.monotonic() + (10 if LONG else 2.5)

    async def promoter(one: asyncpg.Connection) -> None:
        while time.monotonic() < until:
            await promote_once(one)

    async def node(one: asyncpg.Connection) -> None:
        while time.monotonic() < until:
            await ack.ack(one, [Result(job.id, job.claim, State.SUCCEEDED) for job in await take_all(one, 5)])

    async def person(one: asyncpg.Connection) -> None:
        while time.monotonic() < until:
            for act in (run_actions.cancel_run, run_actions.retry_run):
                try:
                    await act(one, ANN, run)
                except Conflict:
                    await promote_once(one)

    try:
        await asyncio.wait_for(asyncio.gather(promoter(others[0]), promoter(others[1]), node(others[2]), person(others[3])), 60)
        for _ in range(5):
            await ack_all(conn, await take_all(conn))
            await promote_once(conn)
        found = await states(conn, run)
        assert found["run"] in ("succeeded", "cancelled")
        assert not {"open", "blocked"} & set(found.values())
    finally:
        for one in others:
            await one.close()


WAITING = "select count(*) = $1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"


@pytest.mark.parametrize("how", ["end", "end by force", "delete"])
@pytest.mark.parametrize("order", [1, -1])
async def test_steps_that_end_in_any_order_while_somebody_ends_what_waits_never_wait_for_each_other_in_a_circle(
    conn: asyncpg.Connection, dsn: str, how: str, order: int
) -> None:
    """What runs is not theirs to end, and where they end it by force they take the job before its step, as its node does."""
    person, node = await connect(dsn), await connect(dsn)
    try:
        # As it is planned where there are many steps: one after the other, as the jobs come.
        await node.execute("set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off")
        run = await begin(conn, step("a"), step("b"))
        jobs = (await take_all(conn))[::order]
        ids = [job.id for job in jobs]
        async with conn.transaction():
            await conn.execute("select from ingestd.workflow_step where run = $1 and step = 'a' for update", run)
            told = "cancelled by ann"
            ending = (
                history.delete_waiting(person, ids, told)
                if how == "delete"
                else history.end_all(person, ids, State.CANCELLED, told, force="force" in how)
            )
            by_person = asyncio.create_task(ending)
            await eventually(lambda: by_person.done() or conn.fetchval(WAITING, 1))
            by_node = asyncio.create_task(ack.ack(node, [Result(job.id, job.claim, State.SUCCEEDED) for job in jobs]))
            await eventually(lambda: conn.fetchval(WAITING, 1 if by_person.done() else 2))
        ended, acked = await asyncio.wait_for(asyncio.gather(by_person, by_node), 10)
        assert (sorted(ended), sorted(acked)) == ((sorted(ids), []) if "force" in how else ([], sorted(ids)))
    finally:
        await person.close()
        await node.close()


@pytest.mark.parametrize("by_hand", [True, False])
async def test_a_run_and_a_job_of_it_retried_at_the_same_moment_never_wait_for_each_other_in_a_circle(
    conn: asyncpg.Connection, dsn: str, by_hand: bool
) -> None:
    one, other = await connect(dsn), await connect(dsn)
    run = await begin(conn, step("a"), step("b"))
    ids = [row["job_id"] for row in await conn.fetch("select job_id from ingestd.workflow_step where run = $1", run)]
    try:
        for _ in range(60):
            await ack_all(conn, await take_all(conn), State.FAILED)
            await promote_once(conn)
            job = actions.retry_job(other, ANN, ids[0]) if by_hand else history.revive_all(other, ids)
            both = (run_actions.retry_run(one, ANN, run), job)
            for answer in await asyncio.gather(*both, return_exceptions=True):
                assert not isinstance(answer, Exception) or isinstance(answer, Conflict), answer
            await promote_once(conn)
            assert await conn.fetchval("select count(*) from ingestd.job") in ((1, 2) if by_hand else (2,))
    finally:
        await one.close()
        await other.close()
