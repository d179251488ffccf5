"""How fast the queue is here: this machine, this Postgres.

Every number is counted from outside: an enqueue when its commit is answered, a drained job when its fenced acknowledgement is
committed and its history written, a pick-up at the first line of the job. The floor is what the same server does with plain
transactions of one row each, so that the other numbers can be judged.

Weakness: client, worker and, if it runs here, the server share this machine's cores; jobs do nothing.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import asyncpg

from ingestd.errors import IngestdError
from ingestd.jobs.client import Client
from ingestd.lab import store
from ingestd.lab.worker import READY, SLOTS, STATE_DIR, URL
from ingestd.postgres.session import connect

BATCH = 1000
FLOOR_SESSIONS = 8
WARM_PINGS = 20
PING_GAP_S = 0.02
LOOK_S = 0.005
START_S = 60.0
DRAIN_S = 600.0
PINGS_S = 60.0
STOP_S = 15.0

Report = Callable[[str], None]


class NotMeasured(IngestdError):
    """A part of the measurement did not come to its end."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Args:
        jobs: enqueued many at a time.
        seconds: each measurement by time takes so long.
        callers: tasks that enqueue one job at a time, all at once.
        slots: jobs that the worker runs at the same time.
        pings: jobs whose pick-up is measured.
    """

    jobs: int = 20_000
    seconds: float = 3.0
    callers: int = 64
    slots: int = 200
    pings: int = 200


@dataclass(frozen=True, slots=True)
class Timed:
    """Something that was done again and again.

    Args:
        per_s: how often in a second.
        p50_ms: how long one took, in the middle …
        p99_ms: … and nearly at worst.
    """

    per_s: float
    p50_ms: float
    p99_ms: float


async def measure(url: str, plan: Plan, report: Report) -> dict[str, Any]:
    """Measure everything, in a database whose queue `ingestd_bench` is ours alone.

    Args:
        url: of a migrated database.
        report: told in a few words what is going on.

    Raises:
        NotMeasured: a worker ended, or took far too long.
    """
    conn = await connect(url, application_name="ingestd:bench")
    try:
        await store.add_queue(conn, plan.slots)
        found: dict[str, Any] = {"server": await store.server(conn), "machine": machine(), "plan": asdict(plan)}
        report("plain transactions")
        found["floor"] = await _floor(url, conn, plan)
        report("enqueues")
        found |= await _enqueues(url, plan)
        await store.settle(conn)
        report("drain")
        async with _worker(url, plan):
            jobs, seconds = plan.jobs + found["enqueue_one"]["count"] + found["enqueue_callers"]["count"], await _drained(conn)
            found["drain"] = {"jobs": jobs, "seconds": seconds, "per_s": jobs / seconds}
            report("pick-up")
            found["pickup"] = await _pickup(url, conn, plan)
        return found | {"ratios": ratios(found)}
    finally:
        await conn.close(timeout=5)


def ratios(found: dict[str, Any]) -> dict[str, float]:
    """The queue against the floor: jobs for each plain transaction that one session, or several, would have got through."""
    one, several = found["floor"]["one"]["per_s"], found["floor"]["several"]["per_s"]
    return {
        "enqueue_many_per_transaction": found["enqueue_many"]["per_s"] / several,
        "drain_per_transaction": found["drain"]["per_s"] / several,
        "pickup_in_transactions": found["pickup"]["p50_ms"] * one / 1000,
    }


def machine() -> dict[str, Any]:
    """Where this runs, and how busy it was before."""
    return {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2), "python": sys.version.split()[0]}


def timed(took_s: Sequence[float], seconds: float) -> Timed:
    """Rate and percentiles of what took so long each."""
    ordered = sorted(took_s)
    if not ordered:
        raise NotMeasured("nothing was finished in the time given", hint="give it more --seconds")
    return Timed(len(ordered) / seconds, _at(ordered, 0.5) * 1000, _at(ordered, 0.99) * 1000)


def _at(ordered: Sequence[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


async def _repeat(once: Sequence[Callable[[], Awaitable[Any]]], seconds: float) -> tuple[list[float], float]:
    """Do these side by side, each again and again; how long each took, and how long all of it."""
    took: list[float] = []
    began = time.perf_counter()

    async def loop(work: Callable[[], Awaitable[Any]]) -> None:
        while (now := time.perf_counter()) - began < seconds:
            await work()
            took.append(time.perf_counter() - now)

    await asyncio.gather(*(loop(work) for work in once))
    return took, time.perf_counter() - began


async def _floor(url: str, conn: asyncpg.Connection, plan: Plan) -> dict[str, Any]:
    await store.make_floor(conn)
    sessions = [await connect(url, application_name="ingestd:bench") for _ in range(FLOOR_SESSIONS)]
    try:
        one = timed(*await _repeat([lambda: store.touch_floor(sessions[0])], plan.seconds))
        several = timed(*await _repeat([_touch(session) for session in sessions], plan.seconds))
    finally:
        for session in sessions:
            await session.close(timeout=5)
    # a row that comes and goes is two transactions
    return {
        "one": {"per_s": one.per_s * 2, "p50_ms": one.p50_ms / 2, "p99_ms": one.p99_ms / 2},
        "several": {"per_s": several.per_s * 2, "sessions": FLOOR_SESSIONS},
    }


def _touch(session: asyncpg.Connection) -> Callable[[], Awaitable[None]]:
    return lambda: store.touch_floor(session)


async def _enqueues(url: str, plan: Plan) -> dict[str, Any]:
    noop = store.KINDS[0]
    async with Client(url) as client:

        async def single() -> None:
            await client.enqueue(noop, queue=store.QUEUE, allow_unknown=True)

        began, left = time.perf_counter(), plan.jobs
        while left > 0:
            count = min(left, BATCH)
            await client.enqueue_many(noop, [{}] * count, queue=store.QUEUE, allow_unknown=True)
            left -= count
        many_s = time.perf_counter() - began
        one_took, one_s = await _repeat([single], plan.seconds)
        all_took, all_s = await _repeat([single] * plan.callers, plan.seconds)
    return {
        "enqueue_many": {"jobs": plan.jobs, "seconds": many_s, "per_s": plan.jobs / many_s},
        "enqueue_one": asdict(timed(one_took, one_s)) | {"count": len(one_took)},
        "enqueue_callers": asdict(timed(all_took, all_s)) | {"count": len(all_took), "callers": plan.callers},
    }


async def _drained(conn: asyncpg.Connection) -> float:
    """Seconds from the start of the first job until no job is left open."""
    deadline = time.monotonic() + DRAIN_S
    while await store.anything_open(conn):
        if time.monotonic() > deadline:
            raise NotMeasured(f"jobs are left after {DRAIN_S:.0f} s", hint="measure fewer --jobs")
        await asyncio.sleep(LOOK_S)
    # the worker's clock is this machine's, as is ours
    return max(time.time() - await store.first_start(conn), 1e-3)


async def _pickup(url: str, conn: asyncpg.Connection, plan: Plan) -> dict[str, Any]:
    async with Client(url) as client:
        for _ in range(WARM_PINGS + plan.pings):
            await client.enqueue(store.KINDS[1], {"sent_ns": time.monotonic_ns()}, queue=store.QUEUE, allow_unknown=True)
            await asyncio.sleep(PING_GAP_S)
    deadline = time.monotonic() + PINGS_S
    while len(found := await store.pings(conn)) < WARM_PINGS + plan.pings:
        if time.monotonic() > deadline:
            raise NotMeasured(f"only {len(found)} of {WARM_PINGS + plan.pings} jobs were picked up within {PINGS_S:.0f} s")
        await asyncio.sleep(LOOK_S)
    took = timed([one / 1e9 for one in found[WARM_PINGS:]], 1.0)
    return {"p50_ms": took.p50_ms, "p99_ms": took.p99_ms, "jobs": plan.pings}


@asynccontextmanager
async def _worker(url: str, plan: Plan) -> AsyncIterator[None]:
    """A worker in a process of its own, from ready to drained."""
    with tempfile.TemporaryDirectory(prefix="ingestd-bench-") as folder:
        environ = {**os.environ, URL: url, STATE_DIR: folder, SLOTS: str(plan.slots)}
        log = Path(folder) / "worker.log"
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "ingestd.lab.worker"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env=environ,
            )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(START_S):
                if await process.stdout.readline() != READY:
                    said = (await asyncio.to_thread(log.read_text, errors="replace")).strip()[-500:]
                    raise NotMeasured(f"the worker did not start: {said or process.returncode}")
            yield
        finally:
            process.stdin.close()
            try:
                async with asyncio.timeout(STOP_S):
                    await process.wait()
            except TimeoutError:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
