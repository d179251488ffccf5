"""ingestd: `Client` on the one side, `ingestd run` on the other, configured as any user would.

Only what users have is used: the client, the command line and the configuration.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
from driver import Driver, Side

from ingestd import Client

POOL = 8
START_S = 60.0


def environment(url: str, state: Path) -> dict[str, str]:
    """Configuration of a daemon that only works, for the jobs beside this file."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("INGESTD_")}
    return inherited | {
        "INGESTD_DATABASE__URL": url,
        "INGESTD_DAEMON__STATE_DIR": str(state),
        "INGESTD_DAEMON__HANDLERS": '["bench_jobs"]',
        "INGESTD_DAEMON__DUTIES": '["work"]',
        "INGESTD_QUEUES__DEFAULT__CONCURRENCY": os.environ.get("BENCH_CONCURRENCY", "200"),
        "INGESTD_LOGS__LEVEL": "warning",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH")))),
    }


class Ours(Side):
    """`Client`, shared by all tasks of the process."""

    apart: asyncpg.Pool | None = None

    async def connect(self, url: str, clients: int) -> None:
        self.url = url
        self.client = await Client(url).__aenter__()

    async def setup(self) -> None:
        """Migrate, and let a daemon publish its kinds once."""
        with tempfile.TemporaryDirectory(prefix="ingestd-bench-") as folder:
            environ = environment(self.url, Path(folder))
            await asyncio.to_thread(_ingestd, environ, "migrate")
            daemon = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "ingestd", "run", env=environ, stdin=subprocess.DEVNULL, stdout=sys.stderr
            )
            try:
                await self._until_published(daemon)
            finally:
                daemon.send_signal(signal.SIGTERM)
                await asyncio.wait_for(daemon.wait(), 30)

    async def many(self, count: int) -> None:
        await self.client.enqueue_many("noop", [{}] * count)

    async def one(self) -> None:
        if self.apart is None:
            await self.client.enqueue("noop")
            return
        async with self.apart.acquire() as conn:
            await self.client.enqueue("noop", conn=conn)

    async def ping(self, sent_ns: int, urgent: bool) -> None:
        await self.client.enqueue("ping", {"sent_ns": sent_ns}, priority=10 if urgent else None)

    async def templates(self) -> None:
        await self.client.enqueue("filler", priority=-10)
        await self.client.enqueue("filler", run_at=datetime.now(UTC) + timedelta(days=1))

    async def close(self) -> None:
        await self.client.__aexit__(None, None, None)

    async def pinger(self, count: int, gap_s: float) -> None:
        """Have the daemon itself enqueue pings."""
        await self.client.enqueue("pinger", {"count": count, "gap_s": gap_s})

    async def _until_published(self, daemon: asyncio.subprocess.Process) -> None:
        conn = await asyncpg.connect(self.url)
        deadline = time.monotonic() + START_S
        try:
            while not await conn.fetchval("select exists (select from ingestd.kind where name = 'pinger')"):
                if daemon.returncode is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the daemon has not come up: {daemon.returncode}")
                await asyncio.sleep(0.05)
        finally:
            await conn.close()


class OursDriver(Driver):
    """Two more verbs: enqueueing from inside the daemon, and on connections of one's own, which nothing is joined on."""

    _side: Ours

    async def _inside(self, count: int, gap_s: float) -> dict[str, Any]:
        await self._side.pinger(count, gap_s)
        return {}

    async def _apart(self, clients: int, seconds: float) -> dict[str, Any]:
        async with asyncpg.create_pool(self._side.url, min_size=POOL, max_size=POOL) as pool:
            self._side.apart = pool
            try:
                return await self._single(clients, seconds)
            finally:
                self._side.apart = None


def _ingestd(environ: dict[str, str], *words: str) -> None:
    command = [sys.executable, "-m", "ingestd", *words]
    done = subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ingestd {' '.join(words)} ended with {done.returncode}: {done.stderr.strip()[-500:]}")


def main() -> None:
    """Be the driver, or become the daemon."""
    if sys.argv[1] == "work":
        state = Path(os.environ["BENCH_METER"]) / f"state-{os.getpid()}"
        state.mkdir()
        os.execve(sys.executable, [sys.executable, "-m", "ingestd", "run"], environment(os.environ["BENCH_URL"], state))
    with suppress(ImportError):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(OursDriver(Ours()).run())


if __name__ == "__main__":
    main()
