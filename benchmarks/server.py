"""The throw-away servers that everything is measured on: one Postgres 18 for ours and all peers, and one Redis."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from ingestd.postgres.embedded import EmbeddedPostgres, EmbeddedSettings, psql_path

# Nobody's durability is traded for speed; what differs from the defaults of Postgres is memory and log space.
SETTINGS = {
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "max_connections": "300",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "jit": "off",
}
REDIS_START_S = 10.0


class Server:
    """A running Postgres.

    Args:
        url: of a database of it, on a Unix socket.
        version: as it says itself.
    """

    def __init__(self, url: str, version: str) -> None:
        self.url = url
        self.version = version

    def database(self, name: str) -> str:
        """URL of another database of it."""
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))

    async def run(self, *statements: str, database: str | None = None, timeout_s: float = 900.0) -> None:
        """Run statements one by one, each in a transaction of its own."""
        conn = await asyncpg.connect(self.database(database) if database else self.url)
        try:
            for statement in statements:
                await conn.execute(statement, timeout=timeout_s)
        finally:
            await conn.close()

    async def create(self, name: str, template: str = "template0", *, small: bool = True) -> str:
        """A fresh database, copied from a template; whatever bore its name is gone. Returns its URL."""
        await self.drop(name)
        await self.run(f'create database "{name}" template "{template}" strategy {"wal_log" if small else "file_copy"}')
        return self.database(name)

    async def drop(self, name: str) -> None:
        """Drop a database and whoever is connected to it."""
        await self.run(f'drop database if exists "{name}" with (force)')


@asynccontextmanager
async def postgres(**more: str) -> AsyncIterator[Server]:
    """A Postgres 18 of our own in a temporary folder, gone afterwards with all its data; `more` are further settings."""
    # Not below a private folder: where we are root the server runs as another user, who must be able to pass through.
    folder = _passable_folder()
    embedded = EmbeddedPostgres(EmbeddedSettings(folder / "postgres", version=18), system_dir=folder / "system")
    try:
        url = await embedded.acquire()
        conn = await asyncpg.connect(url)
        for name, value in (SETTINGS | more).items():
            await conn.execute(f"alter system set {name} = '{value}'")
        await conn.close()
        await embedded.release()
        url = await embedded.acquire()
        conn = await asyncpg.connect(url)
        version = str(await conn.fetchval("show server_version"))
        await conn.close()
        yield Server(url, version)
    finally:
        await embedded.release()
        shutil.rmtree(folder, ignore_errors=True)


def _passable_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="ingestd-bench-"))
    folder.chmod(0o711)
    return folder


def program(name: str) -> Path | None:
    """One of Postgres's client programs: the bundled one, else the one on PATH."""
    bundled = psql_path(18).with_name(name)
    if bundled.is_file():
        return bundled
    found = shutil.which(name)
    return Path(found) if found else None


def redis_program() -> str | None:
    """Where redis-server is."""
    return shutil.which("redis-server") or shutil.which("redis-server", path="/usr/bin:/usr/local/bin")


def redis_version() -> str | None:
    """Its version, or None where it is not installed."""
    found = redis_program()
    if found is None:
        return None
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False, timeout=10).stdout
    return next((word.removeprefix("v=") for word in said.split() if word.startswith("v=")), said.strip())


@contextmanager
def redis() -> Iterator[str | None]:
    """A Redis on a free loopback port, writing nothing to disk; None where it is not installed. Yields its URL."""
    found = redis_program()
    if found is None:
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="ingestd-bench-redis-") as folder:
        process = subprocess.Popen(
            [found, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", folder],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _until_listening(port)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            process.wait(timeout=10)


def empty_redis(url: str) -> None:
    """Forget everything in it."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=10) as connection:
        connection.sendall(b"FLUSHALL\r\n")
        connection.recv(64)


def _until_listening(port: int) -> None:
    deadline = time.monotonic() + REDIS_START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
