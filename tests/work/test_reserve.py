"""What a node enqueues itself is born in its own hands where it has a slot free, and waits its turn otherwise."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from ingestd.errors import InvalidInput
from ingestd.jobs.client import current_client
from ingestd.jobs.coalesce import Coalescer
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import Job, NewJob
from ingestd.jobs.store import claim as claim_store
from ingestd.jobs.store import jobs as jobs_store
from ingestd.jobs.store import single
from ingestd.jobs.store.rescue import rescue
from ingestd.postgres.pool import Database
from ingestd.work.context import Context
from ingestd.work.reserve import Reserved
from tests.support import eventually
from tests.work.conftest import Workbench, handler, working

BORN = "select claimed_at = created_at from ingestd.job where id = $1 and claim is not null"


class Family:
    """A kind whose jobs enqueue children, and what these saw of themselves."""

    def __init__(self, children: int = 1, **options: Any) -> None:
        self.born_claimed: list[bool] = []
        self._children = children
        self._options = options
        self.parent = handler("parent", self._enqueue)
        self.child = handler("child", self._look)

    async def _enqueue(self, ctx: Context) -> None:
        for _ in range(self._children):
            await current_client().enqueue("child", {"n": 1}, allow_unknown=True, **self._options)

    async def _look(self, ctx: Context, n: int) -> None:
        async with ctx.db.services() as conn:
            self.born_claimed.append(bool(await conn.fetchval(BORN, ctx.job.id)))


async def born_claimed(bench: Workbench, conn: asyncpg.Connection) -> tuple[Reserved, Job]:
    """A child that the node's own insert has taken, whose answer has not been looked at yet."""
    reserved = bench.worker.reservations.reserve(NewJob("child"))
    assert reserved is not None
    _, taken = await single.insert_taken(conn, NewJob("child"), '{"n": 1}', reserved.who, reserved.queue_id, reserved.queue)
    assert taken is not None
    return reserved, taken


async def settled(bench: Workbench) -> None:
    await eventually(lambda: all(lane.empty for lane in bench.worker.claimer.lanes.values()) and bench.worker.claimer.lanes)


async def test_a_free_node_runs_what_it_enqueues_without_a_claim_of_its_own(db: Database) -> None:
    family = Family(tags=["red"], priority="high")
    async with working(db, family.parent, family.child) as bench:
        await settled(bench)
        async with db.services() as conn:
            await enqueue(conn, [NewJob("parent")])
        await eventually(lambda: family.born_claimed == [True])
        await eventually(lambda: _open_jobs(db, 0))
    async with db.services() as conn:
        row = await conn.fetchrow("select state, attempt, tags, rank, started_at >= created_at as after, parent_id from ingestd.history"
                                  " where kind = 'child'")  # fmt: skip
        assert row is not None
        assert (row["state"], row["attempt"], row["tags"], row["rank"], row["after"]) == ("succeeded", 1, ["red"], -10, True)


@pytest.mark.parametrize(
    "how", ["update ingestd.queue set paused_at = now()", "update ingestd.queue set global_concurrency = 5"], ids=["paused", "limited"]
)
async def test_a_pause_or_a_limit_that_is_news_to_the_node_holds(db: Database, conn: asyncpg.Connection, how: str) -> None:
    family = Family()
    async with working(db, family.parent, family.child) as bench:
        await settled(bench)
        lane = next(lane for lane in bench.worker.claimer.lanes.values() if lane.name == "default")
        reserved = bench.worker.reservations.reserve(NewJob("child", {"n": 1}))
        assert reserved is not None
        assert lane.reserved == 1
        await conn.execute(how)
        _, taken = await single.insert_taken(conn, NewJob("child"), '{"n": 1}', reserved.who, reserved.queue_id, reserved.queue)
        reserved.fill(taken)
        assert taken is None
        assert lane.reserved == 0


async def test_no_more_is_taken_than_there_are_slots_and_all_of_it_runs(db: Database) -> None:
    family = Family(children=30)
    async with working(db, family.parent, family.child, slots={"default": 2}) as bench:
        await settled(bench)
        async with db.services() as conn:
            await enqueue(conn, [NewJob("parent")])
        await eventually(lambda: len(family.born_claimed) == 30)
    assert True in family.born_claimed


@pytest.mark.parametrize("options", [{"key": "k"}, {"delay": "10ms"}, {"unique_key": "u"}])
async def test_what_has_to_wait_for_anything_waits_in_the_queue(db: Database, options: dict[str, Any]) -> None:
    family = Family(**options)
    async with working(db, family.parent, family.child) as bench:
        await settled(bench)
        async with db.services() as conn:
            await enqueue(conn, [NewJob("parent")])
        await eventually(lambda: family.born_claimed == [False])


async def test_a_job_whose_birth_was_not_answered_is_given_back_and_runs_once(db: Database, conn: asyncpg.Connection) -> None:
    family = Family()
    async with working(db, family.parent, family.child) as bench:
        await settled(bench)
        reserved, _ = await born_claimed(bench, conn)
        # The answer is lost: nobody here knows what came of it.
        reserved.lose()
        await eventually(lambda: family.born_claimed == [False])
        await eventually(lambda: _open_jobs(db, 0))
    assert await conn.fetchval("select array_agg(attempt) from ingestd.history") == [1]


async def test_a_job_whose_caller_gives_up_is_given_back_when_its_statement_is_over_and_no_sooner(
    db: Database, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is given back while the server is about to commit it would lie claimed afterwards, known to nobody."""
    family, lent, lose = Family(), list[int](), Reserved.lose

    def note(reserved: Reserved) -> None:
        lent.append(len(db._lent["enqueues"]))
        lose(reserved)

    monkeypatch.setattr(Reserved, "lose", note)
    async with working(db, family.parent, family.child) as bench:
        await settled(bench)
        async with conn.transaction():
            # Held until the caller gives up, and nothing else: nodes only read and change rows.
            await conn.execute("lock table ingestd.job in share mode")
            caller = asyncio.create_task(bench.worker._client.enqueue("child", {"n": 1}, allow_unknown=True))
            await eventually(lambda: conn.fetchval("select exists (select from pg_locks where not granted)"))
            assert db._lent["enqueues"]
            caller.cancel()
            await asyncio.wait([caller])
        assert (caller.cancelled(), lent) == (True, [0])
        await eventually(lambda: not bench.worker.claimer.unanswered())
        await bench.worker._client.enqueue("child", {"n": 1}, allow_unknown=True)
        await eventually(lambda: len(family.born_claimed) == 1)
        await eventually(lambda: _open_jobs(db, 0))


async def test_a_job_whose_caller_gave_up_is_told_of_where_it_waits_in_spite_of_that(db: Database, conn: asyncpg.Connection) -> None:
    told: list[NewJob] = []
    coalescer = Coalescer(db, keep=True, on_waiting=told.extend)
    async with conn.transaction():
        await conn.execute("lock table ingestd.job")
        caller = asyncio.create_task(coalescer.enqueue(NewJob("k")))
        await eventually(lambda: conn.fetchval("select exists (select from pg_locks where not granted)"))
        caller.cancel()
        await asyncio.wait([caller])
    assert [job.kind for job in told] == ["k"]
    await coalescer.close()


async def test_a_job_that_is_born_while_the_node_drains_is_given_back_unspent(db: Database, conn: asyncpg.Connection) -> None:
    family = Family()
    async with working(db, family.parent, family.child) as bench:
        await settled(bench)
        reserved = bench.worker.reservations.reserve(NewJob("child"))
        assert reserved is not None
        bench.worker.claimer.drain()
        assert bench.worker.reservations.reserve(NewJob("child")) is None
        _, taken = await single.insert_taken(conn, NewJob("child"), '{"n": 1}', reserved.who, reserved.queue_id, reserved.queue)
        reserved.fill(taken)
        await bench.worker.drain(5.0, asyncio.Event())
    assert await conn.fetch("select claim, attempt from ingestd.job") == [(None, 0)]
    assert family.born_claimed == []


async def test_what_waits_is_not_overtaken_by_what_is_sent_right_after_it(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    came: list[int] = []

    async def note(ctx: Context, n: int) -> None:
        came.append(n)

    async with working(db, handler("note", note), slots={"default": 1}) as bench:
        await settled(bench)
        client = bench.worker._client
        insert, later = jobs_store.insert_alike, list[asyncio.Task[Any]]()

        async def insert_alike(*args: Any) -> list[int]:
            later.append(asyncio.create_task(client.enqueue("note", {"n": 4}, allow_unknown=True)))
            await asyncio.sleep(0)
            return await insert(*args)

        monkeypatch.setattr(jobs_store, "insert_alike", insert_alike)
        # The first goes alone, the next two together, and the last while they are under way.
        await asyncio.gather(*[client.enqueue("note", {"n": n}, allow_unknown=True) for n in (1, 2, 3)])
        await eventually(lambda: len(came) == 4)
    assert came == [1, 2, 3, 4]


async def test_no_slot_is_kept_twice_while_a_claim_is_under_way(
    db: Database, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one of the two would lie here, claimed, behind a job that may take hours, while other nodes are free."""
    hold, sweep, reserved = asyncio.Event(), claim_store.sweep, list[Any]()

    async def wait(ctx: Context) -> None:
        await hold.wait()

    async with working(db, handler("wait", wait), slots={"default": 1}) as bench:
        await settled(bench)

        async def sweep_and_reserve(*args: Any) -> list[Any]:
            jobs = await sweep(*args)
            reserved.extend([bench.worker.reservations.reserve(NewJob("wait"))] if jobs else [])
            return jobs

        monkeypatch.setattr(claim_store, "sweep", sweep_and_reserve)
        monkeypatch.setattr(bench.worker.claimer, "hear", lambda _: None)
        await enqueue(conn, [NewJob("wait")])
        await eventually(lambda: reserved)
        hold.set()
    assert reserved == [None]


async def test_a_job_that_is_born_while_its_queue_is_paused_does_not_start(db: Database, conn: asyncpg.Connection) -> None:
    family = Family()
    async with working(db, family.parent, family.child) as bench:
        await settled(bench)
        lane = next(lane for lane in bench.worker.claimer.lanes.values() if lane.name == "default")
        reserved = bench.worker.reservations.reserve(NewJob("child"))
        assert reserved is not None
        _, taken = await single.insert_taken(conn, NewJob("child"), '{"n": 1}', reserved.who, reserved.queue_id, reserved.queue)
        await conn.execute("update ingestd.queue set paused_at = now()")
        bench.worker.wake()
        await eventually(lambda: lane.paused)
        reserved.fill(taken)
        await eventually(lambda: conn.fetchval("select claim is null and attempt = 0 from ingestd.job"))
    assert family.born_claimed == []


async def test_a_queue_that_is_missing_is_told_as_anywhere(db: Database, conn: asyncpg.Connection) -> None:
    family = Family()
    async with working(db, family.parent, family.child) as bench:
        await settled(bench)
        # Another node has published it with a queue of its own.
        await conn.execute("update ingestd.kind set queue = 'elsewhere' where name = 'child'")
        with pytest.raises(InvalidInput, match='no queue "elsewhere", which is that of the kind "child"'):
            await bench.worker._client.enqueue("child", {"n": 1}, allow_unknown=True)
        await conn.execute("update ingestd.kind set queue = 'default' where name = 'child'")
        await eventually(lambda: not bench.worker.claimer.unanswered())
        await bench.worker._client.enqueue("child", {"n": 1}, allow_unknown=True)
        await eventually(lambda: len(family.born_claimed) == 1)


async def test_a_job_whose_node_died_before_it_started_is_rescued_unspent_and_unsuspected(db: Database, conn: asyncpg.Connection) -> None:
    family = Family()
    async with working(db, family.parent, family.child) as bench:
        await settled(bench)
        reserved, taken = await born_claimed(bench, conn)
        bench.worker.claimer.drain()  # it is only looked at
        rescued = await rescue(conn, bench.node.id, "it has died", set())
        assert rescued.claimable == [taken.id]
        assert await conn.fetchrow("select claim, attempt, crashes from ingestd.job") == (None, 0, 0)
        reserved.lose()


async def _open_jobs(db: Database, count: int) -> bool:
    async with db.services() as conn:
        return bool(await conn.fetchval("select count(*) = $1 from ingestd.job", count))
