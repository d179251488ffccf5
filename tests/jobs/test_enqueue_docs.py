"""The programs of docs/enqueue.md run as they stand."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from ingestd import Client, SyncClient, job
from ingestd.cli.database import client_environment

DOCUMENT = (Path(__file__).parents[2] / "docs" / "enqueue.md").read_text(encoding="utf-8")
ENQUEUED = "select kind || coalesce(' ' || (args ->> 'order'), ' ' || (args ->> 'supplier'), '') from ingestd.job order by id"
PHP = '<?php\n$pdo = new PDO("pgsql:");\n{}\necho $id;'
NODE = """const pg = require("pg");
(async () => {{
const client = new pg.Client();
await client.connect();
{}
await client.end();
}})();
"""


@job("sync_prices")
async def sync_prices(ctx: Any, supplier: str) -> None: ...


def example(language: str, opening: str) -> str:
    """The one example that begins like this."""
    (found,) = [text for text in re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL) if text.startswith(opening)]
    return found.replace("insert into orders …", "insert into orders (id) values (17)")


async def execute(text: str, **names: Any) -> None:
    """Run statements that may await."""
    exec(f"async def run():\n{textwrap.indent(text, '    ')}", names)
    await names["run"]()


@pytest.fixture
async def shop(conn: asyncpg.Connection) -> asyncpg.Connection:
    """With the kinds and the table that the examples speak of."""
    await conn.execute("create table orders (id int); insert into ingestd.kind (name) values ('sync_prices'), ('send_receipt')")
    return conn


async def enqueued(conn: asyncpg.Connection) -> list[str]:
    return [row[0] for row in await conn.fetch(ENQUEUED)]


async def test_each_way_to_enqueue_in_python_makes_the_jobs_it_shows(shop: asyncpg.Connection, dsn: str) -> None:
    async with Client(dsn) as client:
        await execute(
            example("python", 'await client.enqueue("sync_prices"'), client=client, suppliers=["ajax", "best"], sync_prices=sync_prices
        )
    acme, many = "sync_prices acme", ["sync_prices ajax", "sync_prices best"]
    assert await enqueued(shop) == [acme, *many, *many, acme, acme, *many]


@pytest.mark.parametrize("library", ["asyncpg", "psycopg"])
async def test_a_job_in_the_callers_transaction_is_made_with_its_rows(shop: asyncpg.Connection, dsn: str, library: str) -> None:
    text = example("python", "async with connection.transaction()")
    theirs: Any = await (asyncpg.connect(dsn) if library == "asyncpg" else psycopg.AsyncConnection.connect(dsn))
    async with Client(dsn) as client:
        await execute(text, client=client, connection=theirs)
    await theirs.close()
    assert await enqueued(shop) == ["send_receipt 17"]
    assert await shop.fetchval("select id from orders") == 17


async def test_a_psycopg_connection_is_enough_in_django_and_flask(shop: asyncpg.Connection, dsn: str) -> None:
    view = example("python", "# jobs.py").split("transaction.atomic():\n")[1]

    def serve() -> None:
        class Order:
            pk = 17

            def save(self) -> None: ...

        with SyncClient(dsn) as jobs, psycopg.connect(dsn) as connection:
            exec(textwrap.dedent(view), {"jobs": jobs, "order": Order(), "connection": connection})

    await asyncio.to_thread(serve)
    assert await enqueued(shop) == ["send_receipt 17"]


async def test_a_program_in_php_or_node_makes_the_jobs_it_shows_where_there_is_one_that_reaches_postgres(
    shop: asyncpg.Connection, dsn: str, tmp_path: Path
) -> None:
    environ = {**os.environ, **client_environment(dsn)}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)

    async def makes(command: str, text: str, jobs: list[str]) -> None:
        (program := tmp_path / "program").write_text(text)
        done = await asyncio.to_thread(run, command, str(program))
        assert done.returncode == 0, done.stdout + done.stderr
        assert await enqueued(shop) == jobs
        assert await shop.fetchval("select id from orders") == 17
        await shop.execute("truncate orders, ingestd.job")

    if shutil.which("php") and "pdo_pgsql" in run("php", "-m").stdout:
        await makes("php", PHP.format(example("php", "$pdo")), ["send_receipt 17"])
    if shutil.which("node") and run("node", "-e", "require('pg')").returncode == 0:
        await makes("node", NODE.format(example("js", "await")), ["send_receipt 17", "sync_prices acme", "sync_prices ajax"])
