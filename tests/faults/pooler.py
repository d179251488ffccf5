"""A real pgbouncer in transaction mode, in front of whichever Postgres the tests run on."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg
import pytest

from ingestd.postgres.session import connect
from tests.faults.proxy import Proxy
from tests.support import eventually

SERVERS = 12
CONFIG = """
[databases]
{database} = host=127.0.0.1 port={upstream} dbname={database} user={user} {password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {servers}
max_client_conn = 300
query_wait_timeout = 30
"""


def binary() -> str:
    """Where pgbouncer is; skips the test where it is not installed."""
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip("pgbouncer is not installed: apt-get install pgbouncer")
    return found


def free_port() -> int:
    """A TCP port nobody listens on just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@asynccontextmanager
async def pooler(dsn: str) -> AsyncIterator[str]:
    """Run pgbouncer in front of a database.

    Yields:
        The URL that leads through it.
    """
    program = binary()
    parts = urlsplit(dsn)
    user, database = unquote(parts.username or "postgres"), parts.path.lstrip("/")
    password = f"password='{unquote(parts.password)}'" if parts.password else ""
    assert parse_qs(parts.query).get("sslmode", ["disable"]) == ["disable"], "the proxy before the server speaks no TLS"
    # It runs as somebody who may not reach the server's socket; whoever runs the tests may.
    folder = Path(tempfile.mkdtemp(prefix="ingestd-pooler-"))
    folder.chmod(0o755)
    async with Proxy(dsn) as between:
        upstream, port = urlsplit(between.dsn).port, free_port()
        config = folder / "pgbouncer.ini"
        config.write_text(
            CONFIG.format(database=database, upstream=upstream, user=user, password=password, port=port, servers=SERVERS), encoding="utf-8"
        )
        process = _start(program, config, folder / "log")
        try:
            url = f"postgresql://{parts.username or 'postgres'}@127.0.0.1:{port}/{database}"
            await eventually(lambda: _answers(url, process, folder / "log"))
            yield url
        finally:
            process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(process.wait)
            shutil.rmtree(folder, ignore_errors=True)


def _start(program: str, config: Path, log_file: Path) -> subprocess.Popen[bytes]:
    as_user = ["-u", "nobody"] if os.geteuid() == 0 else []
    with log_file.open("wb") as log:
        return subprocess.Popen([program, *as_user, str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)


async def _answers(url: str, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text(encoding="utf-8", errors="replace")
    try:
        conn = await connect(url, pooled=True)
    except Exception as error:
        raise AssertionError(str(error)) from error
    try:
        return bool(await conn.fetchval("select true"))
    except asyncpg.PostgresError as error:
        raise AssertionError(str(error)) from error
    finally:
        await conn.close()
