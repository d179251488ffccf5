"""What people do to jobs and queues: the effect and its audit row, together."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from ingestd.access.roles import Actor
from ingestd.errors import Conflict, InvalidInput, NotFound
from ingestd.jobs import actions
from ingestd.jobs.model import NewJob, State
from ingestd.jobs.store import ack, claim, history, reads, rescue
from tests.jobs.kit import NODE, end, new, take

ANN = Actor("ann", "operator", "page", "c-1")


async def audited(conn: asyncpg.Connection) -> list[tuple[str, ...]]:
    return [
        tuple(row)
        for row in await conn.fetch("select actor, via, action, object_type, object_id, correlation_id from ingestd.audit order by id")
    ]


async def shown(conn: asyncpg.Connection, number: int) -> dict[str, object]:
    found = await reads.show_job(conn, number)
    assert found is not None
    return found


async def test_enqueueing_by_hand_needs_a_known_kind_and_is_audited(conn: asyncpg.Connection) -> None:
    with pytest.raises(InvalidInput, match='no node knows the kind "sync"; no node has run here yet: start one with `ingestd run`'):
        await actions.enqueue_job(conn, ANN, NewJob("sync"))
    await conn.execute("insert into ingestd.kind (name) values ('sync')")
    with pytest.raises(InvalidInput, match='no node knows the kind "zzz"; known kinds: sync'):
        await actions.enqueue_job(conn, ANN, NewJob("zzz"))
    assert await audited(conn) == []
    number = (await actions.enqueue_job(conn, ANN, NewJob("sync"))).id
    assert await audited(conn) == [("ann", "page", "enqueue", "job", str(number), "c-1")]
    assert (await actions.enqueue_job(conn, ANN, NewJob("zzz"), allow_unknown=True)).id > number


async def test_a_failed_job_comes_back_under_its_id_with_one_more_attempt(conn: asyncpg.Connection) -> None:
    number = await new(conn, args={"x": 1}, max_attempts=1, tags=("a",), priority=7, unique_key="k")
    await end(conn, number, State.FAILED, reason="no", error={"class": "E", "message": "no"}, attempt={"n": 1, "outcome": "failed"})
    before = await shown(conn, number)
    await actions.retry_job(conn, ANN, number)
    after = await shown(conn, number)
    assert (after["state"], after["attempt"], after["max_attempts"], after["triggered_by"]) == ("available", 1, 2, "retry")
    for kept in ("args", "tags", "priority", "created_at", "attempts", "kind", "queue"):
        assert after[kept] == before[kept]
    assert await conn.fetchval("select count(*) from ingestd.history") == 0
    assert await audited(conn) == [("ann", "page", "retry", "job", str(number), "c-1")]
    await end(conn, number)
    assert (await shown(conn, number))["state"] == "succeeded"


async def test_a_retry_may_wait(conn: asyncpg.Connection) -> None:
    number = await new(conn)
    await end(conn, number, State.CANCELLED)
    at = datetime.now(UTC) + timedelta(hours=1)
    await actions.retry_job(conn, ANN, number, at)
    after = await shown(conn, number)
    assert (after["run_at"], after["state"]) == (at, "retrying")


@pytest.mark.parametrize("state", ["available", "running", "succeeded", "skipped"])
async def test_only_failed_and_cancelled_jobs_can_be_retried(conn: asyncpg.Connection, state: str) -> None:
    number = await new(conn)
    if state == "running":
        await take(conn)
    elif state != "available":
        await end(conn, number, State(state))
    with pytest.raises(Conflict, match="only failed and cancelled jobs can be retried"):
        await actions.retry_job(conn, ANN, number)
    assert await audited(conn) == []


async def test_a_waiting_job_is_cancelled_at_once(conn: asyncpg.Connection) -> None:
    number = await new(conn)
    assert await actions.cancel_job(conn, ANN, number) == "cancelled"
    after = await shown(conn, number)
    assert (after["state"], after["reason"]) == ("cancelled", "cancelled by ann")
    with pytest.raises(Conflict, match="there is nothing to cancel"):
        await actions.cancel_job(conn, ANN, number)
    assert await audited(conn) == [("ann", "page", "cancel", "job", str(number), "c-1")]


async def test_a_running_job_is_asked_to_stop(conn: asyncpg.Connection) -> None:
    number = await new(conn)
    await take(conn)
    assert await actions.cancel_job(conn, ANN, number) == "cancelling"
    assert await conn.fetchval("select cancel_asked_at is not null from ingestd.job where id = $1", number)
    assert (await shown(conn, number))["state"] == "running"


@pytest.mark.parametrize("how", ["its node lets go of it", "its node does not know of it", "its node dies"])
async def test_a_job_that_was_asked_to_stop_does_not_go_back_into_the_queue(conn: asyncpg.Connection, how: str) -> None:
    """There it would begin once more, whoever had been told that it is being cancelled."""
    number = await new(conn)
    (job,) = await take(conn)
    await actions.cancel_job(conn, ANN, number)
    if how == "its node lets go of it":
        back = [ack.PutBack(number, job.claim, timedelta(), spent=True)]
        assert (await ack.put_back(conn, back), await ack.asked_to_stop(conn, [(number, job.claim)])) == (set(), {number})
        return
    if how == "its node dies":
        assert (await rescue.rescue(conn, NODE, "it died", started=[number])).claimable == []
    else:
        assert await claim.release_claim(conn, NODE, job.claim) == []
    assert (await shown(conn, number))["state"] == "cancelled"


class Interrupted:
    """A connection on which something else happens after the first statement."""

    def __init__(self, conn: asyncpg.Connection, meanwhile: Awaitable[None]) -> None:
        self._conn = conn
        self._meanwhile: Awaitable[None] | None = meanwhile

    async def fetch(self, *statement: object) -> list[asyncpg.Record]:
        rows: list[asyncpg.Record] = await self._conn.fetch(*statement)
        meanwhile, self._meanwhile = self._meanwhile, None
        if meanwhile is not None:
            await meanwhile
        return rows


async def test_a_job_that_came_back_while_its_dead_node_was_being_looked_at_is_not_ended(conn: asyncpg.Connection) -> None:
    number = await new(conn)
    await take(conn)
    await actions.cancel_job(conn, ANN, number)

    async def somebody_ends_it_and_another_node_begins_it() -> None:
        await actions.cancel_job(conn, ANN, number, force=True)
        await actions.retry_job(conn, ANN, number)
        await take(conn, node=uuid.uuid4())

    looking = Interrupted(conn, somebody_ends_it_and_another_node_begins_it())
    assert await history.end_asked(looking, NODE, "its node died") == []
    assert (await shown(conn, number))["state"] == "running"


@pytest.mark.parametrize("act", [actions.retry_job, actions.cancel_job])
async def test_a_job_that_is_not_there_is_not_found(conn: asyncpg.Connection, act: object) -> None:
    with pytest.raises(NotFound, match="there is no job 4711"):
        await act(conn, ANN, 4711)  # type: ignore[operator]
    assert await audited(conn) == []


async def test_queues_pause_and_resume_once(conn: asyncpg.Connection) -> None:
    for _ in range(2):
        await actions.pause_queue(conn, ANN, "imports")
    number = await new(conn, queue="imports")
    assert (await shown(conn, number))["reason"] == "queue imports is paused by ann"
    for _ in range(2):
        await actions.resume_queue(conn, ANN, "imports")
    assert [row[2:5] for row in await audited(conn)] == [("pause", "queue", "imports"), ("resume", "queue", "imports")]
    for act in (actions.pause_queue, actions.resume_queue):
        with pytest.raises(NotFound, match='there is no queue "import", did you mean "imports"'):
            await act(conn, ANN, "import")


async def test_reviving_twice_brings_one_job_back(conn: asyncpg.Connection) -> None:
    number = await new(conn)
    await end(conn, number, State.FAILED)
    assert await history.revive(conn, number)
    assert not await history.revive(conn, number)
    assert await conn.fetchval("select count(*) from ingestd.job") == 1


async def test_a_revived_keyed_job_waits_for_its_turn_again(conn: asyncpg.Connection) -> None:
    from ingestd.jobs.promoter import promote_once

    first = await new(conn, key="k", key_strict=True)
    second = await new(conn, key="k", key_strict=True)
    await promote_once(conn)
    await end(conn, first, State.FAILED)
    await promote_once(conn)
    assert (await shown(conn, second))["reason"] == f"held: job {first} before it failed; retry or skip that one"
    await actions.retry_job(conn, ANN, first)
    assert await history.key_holds(conn) == []
    await promote_once(conn)
    assert [job.id for job in await take(conn)] == [first]
