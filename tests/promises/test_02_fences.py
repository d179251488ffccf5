"""Promise 2: each fence by itself, as a law; and for each the mutant without it, which breaks its law and no other."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from ingestd.errors import StaleClaim
from ingestd.events import Bus
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import Job, NewJob, State
from ingestd.jobs.store import ack as ack_store
from ingestd.jobs.store import claim as claim_store
from ingestd.jobs.store import rescue as rescue_store
from ingestd.jobs.store.claim import Claimant
from ingestd.postgres.pool import Database
from ingestd.postgres.session import connect
from ingestd.work.context import Context
from ingestd.work.runner import give_back

KIND = "fenced"
WAITS_S = 3.0
DEED = "create table deed (what text)"


class Broken(AssertionError):
    """A law does not hold."""


def claimant() -> Claimant:
    return Claimant(uuid.uuid4(), uuid.uuid4(), [KIND], uuid.uuid4())


async def take(conn: asyncpg.Connection, who: Claimant, most: int = 10) -> list[Job]:
    queue = await conn.fetchval("select id from ingestd.queue where name = 'default'")
    return await claim_store.sweep(conn, who, {queue: most}, {queue: "default"})


async def hold(conn: asyncpg.Connection, who: Claimant, count: int = 1) -> list[Job]:
    await enqueue(conn, [NewJob(KIND) for _ in range(count)])
    jobs = await take(conn, who, count)
    assert len(jobs) == count
    return jobs


async def lose(conn: asyncpg.Connection, who: Claimant) -> tuple[Claimant, Job]:
    """Who holds jobs is taken for dead, and somebody else holds them."""
    await rescue_store.rescue(conn, who.node, "taken for dead", started=[])
    heir = claimant()
    (job,) = await take(conn, heir)
    return heir, job


@asynccontextmanager
async def another(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    conn = await connect(dsn)
    try:
        yield conn
    finally:
        await conn.close()


def context(db: Database, who: Claimant, job: Job) -> Context:
    return Context(job, db, who.node, Bus())


async def still_held(conn: asyncpg.Connection, heir: Claimant, job: Job) -> None:
    row = await conn.fetchrow("select claim, node, checkpoint from ingestd.job where id = $1", job.id)
    if row is None or (row["claim"], row["node"], row["checkpoint"]) != (heir.token, heir.node, None):
        raise Broken(f"its holder has lost it, or finds something of somebody else's: {row}")


async def acks_are_fenced(db: Database, conn: asyncpg.Connection) -> None:
    zombie = claimant()
    (old,) = await hold(conn, zombie)
    heir, job = await lose(conn, zombie)
    for result in (
        ack_store.Result(old.id, old.claim, State.SUCCEEDED),
        ack_store.Result(old.id, old.claim, State.FAILED, reason="late"),
    ):
        await ack_store.ack(conn, [result])
        await still_held(conn, heir, job)
    await ack_store.ack_plain(conn, [(old, time.time(), 5)])
    await still_held(conn, heir, job)


async def put_backs_are_fenced(db: Database, conn: asyncpg.Connection) -> None:
    zombie = claimant()
    (old,) = await hold(conn, zombie)
    heir, job = await lose(conn, zombie)
    await ack_store.put_back(conn, [give_back(old)])
    await still_held(conn, heir, job)


async def checkpoints_are_fenced(db: Database, conn: asyncpg.Connection) -> None:
    zombie = claimant()
    (old,) = await hold(conn, zombie)
    await conn.execute(DEED)
    heir, job = await lose(conn, zombie)
    try:
        async with context(db, zombie, old).step({"at": 1}) as own:
            await own.execute("insert into deed values ('late')")
    except StaleClaim:
        pass
    await still_held(conn, heir, job)
    if await conn.fetchval("select count(*) from deed"):
        raise Broken("what a stale holder did was committed")


async def an_open_transaction_holds_up_no_rescue(db: Database, conn: asyncpg.Connection) -> None:
    slow = claimant()
    (job,) = await hold(conn, slow)
    await conn.execute(DEED)
    try:
        async with context(db, slow, job).transaction() as own:
            await own.execute("insert into deed values ('late')")
            rescued = await rescue_store.rescue(conn, slow.node, "taken for dead", started=[])
    except StaleClaim:
        pass
    if rescued.claimable != [job.id]:
        raise Broken("the rescue had to wait for the work")
    if await conn.fetchval("select count(*) from deed"):
        raise Broken("what a stale holder did was committed")


async def a_rescue_takes_only_what_the_dead_still_hold(db: Database, conn: asyncpg.Connection) -> None:
    dead = claimant()
    (job,) = await hold(conn, dead)
    async with another(db.dsn) as other:
        heir = claimant()
        moving = other.transaction()
        await moving.start()
        # Another rescuer was faster, and its jobs are claimed already; but none of that is committed when we look.
        await rescue_store.rescue(other, dead.node, "taken for dead", started=[])
        (again,) = await take(other, heir)
        rescue = asyncio.create_task(rescue_store.rescue(conn, dead.node, "taken for dead", started=[]), name="rescue")
        await asyncio.wait({rescue}, timeout=0.5)
        await moving.commit()
        rescued = await rescue
        await still_held(other, heir, again)
    if rescued.claimable:
        raise Broken(f"the living were robbed of {rescued.claimable}; {job.id} was no longer the dead one's")


async def claims_pass_by_what_others_hold_locked(db: Database, conn: asyncpg.Connection) -> None:
    ids = await enqueue(conn, [NewJob(KIND) for _ in range(3)])
    async with another(db.dsn) as other, other.transaction():
        await other.execute("select 1 from ingestd.job where id = $1 for update", ids[0])
        try:
            async with asyncio.timeout(WAITS_S):
                jobs = await take(conn, claimant())
        except TimeoutError:
            raise Broken("the claim waited for somebody else's lock") from None
    if sorted(job.id for job in jobs) != ids[1:]:
        raise Broken(f"claimed {[job.id for job in jobs]} of {ids}")


async def releases_are_fenced(db: Database, conn: asyncpg.Connection) -> None:
    node = claimant()
    (job,) = await hold(conn, node)
    await claim_store.release_claim(conn, node.node, uuid.uuid4())
    await still_held(conn, node, job)


Law = Callable[[Database, asyncpg.Connection], Awaitable[None]]
LAWS: list[Law] = [
    acks_are_fenced,
    put_backs_are_fenced,
    checkpoints_are_fenced,
    an_open_transaction_holds_up_no_rescue,
    a_rescue_takes_only_what_the_dead_still_hold,
    claims_pass_by_what_others_hold_locked,
    releases_are_fenced,
]
# What is taken away from which statement, and the law that notices.
MUTANTS: dict[str, tuple[Any, str, str, str, Law]] = {
    "ack without claim": (ack_store, "ACK", " and j.claim = r.claim", "", acks_are_fenced),
    "plain ack without claim": (ack_store, "ACK_PLAIN", " and j.claim = r.claim", "", acks_are_fenced),
    "put back without claim": (ack_store, "PUT_BACK", " and j.claim = r.claim", "", put_backs_are_fenced),
    "progress without claim": (ack_store, "CHECKPOINT", "claim = $2", "$2::uuid is not null", checkpoints_are_fenced),
    "rescue without guard": (rescue_store, "RESCUE", "for update skip locked", "", a_rescue_takes_only_what_the_dead_still_hold),
    "claim without skip locked": (claim_store, "SWEEP", "for update skip locked", "for update", claims_pass_by_what_others_hold_locked),
    "release without claim": (claim_store, "RELEASE_CLAIM", "and claim = $2", "and $2::uuid is not null", releases_are_fenced),
}


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
async def test_the_law_holds(law: Law, db: Database, conn: asyncpg.Connection) -> None:
    await law(db, conn)


@pytest.mark.parametrize("mutant", MUTANTS)
async def test_without_its_fence_the_law_is_broken(
    mutant: str, db: Database, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name, fence, instead, law = MUTANTS[mutant]
    statement: str = getattr(module, name)
    assert statement.count(fence) == 1, statement
    monkeypatch.setattr(module, name, statement.replace(fence, instead))
    with pytest.raises(Broken):
        await law(db, conn)


async def test_with_the_fence_before_the_work_a_rescue_waits_for_it(
    db: Database, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def fenced_first(self: Context) -> AsyncIterator[asyncpg.Connection]:
        async with self.db.handlers() as own, own.transaction():
            result = ack_store.Result(self.job.id, self.job.claim, State.SUCCEEDED)
            if self.job.id not in await ack_store.ack(own, [result]):
                raise StaleClaim("stale")
            yield own

    monkeypatch.setattr(Context, "transaction", fenced_first)
    with pytest.raises(Broken):
        await an_open_transaction_holds_up_no_rescue(db, conn)
