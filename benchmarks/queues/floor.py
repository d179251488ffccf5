"""The floor under our own drain: claim and acknowledgement alone, run by pgbench inside the server.

A plain SKIP LOCKED claim and the move into history with its statistics, in the batches that measured best, on ingestd's
own tables: no client, no handler, no retries, no limits. A worker that reaches it spends nothing outside Postgres.
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg

from benchmarks.queues.drive import Failed
from benchmarks.server import program

BATCH = 500
LIMIT_S = 300.0

PROCEDURE = """
create procedure bench_floor(batch integer) language plpgsql as $$
declare
    token uuid := gen_random_uuid();
    taken bigint[];
begin
    with c as materialized (
        select id from ingestd.job
        where queue_id = (select id from ingestd.queue where name = 'default') and claim is null and parked = 0 and run_at <= now()
        order by rank, run_at, id limit batch for update skip locked
    ), claimed as (
        update ingestd.job j set claim = token, node = token, claimed_at = now(), attempt = j.attempt + 1
        from c where j.id = c.id returning j.id
    )
    select array_agg(id) into taken from claimed;
    commit;
    with gone as (
        delete from ingestd.job j using unnest(taken) r(id) where j.id = r.id and j.claim = token returning j.*
    ), kept as (
        insert into ingestd.history
            (keep, state, started_at, duration_ms, id, kind, queue_id, rank, attempt, max_attempts, crashes, run_at, due_at,
             created_at, claim, node, store, key, key_strict, unique_key, unique_until, args, attempts, timeout, hard_timeout,
             backoff, tags, notes, metadata, correlation_id, parent_id, triggered_by, workflow_run, step)
        select 'ok', 'succeeded', claimed_at, 0, id, kind, queue_id, rank, attempt, max_attempts, crashes, run_at, due_at,
               created_at, claim, node, store, key, key_strict, unique_key, unique_until, args, attempts, timeout, hard_timeout,
               backoff, tags, notes, metadata, correlation_id, parent_id, triggered_by, workflow_run, step
        from gone
    )
    insert into ingestd.job_stat (minute, kind, queue_id, outcome, bucket, n, ms)
    select date_trunc('minute', now()), kind, queue_id, 'succeeded', 0, count(*), 0 from gone group by kind, queue_id;
    commit;
end $$"""


async def measure_floor(url: str, jobs: int) -> float:
    """Drain what is there; returns jobs a second.

    Raises:
        Failed: there is no pgbench, or it failed.
    """
    pgbench = program("pgbench")
    if pgbench is None:
        raise Failed("pgbench is not installed")
    batch = min(BATCH, jobs)
    conn = await asyncpg.connect(url)
    try:
        await conn.execute(PROCEDURE)
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / "floor.sql"
            script.write_text(f"call bench_floor({batch});\n")
            said = await _run(pgbench, url, "-n", "-c", "1", "-t", str(jobs // batch), "-f", str(script))
        left = await conn.fetchval("select count(*) from ingestd.job")
    finally:
        await conn.close()
    rate = re.search(r"tps = ([0-9.]+) \(without", said)
    if rate is None or left >= batch:
        raise Failed(f"pgbench left {left} jobs: {said[-300:]}")
    return float(rate[1]) * batch


async def _run(pgbench: Path, url: str, *arguments: str) -> str:
    address = urlsplit(url)
    asked = parse_qs(address.query)
    environ = {
        "PATH": os.environ.get("PATH", ""),
        "PGHOST": asked["host"][0],
        "PGPORT": asked["port"][0],
        "PGUSER": unquote(address.username or ""),
        "PGPASSWORD": unquote(address.password or ""),
        "PGDATABASE": address.path.lstrip("/"),
    }
    process = await asyncio.create_subprocess_exec(
        str(pgbench), *arguments, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            said, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        raise Failed(f"pgbench took longer than {LIMIT_S:.0f} s") from None
    return said.decode(errors="replace")
