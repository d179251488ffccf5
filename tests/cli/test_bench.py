"""`ingestd bench` measures, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from ingestd.postgres.session import connect
from tests.support import eventually

SMALL = ("--jobs", "300", "--seconds", "0.2", "--callers", "8")
LIMIT_S = 180
LEFT = "select datname from pg_database where starts_with(datname, 'ingestd_bench_') and not datname = any ($1)"
DATABASES = "select coalesce(array_agg(datname), '{}') from pg_database where starts_with(datname, 'ingestd_bench_')"
TABLES = ("job", "history", "job_stat", "queue", "kind", "node", "node_progress")


def command(tmp_path: Path, url: str, *words: str) -> dict[str, Any]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("INGESTD_")}
    return {
        "args": [sys.executable, "-m", "ingestd", "bench", *SMALL, "--database-url", url, *words],
        "env": environ | {"INGESTD_DAEMON__STATE_DIR": str(tmp_path / "state")},
        "cwd": tmp_path,
        "text": True,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    }


def bench(tmp_path: Path, url: str, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done: subprocess.CompletedProcess[str] = subprocess.run(**command(tmp_path, url, *words), timeout=LIMIT_S, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done


async def rows(conn: asyncpg.Connection) -> dict[str, int]:
    return {table: await conn.fetchval(f"select count(*) from ingestd.{table}") for table in TABLES}


async def test_it_measures_in_a_database_that_is_gone_afterwards(tmp_path: Path, dsn: str, conn: asyncpg.Connection) -> None:
    others = await conn.fetchval(DATABASES)
    before = await rows(conn)
    found = json.loads(bench(tmp_path, dsn, "--json").stdout)
    assert found["drain"]["jobs"] == 300 + found["enqueue_one"]["count"] + found["enqueue_callers"]["count"]
    for part in ("enqueue_many", "enqueue_one", "enqueue_callers", "drain"):
        assert found[part]["per_s"] > 0
    assert 0 < found["pickup"]["p50_ms"] <= found["pickup"]["p99_ms"]
    assert found["floor"]["one"]["per_s"] > 0
    assert await conn.fetch(LEFT, others) == []
    assert await rows(conn) == before


async def test_in_place_it_leaves_the_jobs_of_others_alone_and_nothing_of_its_own(
    tmp_path: Path, dsn: str, conn: asyncpg.Connection
) -> None:
    await enqueue(conn, [NewJob("mine", {"x": 1}), NewJob("mine", queue="imports")])
    before = await rows(conn)
    said = bench(tmp_path, dsn, "--in-place").stdout
    assert "drain, 1 process, acked, history kept" in said
    assert await rows(conn) == before
    assert await conn.fetchval("select to_regclass('ingestd_stg.bench_floor') is null")


async def test_a_role_that_may_make_no_database_is_told_what_to_do(tmp_path: Path, dsn: str, conn: asyncpg.Connection) -> None:
    role = f"plain_{uuid.uuid4().hex[:8]}"
    await conn.execute(f"create role {role} login password 'x'")
    try:
        parts = urlsplit(dsn)
        url = urlunsplit(parts._replace(netloc=f"{role}:x@{parts.netloc.rpartition('@')[2]}"))
        done = bench(tmp_path, url, code=77)
        assert "may not make a database" in done.stderr
        assert "--in-place" in done.stderr
    finally:
        await conn.execute(f"drop role {role}")


async def test_interrupted_it_takes_its_database_with_it(tmp_path: Path, dsn: str, server_dsn: str) -> None:
    admin = await connect(server_dsn)
    others = await admin.fetchval(DATABASES)
    process = subprocess.Popen(**command(tmp_path, dsn, "--seconds", "30"))  # noqa: ASYNC220
    try:
        await eventually(lambda: admin.fetchval(f"select exists ({LEFT})", others))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 130
        assert await admin.fetch(LEFT, others) == []
    finally:
        process.kill()
        process.communicate()
        await admin.close()
