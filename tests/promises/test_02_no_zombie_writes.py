"""Promise 2: whoever was taken for dead and lives on changes nothing; and the mutant that shows the test can see it."""

from __future__ import annotations

from uuid import UUID

import asyncpg
import pytest

from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from ingestd.jobs.store.rescue import rescue
from tests.daemon.harness import Daemon, Site
from tests.faults import ledger
from tests.support import eventually

CLAIM = "select claim from ingestd.job where id = $1"


async def zombie_wakes(site: Site, conn: asyncpg.Connection, deed: str) -> None:
    """One job runs twice in one daemon, because its first run was taken for dead; then the first run does its deed.

    Raises:
        AssertionError: the deed had an effect.
    """
    daemon = await site.start()
    await ledger.open_ledger(conn)
    (job_id,) = await enqueue(conn, [NewJob("in_transaction", {"path": str(site.folder / "go")})])
    zombie: UUID = await eventually(lambda: conn.fetchval(CLAIM, job_id))
    await begun(site, zombie)
    await rescue(conn, await site.node_of(daemon), "it was taken for dead")
    holder: UUID = await eventually(lambda: conn.fetchval(CLAIM, job_id))
    assert holder != zombie
    await begun(site, holder)

    (site.folder / f"go-{zombie}-{deed}").touch()
    await eventually(lambda: noticed(daemon, conn, job_id, holder))
    assert await conn.fetchval(CLAIM, job_id) == holder
    assert await conn.fetchval("select count(*) from faults.ledger") == 0
    assert daemon.events("StaleAck")

    (site.folder / f"go-{holder}-end").touch()
    await eventually(lambda: conn.fetchval("select state = 'succeeded' from ingestd.history where id = $1 and claim = $2", job_id, holder))
    assert await conn.fetchval("select array_agg(job_id) from faults.ledger") == [job_id]


async def begun(site: Site, claim: UUID) -> None:
    await eventually(lambda: (site.folder / f"go-{claim}-begun").exists())


async def noticed(daemon: Daemon, conn: asyncpg.Connection, job_id: int, holder: UUID) -> bool:
    return bool(daemon.events("StaleAck")) or await conn.fetchval(CLAIM, job_id) != holder


@pytest.mark.parametrize("deed", ["end", "fail"])
async def test_a_zombie_changes_nothing(site: Site, conn: asyncpg.Connection, deed: str) -> None:
    site.configure(daemon='handlers = ["tests.daemon.jobs"]')
    await zombie_wakes(site, conn, deed)


@pytest.mark.parametrize(("deed", "mutant"), [("end", "ack_without_fence"), ("fail", "put_back_without_fence")])
async def test_without_the_fence_a_zombie_is_seen(site: Site, conn: asyncpg.Connection, deed: str, mutant: str) -> None:
    site.configure(daemon=f'handlers = ["tests.daemon.jobs", "tests.faults.mutants.{mutant}"]')
    with pytest.raises(AssertionError):
        await zombie_wakes(site, conn, deed)
    assert (
        await conn.fetchval("select count(*) from ingestd.history")
        + await conn.fetchval("select count(*) from ingestd.job where claim is null or attempt > 1")
        == 1
    ), "the mutant did nothing, or something else went wrong"
