"""A bulk over a real daemon: killed in the middle it goes on and does nothing twice, and it holds nobody up."""

from __future__ import annotations

import asyncio
import time

from tests.daemon.harness import Site
from tests.support import CROWDED, eventually

JOBS = 20_000
HANDLERS = """
from ingestd import Context, job

@job("quick")
async def quick(ctx: Context) -> None: ...
"""
FINISHED = """
insert into ingestd.history (keep, state, duration_ms, id, kind, queue_id, rank, attempt, max_attempts, crashes, run_at, due_at,
                             created_at, key_strict, unique_until, args, attempts, tags, triggered_by)
select 'ok', 'succeeded', 1, nextval(pg_get_serial_sequence('ingestd.job', 'id')), 'later', 1, 0, 1, 4, 0, now(), now(), now(), false,
       'finish', '{}', '[]', '{}', 'api' from generate_series(1, $1::integer)"""
CHILDREN = "select count(*) as n, count(distinct parent_id) as parents from ingestd.job where kind = 'later' and parent_id is not null"
WAITING = """
insert into ingestd.job (kind, queue_id, run_at) select 'later', 1, now() + interval '1 day' from generate_series(1, $1::integer)"""
OLDEST = """
select coalesce(max(extract(epoch from clock_timestamp() - xact_start)), 0)::float8 from pg_stat_activity
where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()"""


async def test_a_bulk_killed_again_and_again_does_each_job_once(site: Site) -> None:
    daemon = await site.start()
    await site.ask(FINISHED, JOBS)
    status, asked = await daemon.post("/api/v1/bulk", {"action": "again", "filter": {"kind": "later"}, "in": "1h"})
    assert (status, asked["jobs"]) == (202, JOBS)
    for share in (1, 4, 8):
        await eventually(lambda share=share: site.ask(f"select n >= {share * JOBS // 20} from ({CHILDREN}) c"))
        daemon.kill()
        await daemon.ended()
        daemon = await site.start()
    path = f"/api/v1/jobs/{asked['id']}"

    async def ended() -> bool:
        return (await daemon.get(path))[1]["state"] == "succeeded"

    await eventually(ended, every_s=0.2)
    _, job = await daemon.get(path)
    assert job["result"] == {"changed": JOBS, "skipped": 0}
    assert job["crashes"] >= 2, "it was running when its node was killed"
    ((made, parents),) = await site.rows(CHILDREN)
    assert (made, parents) == (JOBS, JOBS)
    assert await site.ask("select count(*) from ingestd.audit where object_type = 'bulk'") == 1


async def test_a_bulk_holds_no_long_transaction_and_lets_the_queue_go_on(site: Site) -> None:
    site.module("quickly", HANDLERS)
    site.configure(daemon='handlers = ["quickly"]')
    daemon = await site.start()
    await site.ask(WAITING, JOBS)
    _, asked = await daemon.post("/api/v1/bulk", {"action": "cancel", "filter": {"kind": "later"}})
    waits: list[float] = []
    oldest = 0.0
    async with site.connection() as conn:
        while await conn.fetchval("select exists (select from ingestd.job where id = $1)", int(asked["id"])):
            oldest = max(oldest, await conn.fetchval(OLDEST))
            began = time.monotonic()
            number = await conn.fetchval("select ingestd.enqueue('quick')")
            while await conn.fetchval("select exists (select from ingestd.job where id = $1)", number):
                await asyncio.sleep(0.005)
            waits.append(time.monotonic() - began)
        assert await conn.fetchval("select count(*) from ingestd.history where kind = 'later' and state = 'cancelled'") == JOBS
        assert await conn.fetchval("select count(*) from ingestd.history where kind = 'quick' and state = 'succeeded'") == len(waits)
    assert waits, "the bulk was over before anything could be tried"
    # Generous for a busy machine; one transaction over all of them would have taken as long as the whole.
    assert max(waits) < 10 * CROWDED, waits
    assert oldest < 10 * CROWDED
