"""What is measured, the same way for every system. README.md says what each number means and where it is weak."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from benchmarks.queues.drive import Driver, Failed, Workers, driver, slug, workers
from benchmarks.queues.floor import measure_floor
from benchmarks.queues.systems import System
from benchmarks.server import Server, empty_redis
from benchmarks.setup import Installed

Numbers = dict[str, float]

DRAIN_LIMIT_S = 240.0
LOOK_S = 0.005
CLIENTS = 64
FILLER = 1_000_000
DEEP_DRAIN = 20_000
IDLE_OPEN = 100_000
WARM_PINGS = 20
PINGS = 300
PING_GAP_S = 0.02
URGENT = 20
URGENT_GAP_S = 0.05
FIRST_PING_S = 60.0

# Every column but the id, those that are made by the server, and the row's triggers: they would send a million messages.
COPYABLE = """
select string_agg(quote_ident(attname), ', ' order by attnum) from pg_attribute a
left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
where a.attrelid = $1::regclass and attnum > 0 and not attisdropped and attidentity = '' and attgenerated = ''
  and coalesce(pg_get_expr(d.adbin, d.adrelid), '') not like 'nextval(%'"""


@dataclass
class Bench:
    """One system in one run.

    Args:
        scale: of the numbers of jobs and seconds.
        templates: databases of it that others are copied from, by what stands in them.
    """

    system: System
    installed: Installed | None
    server: Server
    redis_url: str | None
    folder: Path
    scale: float
    templates: dict[str, str] = field(default_factory=dict)
    drives: Driver | None = None

    @property
    def jobs(self) -> int:
        """How many are enqueued and drained."""
        return max(100, int(self.system.jobs * self.scale))

    def scaled(self, count: float, least: float) -> float:
        """A number at this run's scale."""
        return max(least, count * min(1.0, self.scale))

    @asynccontextmanager
    async def place(self, what: str = "empty") -> AsyncIterator[tuple[str, Driver]]:
        """A fresh database (or an emptied Redis) and the driver of this round. Yields its URL too."""
        assert self.drives is not None
        if self.system.on_redis:
            assert self.redis_url is not None
            empty_redis(self.redis_url)
            yield self.redis_url, self.drives
            return
        url = await self.server.create("bench", await self._template(what), small=what == "empty")
        try:
            yield url, self.drives
        finally:
            await self.drives.ask("close")
            await self.server.drop("bench")

    @asynccontextmanager
    async def round(self) -> AsyncIterator[None]:
        """One driver for all workloads of a round."""
        url = self.redis_url if self.system.on_redis else self.server.url
        async with driver(self.system, self.installed, url or "", self.folder) as self.drives:
            yield
        self.drives = None

    def work(self, url: str, *, expect: int = 0, count: int = 1) -> contextlib.AbstractContextManager[Workers]:
        """Workers on a database."""
        return workers(self.system, self.installed, url, self.folder, expect=expect, count=count)

    async def _template(self, what: str) -> str:
        if what not in self.templates:
            name = f"template_{what}_{slug(self.system)}"
            await self._make_template(what, name)
            self.templates[what] = name
        return self.templates[what]

    async def _make_template(self, what: str, name: str) -> None:
        assert self.drives is not None
        url = await self.server.create(name, await self._template("empty") if what != "empty" else "template0", small=True)
        await self.drives.ask("setup" if what == "empty" else "templates", url=url)
        await self.drives.ask("close")
        if what == "empty":
            return
        conn = await asyncpg.connect(url)
        try:
            if what == "deep":
                half = int(self.scaled(FILLER, 2000)) // 2
                await multiply(conn, self.system.table, [half, half])
            else:
                await multiply(conn, self.system.table, [1, int(self.scaled(IDLE_OPEN, 100))])
            await conn.execute("vacuum analyze", timeout=600)
        finally:
            await conn.close()


async def multiply(conn: asyncpg.Connection, table: str, counts: list[int]) -> None:
    """Copy the first rows of a table, each so many times."""
    columns = await conn.fetchval(COPYABLE, table)
    ids = [row["id"] for row in await conn.fetch(f"select id from {table} order by id")]
    await conn.execute("set session_replication_role = replica")
    for row_id, count in zip(ids, counts, strict=True):
        await conn.execute(
            f"insert into {table} ({columns}) select {columns} from {table}, generate_series(2, $2::integer) where id = $1",
            row_id,
            count,
            timeout=900,
        )


async def drain(bench: Bench, url: str, expected: int, *, count: int = 1, during: Callable[[], Awaitable[Any]] | None = None) -> Numbers:
    """Start workers and time from the first job function to the moment at which no open job is left.

    Args:
        expected: how many counted jobs there are.
        count: worker processes.
        during: begun with the first job; it sends `URGENT` pings.

    Returns:
        `rate` to the last acknowledgement, `last_rate` to the start of the last function; a drain that takes longer than
        the limit is cut off and its rate is of what was done until then (`cut` is 1).
    """
    look = await asyncpg.connect(url) if not bench.system.on_redis else None
    still_open = f"select exists (select from {bench.system.table} where {bench.system.open_rows})"
    other: asyncio.Future[Any] | None = None
    try:
        with bench.work(url, expect=expected, count=count) as working:
            deadline = time.monotonic() + DRAIN_LIMIT_S
            while (found := working.counts())[2] < expected and time.monotonic() < deadline:
                if found[2] and during is not None and other is None:
                    other = asyncio.ensure_future(during())
                await asyncio.sleep(LOOK_S)
            first, last, done = found
            cut = done < expected
            while look is not None and not cut and await look.fetchval(still_open):
                if time.monotonic() > deadline:
                    raise Failed(f"{done} jobs ran, but some are still open")
                await asyncio.sleep(LOOK_S / 5)
            end = last if look is None and not cut else time.monotonic_ns()
            numbers = {"rate": done / ((end - first) / 1e9), "last_rate": done / (max(last - first, 1) / 1e9), "cut": float(cut)}
            if other is not None:
                await other
                numbers |= latency(await until_pinged(working, URGENT), "urgent_")
            return numbers
    finally:
        if other is not None:
            await asyncio.wait([other])
        if look is not None:
            await look.close()


def latency(took_ns: list[int], prefix: str = "") -> Numbers:
    """Percentiles in ms."""
    if not took_ns:
        raise Failed("no ping came back")
    ordered = sorted(took_ns)
    return {
        f"{prefix}p50": ordered[len(ordered) // 2] / 1e6,
        f"{prefix}p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] / 1e6,
    }


async def settle(bench: Bench) -> None:
    """What a server would have done by itself by and by: statistics that fit, nothing left to write."""
    if not bench.system.on_redis:
        await bench.server.run("vacuum analyze", "checkpoint", database="bench")


async def bulk_and_drain(bench: Bench) -> dict[str, Numbers]:
    """W1: enqueue many, 1,000 a call. W2: drain them with one worker process."""
    async with bench.place() as (url, drives):
        took = await drives.ask("many", url=url, count=bench.jobs)
        await drives.ask("close")
        await settle(bench)
        found = {"W1": {"rate": bench.jobs / took["seconds"]}}
        return found | {"W2": await drain(bench, url, bench.jobs)}


async def several(bench: Bench, count: int) -> dict[str, Numbers]:
    """W2 with several worker processes."""
    async with bench.place() as (url, drives):
        await drives.ask("many", url=url, count=bench.jobs)
        await drives.ask("close")
        await settle(bench)
        return {f"W2x{count}": await drain(bench, url, bench.jobs, count=count)}


async def pick_up(bench: Bench) -> dict[str, Numbers]:
    """W3: from just before the enqueue to the first line of the job, on an idle worker, one at a time."""
    count = int(bench.scaled(PINGS, 20))
    async with bench.place() as (url, drives):
        with bench.work(url) as working:
            await drives.ask("pings", url=url, count=WARM_PINGS, gap_s=PING_GAP_S)
            seen = WARM_PINGS
            await until_pinged(working, seen)
            await drives.ask("pings", url=url, count=count, gap_s=PING_GAP_S)
            found = {"W3": latency((await until_pinged(working, seen + count))[seen:])}
            if "W3in" in bench.system.workloads:
                seen += count
                await drives.ask("inside", url=url, count=count, gap_s=PING_GAP_S)
                found["W3in"] = latency((await until_pinged(working, seen + count))[seen:])
            return found


async def until_pinged(working: Workers, count: int) -> list[int]:
    """Wait until so many pings have come back; returns them in order."""
    deadline = time.monotonic() + FIRST_PING_S
    while len(found := working.pings()) < count:
        working.counts()
        if time.monotonic() > deadline:
            raise Failed(f"only {len(found)} of {count} pings came back within {FIRST_PING_S:.0f} s")
        await asyncio.sleep(0.05)
    return found


async def single(bench: Bench) -> dict[str, Numbers]:
    """W4: enqueue one by one, by one client and by many at once, with no worker running."""
    seconds = bench.scaled(4.0, 0.3)
    found: dict[str, Numbers] = {}
    async with bench.place() as (url, drives):
        one = await drives.ask("single", url=url, clients=1, seconds=seconds)
        many = await drives.ask("single", url=url, clients=CLIENTS, seconds=seconds)
        found["W4"] = {"rate": one["count"] / one["seconds"], "many_rate": many["count"] / many["seconds"]}
        found["W4"] |= latency(one["took"])
        found["W4"] |= latency(many["took"], "many_")
        if "W4apart" in bench.system.workloads:
            apart = await drives.ask("apart", url=url, clients=CLIENTS, seconds=seconds)
            found["W4apart"] = {"many_rate": apart["count"] / apart["seconds"]}
            found["W4apart"] |= latency(apart["took"], "many_")
    return found


async def deep(bench: Bench) -> dict[str, Numbers]:
    """W5: drain jobs of normal priority while a million wait: half behind them, half due tomorrow."""
    count = max(100, min(bench.jobs, int(DEEP_DRAIN * bench.scale)))
    async with bench.place("deep") as (url, drives):
        await drives.ask("many", url=url, count=count)
        await drives.ask("close")
        await settle(bench)
        # The fillers are never all done, so this one ends with the last counted function, not with its acknowledgement.
        with bench.work(url, expect=count) as working:
            deadline = time.monotonic() + DRAIN_LIMIT_S
            while (found := working.counts())[2] < count and time.monotonic() < deadline:
                await asyncio.sleep(LOOK_S)
            first, last, done = found
            end = last if done >= count else time.monotonic_ns()
        return {"W5": {"rate": done / (max(end - first, 1) / 1e9), "cut": float(done < count)}}


async def long_transaction(bench: Bench) -> dict[str, Numbers]:
    """LT: drain while a REPEATABLE READ transaction is held open; where priorities are measured, urgent jobs come between."""
    async with bench.place() as (url, drives):
        await drives.ask("many", url=url, count=bench.jobs)
        await drives.ask("close")
        await settle(bench)
        holder = await asyncpg.connect(url)
        try:
            await holder.execute("begin isolation level repeatable read")
            await holder.fetchval("select count(*) from pg_class")
            urgent = partial(drives.ask, "pings", url=url, count=URGENT, gap_s=URGENT_GAP_S, urgent=True)
            numbers = await drain(bench, url, bench.jobs, during=urgent if "urgent" in bench.system.workloads else None)
            await holder.execute("rollback")
        finally:
            await holder.close()
        return {"LT": numbers}


async def idle(bench: Bench) -> dict[str, Numbers]:
    """What a worker costs that has nothing to do while 100,000 jobs wait for tomorrow."""
    seconds = bench.scaled(10.0, 1.0)
    async with bench.place("waiting" if not bench.system.on_redis else "empty") as (url, drives):
        with bench.work(url) as working:
            await drives.ask("pings", url=url, count=3, gap_s=PING_GAP_S)
            await until_pinged(working, 3)
            await asyncio.sleep(bench.scaled(3.0, 0.5))
            before, began = _cpu_s(working), time.monotonic()
            await asyncio.sleep(seconds)
            used = _cpu_s(working) - before
            return {"idle": {"cpu": 100 * used / (time.monotonic() - began), "pss": _pss_mb(working)}}


async def floor(bench: Bench) -> dict[str, Numbers]:
    """The same work by pgbench alone: claim and acknowledge inside the server."""
    async with bench.place() as (url, drives):
        await drives.ask("many", url=url, count=bench.jobs)
        await drives.ask("close")
        await settle(bench)
        return {"floor": {"rate": await measure_floor(url, bench.jobs)}}


Workload = Callable[[Bench], Awaitable[dict[str, Numbers]]]

# In the order of a round; each makes the numbers of the names before it.
WORKLOADS: tuple[tuple[frozenset[str], Workload], ...] = (
    (frozenset({"W1", "W2"}), bulk_and_drain),
    (frozenset({"floor"}), floor),
    (frozenset({"W2x2"}), lambda bench: several(bench, 2)),
    (frozenset({"W2x4"}), lambda bench: several(bench, 4)),
    (frozenset({"W3", "W3in"}), pick_up),
    (frozenset({"W4", "W4apart"}), single),
    (frozenset({"W5"}), deep),
    (frozenset({"LT"}), long_transaction),
    (frozenset({"idle"}), idle),
)


def _cpu_s(working: Workers) -> float:
    total = 0.0
    for process in working.tree():
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _pss_mb(working: Workers) -> float:
    total = 0
    for process in working.tree():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            total += process.memory_full_info().pss
    return total / 1e6
