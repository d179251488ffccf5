"""What the claims read: an index and few rows of it, however many jobs wait, run or are due later."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from ingestd.jobs.model import State
from ingestd.jobs.store import ack, claim, limits, nodes
from ingestd.jobs.store.ack import Result
from ingestd.postgres.session import connect
from ingestd.work.cursor import Cursor
from tests.jobs.limit_lab import STORE, declare, register
from tests.support import eventually

JOBS = 120_000
TAKE = 50
# A claim of fifty reads the index, their rows, and writes them; a plan that went wrong reads thousands of pages.
PAGES = 1500

# A third claimed, a third due later, a third waiting; nearly all of one queue and rank, as it is after a bulk enqueue.
FILL = """
insert into ingestd.job (kind, queue_id, rank, run_at, due_at, claim, node, claimed_at)
select case when i % 50 = 0 then 'rare' else 'k' end, case when i % 100 < 80 then 1 else $2 end, case when i % 10 = 0 then -10 else 0 end,
       case i % 3 when 0 then now() + i * interval '1 s' else now() - i * interval '1 ms' end, now(),
       case i % 3 when 1 then gen_random_uuid() end, case i % 3 when 1 then $3::uuid end, case i % 3 when 1 then now() end
from generate_series(1, $1::integer) i"""


@pytest.fixture
async def full(conn: asyncpg.Connection) -> dict[str, Any]:
    """A large, skewed table; `queue` is limited."""
    queue = await declare(conn, global_concurrency=100_000, rate="1000/1m")
    node = await register(conn)
    await conn.execute(FILL, JOBS, queue, node)
    await conn.execute("vacuum analyze ingestd.job")
    return {"queue": queue, "node": node}


def known() -> Cursor:
    cursor = Cursor()
    cursor.know([-10, 0])
    return cursor


async def explain(conn: asyncpg.Connection, sql: str, *arguments: Any) -> dict[str, Any]:
    """The plan as it was carried out, and not kept."""
    transaction = conn.transaction()
    await transaction.start()
    try:
        found = await conn.fetchval(f"explain (analyze, buffers, format json) {sql}", *arguments)
    finally:
        await transaction.rollback()
    return (found if isinstance(found, list) else json.loads(found))[0]["Plan"]  # type: ignore[no-any-return]


def nodes_of(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes_of(child)


def assert_lean(plan: dict[str, Any], index: str = "job_claimable") -> None:
    scans = [node for node in nodes_of(plan) if node.get("Relation Name") == "job" and "Scan" in node["Node Type"]]
    assert index in {node.get("Index Name") for node in nodes_of(plan)}
    assert not [node for node in scans if node["Node Type"] == "Seq Scan"]
    read = sum(node["Actual Rows"] * node["Actual Loops"] + node.get("Rows Removed by Filter", 0) for node in scans)
    assert read <= 20 * TAKE, f"{read} rows were read"
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] <= PAGES


@pytest.mark.parametrize("statement", ["CLAIM", "CLAIM_WITHIN_LIMIT", "SWEEP", "SUSPECT", "SUSPECT_WITHIN_LIMIT"])
async def test_a_claim_reads_little_of_a_large_skewed_table(conn: asyncpg.Connection, full: dict[str, Any], statement: str) -> None:
    token, queue = uuid.uuid4(), full["queue"] if statement.endswith("LIMIT") else 1
    mine = [token, full["node"]]
    what = [["k"], STORE]
    arguments = {
        "CLAIM": [*mine, queue, TAKE, *what, *known().bounds()],
        "SWEEP": [*mine, [1], [TAKE], *what],
        "SUSPECT": [*mine, [queue], *what],
    }[statement.removesuffix("_WITHIN_LIMIT")]
    plan = await explain(conn, getattr(claim, statement), *arguments)
    taken = 0 if statement.startswith("SUSPECT") else TAKE
    assert plan["Actual Rows"] == taken
    assert_lean(plan, "job_suspect" if statement.startswith("SUSPECT") else "job_claimable")


async def test_a_plan_that_is_kept_for_all_arguments_is_as_lean(conn: asyncpg.Connection, full: dict[str, Any]) -> None:
    """After five runs of a prepared statement Postgres may go over to a plan that knows no values."""
    await conn.execute("set plan_cache_mode = force_generic_plan")
    who = [uuid.uuid4(), full["node"]]
    assert_lean(await explain(conn, claim.CLAIM, *who, 1, TAKE, ["k"], STORE, *known().bounds()))
    assert_lean(await explain(conn, claim.SWEEP, *who, [1], [TAKE], ["k"], STORE))
    assert_lean(await explain(conn, claim.CLAIM_WITHIN_LIMIT, *who, full["queue"], TAKE, ["k"], STORE, *known().bounds()))


async def test_what_runs_is_counted_for_one_queue_alone(conn: asyncpg.Connection, full: dict[str, Any]) -> None:
    running = await conn.fetchval("select count(*) from ingestd.job where queue_id = $1 and claim is not null", full["queue"])
    room = await limits.room_of(conn, full["queue"])
    assert room is not None
    assert room.running == 100_000 - running
    plan = await explain(conn, limits.ROOM, full["queue"])
    read = [node for node in nodes_of(plan) if node.get("Relation Name") == "job"]
    assert {node.get("Index Name") for node in nodes_of(plan)} >= {"job_claimed"}
    assert sum(node["Actual Rows"] * node["Actual Loops"] + node.get("Rows Removed by Filter", 0) for node in read) <= 2 * running


async def test_asking_whether_anything_waits_reads_a_handful_of_rows(conn: asyncpg.Connection, full: dict[str, Any]) -> None:
    plan = await explain(conn, nodes.WAITING, [1, full["queue"], 3], ["k"], STORE)
    assert "Seq Scan" not in {node["Node Type"] for node in nodes_of(plan) if node.get("Relation Name") == "job"}
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] <= 100


async def churn(conn: asyncpg.Connection, node: uuid.UUID, queue: int, cursor: Cursor, rounds: int) -> None:
    """Enqueue, claim and ack, a hundred at a time, as a node does it."""
    statement = claim.CLAIM_WITHIN_LIMIT if queue != 1 else claim.CLAIM
    for _ in range(rounds):
        await conn.execute(
            "insert into ingestd.job (kind, queue_id, run_at, due_at) select 'k', $1, now(), now() from generate_series(1, 100)", queue
        )
        token = uuid.uuid4()
        rows = await conn.fetch(statement, token, node, queue, 100, ["k"], STORE, *cursor.bounds())
        jobs = [claim.to_job(row, "any", token) for row in rows]
        cursor.advance(jobs)
        assert len(await ack.ack(conn, [Result(job.id, job.claim, State.SUCCEEDED) for job in jobs])) == 100


@pytest.mark.parametrize("limited", [False, True])
async def test_a_claim_stays_flat_under_a_transaction_that_is_held_open(dsn: str, conn: asyncpg.Connection, limited: bool) -> None:
    """Nothing that ended since can be cleaned away; a claim from the front would walk over all of it."""
    queue = await declare(conn, global_concurrency=500) if limited else 1
    node = await register(conn)
    held = await connect(dsn)
    transaction = held.transaction(isolation="repeatable_read")
    await transaction.start()
    await held.fetchval("select count(*) from ingestd.job")
    cursor = Cursor()
    cursor.know([0])
    statement = claim.CLAIM_WITHIN_LIMIT if limited else claim.CLAIM

    async def pages() -> int:
        await conn.execute("insert into ingestd.job (kind, queue_id) select 'k', $1 from generate_series(1, 20)", queue)
        plan = await explain(conn, statement, uuid.uuid4(), node, queue, 20, ["k"], STORE, *cursor.bounds())
        await conn.execute("delete from ingestd.job")
        return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])

    # The cursor lags a second, for enqueues that commit late: wait until what has ended lies behind that too.
    await churn(conn, node, queue, cursor, 5)
    await eventually(lambda: _behind(conn, cursor))
    early = await pages()
    await churn(conn, node, queue, cursor, 60)
    await eventually(lambda: _behind(conn, cursor))
    late = await pages()
    await transaction.rollback()
    await held.close()
    assert late <= early + 60, (early, late)


async def _behind(conn: asyncpg.Connection, cursor: Cursor) -> bool:
    return bool(await conn.fetchval("select $1::timestamptz < now() - interval '1 second'", cursor.positions[0][0]))


@pytest.mark.parametrize("rank", [-10, 10])
async def test_a_busy_node_takes_what_just_came_under_a_priority_that_it_has_not_met(conn: asyncpg.Connection, rank: int) -> None:
    who = claim.Claimant(uuid.uuid4(), await register(conn), ["k"], STORE)
    cursor = Cursor()
    cursor.know([0])
    await conn.execute("insert into ingestd.job (kind, queue_id, rank) values ('k', 1, $1)", rank)
    assert [job.priority for job in await claim.claim(conn, who, 1, "default", 1, cursor.bounds())] == [-rank]
