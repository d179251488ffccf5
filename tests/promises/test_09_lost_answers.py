"""Promise 9, with 1 to 3: an answer that never comes leaves neither a job behind nor a deed done twice."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from ingestd import Client
from ingestd.postgres.outage import OUTAGE
from tests.daemon.harness import Daemon, Site
from tests.faults import ledger
from tests.faults.proxy import Proxy
from tests.support import eventually

HANDLERS = 'handlers = ["tests.daemon.jobs"]'
CLAIMED = "select count(*) from ingestd.job where claim is not null"
FINISHED = "select count(*) = $1 from ingestd.history"
FIRST, FRESH = 424_242, 30
SPENT = "select count(*) from ingestd.history where attempt > 1 or crashes > 0"


async def once_each(conn: asyncpg.Connection, ids: list[int], plain: list[int], daemon: Daemon) -> None:
    """Jobs with a row in the ledger, and jobs that only return."""
    await eventually(lambda: conn.fetchval(FINISHED, len(ids) + len(plain)), every_s=0.1)
    assert await conn.fetchval("select array_agg(id order by id) from ingestd.history") == sorted(ids + plain)
    await ledger.assert_exactly_once_of(conn, ids)
    assert await conn.fetchval(SPENT) == 0
    assert not daemon.events("StaleAck")
    assert await conn.fetchval("select count(*) from ingestd.job") == 0, "nothing is stranded"


def fail_lines(proxy: Proxy, how: str) -> None:
    """Either the lines break after the answer was lost, or they stay open and silent for ever."""
    if how == "cut":
        proxy.cut()
        proxy.flow()
    else:
        proxy.strand()
        proxy.flow()


@pytest.mark.parametrize("how", ["cut", "half-open"])
async def test_claims_commits_and_acks_whose_answers_are_lost(remote: Site, proxy: Proxy, conn: asyncpg.Connection, how: str) -> None:
    await ledger.open_ledger(conn)
    await conn.execute(f"alter table ingestd.job alter column id restart with {FIRST}")
    daemon = await remote.start("--duties", "work")
    go = remote.folder / "go"

    # The claim: its kinds are in what the node says. The server has given the jobs away, and the node does not know.
    proxy.lose_answers(to=b"until_file")
    first = [await conn.fetchval("select ingestd.enqueue($1, $2)", kind, {"path": str(go)}) for kind in ("until_file", "returns_on_file")]
    await eventually(lambda: conn.fetchval(f"{CLAIMED} having count(*) = 2"))
    assert proxy.losing
    fail_lines(proxy, how)
    await eventually(lambda: conn.fetchval("select count(*) = 2 from ingestd.job, ingestd.node_progress where id = any (started)"))

    # The COMMIT of a job's own transaction, and the ack of a job that only returns.
    proxy.lose_answers(to=b"COMMIT")
    go.touch()
    await eventually(lambda: conn.fetchval("select count(*) > 0 from ingestd.history where kind = 'until_file'"))
    await eventually(lambda: proxy.losing)
    fail_lines(proxy, how)
    await eventually(lambda: conn.fetchval("select count(*) = 2 from ingestd.history where id = any ($1)", first))
    # That one's id alone: the ack of the first may still be on its way a second time.
    proxy.lose_answers(to=b"{%d}" % (FIRST + 2 + FRESH))
    fresh = await ledger.accept(conn, FRESH)
    plain = await conn.fetchval("select ingestd.enqueue('returns_on_file', $1)", {"path": str(go)})
    assert plain == FIRST + 2 + FRESH
    await eventually(lambda: conn.fetchval("select 1 from ingestd.history where id = $1", plain))
    await eventually(lambda: proxy.losing)
    # A job's own connection is left to the kernel, which has no quarrel with the proxy: none may be in use when lines fall silent.
    done = "select count(*) = $2 from ingestd.history where id = any ($1)"
    await eventually(lambda: conn.fetchval(done, fresh, len(fresh)))
    fail_lines(proxy, how)
    await once_each(conn, [first[0], *fresh], [first[1], plain], daemon)


@pytest.mark.parametrize("how", ["cut", "half-open"])
async def test_an_enqueue_whose_answer_is_lost_is_safely_sent_again_under_a_unique_key(
    remote: Site, proxy: Proxy, conn: asyncpg.Connection, how: str
) -> None:
    await ledger.open_ledger(conn)
    async with Client(proxy.dsn) as client:
        await client.enqueue(ledger.KIND, unique_key="before", allow_unknown=True)
        proxy.lose_answers()
        with pytest.raises((*OUTAGE, ConnectionError)):
            async with asyncio.timeout(1.0):
                await client.enqueue(ledger.KIND, unique_key="order 7", allow_unknown=True)
        assert await eventually(lambda: conn.fetchval("select id from ingestd.job where unique_key = 'order 7'"))
        fail_lines(proxy, how)
    async with Client(proxy.dsn) as client:
        again = await client.enqueue(ledger.KIND, unique_key="order 7", allow_unknown=True)
    ids = [row["id"] for row in await conn.fetch("select id from ingestd.job order by id")]
    assert again.id in ids
    assert len(ids) == 2
    daemon = await remote.start("--duties", "work")
    await once_each(conn, ids, [], daemon)
