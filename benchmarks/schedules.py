"""`python -m benchmarks.schedules`: what ten thousand schedules cost, and how soon a thousand of one second are enqueued.

README.md says what each number means and where it is weak.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import psutil

from benchmarks.machine import busy, line, machine
from benchmarks.server import SETTINGS, postgres

SCHEDULES = 10_000
AT_ONCE = 1_000
READY_S = 120.0
SETTLE_S = 10.0
IDLE_S = 60.0
BURST_S = 60.0
# Between two bursts: the jobs of the first have ended by then.
APART = timedelta(seconds=15)
LOAD_TARGET_S = 2.0
IDLE_TARGET = 3
BURST_TARGET_S = 1
ZONES = ("UTC", "Europe/London", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca")
HANDLERS = """
from ingestd import Context, job

@job("nothing")
async def nothing(ctx: Context) -> None:
    pass
"""


@dataclass
class Numbers:
    """What was measured, in seconds and in percent of a core."""

    empty: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)
    idle_daemon: float = 0.0
    idle_none: float = 0.0
    idle_server: float = 0.0
    enqueued: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)


def declared(count: int) -> str:
    """Schedules of all kinds, none of them due today: by minutes of days some months ahead, half of them by dates, half by weekdays."""
    month = datetime.now(UTC).month
    months = ",".join(str((month + ahead) % 12 + 1) for ahead in (2, 4, 6))
    lines = []
    for number in range(count):
        days = f"{number % 28 + 1} {months} *" if number % 2 else f"* {months} {number % 7}"
        lines.append(
            f'[schedules.s{number}]\ncron = "{number % 60} {number // 60 % 24} {days}"\n'
            f'timezone = "{ZONES[number % len(ZONES)]}"\njob = "nothing"\n'
        )
    return "".join(lines)


def due_at(moments: Sequence[datetime], count: int) -> str:
    """So many schedules for each moment."""
    return "".join(
        f'[schedules.b{place}_{number}]\nat = {moment.isoformat()}\njob = "nothing"\n'
        for place, moment in enumerate(moments)
        for number in range(count)
    )


class Site:
    """A database and the daemon on it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self._folder = folder
        self._log = folder / "daemon.log"
        (folder / "benchmarked.py").write_text(HANDLERS, encoding="utf-8")

    def configure(self, schedules: str) -> None:
        """Write the configuration."""
        own = f'[daemon]\nstate_dir = "{self._folder}/state"\nhandlers = ["benchmarked"]\n[admin]\nport = 0\n'
        text = own + f'[database]\nurl = "{self.url}"\n[logs]\nlevel = "warning"\n{schedules}'
        (self._folder / "config.toml").write_text(text, encoding="utf-8")

    async def migrate(self) -> None:
        """Bring the database up to date, so that no start pays for it."""
        process = await self._start("migrate", "-q")
        if await process.wait():
            raise RuntimeError(self._last_words())

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[tuple[psutil.Process, float]]:
        """Run the daemon; yields its process once it is ready, and the seconds that took."""
        conn = await asyncpg.connect(self.url)
        await conn.execute("delete from ingestd.node")
        began = time.monotonic()
        process = await self._start("run")
        try:
            while not await conn.fetchval("select exists (select from ingestd.node where state = 'running')"):
                if process.returncode is not None or time.monotonic() > began + READY_S:
                    raise RuntimeError(f"the daemon has not come up: {self._last_words()}")
                await asyncio.sleep(0.01)
            yield psutil.Process(process.pid), time.monotonic() - began
        finally:
            await conn.close()
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            await process.wait()

    async def bursts(self, daemon: psutil.Process, moments: Sequence[datetime], count: int) -> AsyncIterator[tuple[float, float]]:
        """By the database's clock: seconds from each moment until all its jobs are enqueued, and until all of them have ended."""
        conn = await asyncpg.connect(self.url)
        try:
            daemon.send_signal(signal.SIGHUP)
            await self._until(conn, "select $1 = (select count(*) from ingestd.schedule where name like 'b%')", count * len(moments))
            for moment in moments:
                enqueued = await self._seconds(conn, moment, "slot where due_at = $1 and state = 'fired'", count)
                yield enqueued, await self._seconds(conn, moment, "history where due_at = $1", count)
        finally:
            await conn.close()

    async def _seconds(self, conn: asyncpg.Connection, moment: datetime, rows: str, count: int) -> float:
        deadline = time.monotonic() + BURST_S + (moment - datetime.now(UTC)).total_seconds()
        ask = f"select extract(epoch from clock_timestamp() - $1), (select count(*) from ingestd.{rows})"
        while time.monotonic() < deadline:
            seconds, there = await conn.fetchrow(ask, moment)
            if there >= count:
                return float(seconds)
            await asyncio.sleep(0.5 if seconds < -1 else 0.01)
        raise RuntimeError(f"only {there} of {count} are there: {self._last_words()}")

    async def _until(self, conn: asyncpg.Connection, ask: str, *values: object) -> None:
        deadline = time.monotonic() + READY_S
        while not await conn.fetchval(ask, *values):
            if time.monotonic() > deadline:
                raise RuntimeError(f"this has not come true: {ask}: {self._last_words()}")
            await asyncio.sleep(0.05)

    async def _start(self, *words: str) -> asyncio.subprocess.Process:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("INGESTD_")}
        with self._log.open("ab") as output:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", "ingestd", "--config", str(self._folder / "config.toml"), *words,
                cwd=self._folder, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip

    def _last_words(self) -> str:
        return self._log.read_text(errors="replace")[-500:]


def cpu_s(processes: Sequence[psutil.Process]) -> float:
    """What these have used so far."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            used = process.cpu_times()
            total += used.user + used.system
    return total


async def idle(daemon: psutil.Process, url: str, seconds: float) -> tuple[float, float]:
    """Percent of a core that the daemon uses with nothing due, and that its server does."""
    await asyncio.sleep(SETTLE_S)
    conn = await asyncpg.connect(url)
    server = psutil.Process(await conn.fetchval("select pg_backend_pid()")).parent()
    await conn.close()
    assert server is not None
    ours, theirs = [daemon, *daemon.children(recursive=True)], [server, *server.children(recursive=True)]
    began, before = time.monotonic(), (cpu_s(ours), cpu_s(theirs))
    await asyncio.sleep(seconds)
    took = time.monotonic() - began
    return 100 * (cpu_s(ours) - before[0]) / took, 100 * (cpu_s(theirs) - before[1]) / took


async def measure(count: int, at_once: int, rounds: int, idle_s: float) -> tuple[Numbers, str]:
    """All of it; returns the numbers and the server's version."""
    found = Numbers()
    schedules = declared(count)
    with tempfile.TemporaryDirectory(prefix="ingestd-bench-schedules-") as name:
        async with postgres() as server:
            for number in range(rounds):
                site = Site(await server.create("bench"), Path(name))
                site.configure("")
                await site.migrate()
                async with site.daemon() as (daemon, took):
                    found.empty.append(took)
                    if number == 0:
                        say(f"idle without schedules, {idle_s:.0f} s")
                        found.idle_none, _ = await idle(daemon, site.url, idle_s)
                site.configure(schedules)
                async with site.daemon() as (_, took):
                    found.first.append(took)
                async with site.daemon() as (daemon, took):
                    found.again.append(took)
                    say(f"round {number + 1}: ready after {found.empty[-1]:.2f} s, {found.first[-1]:.2f} s, {took:.2f} s")
                    if number == rounds - 1:
                        say(f"idle with {count:,} schedules, {idle_s:.0f} s")
                        found.idle_daemon, found.idle_server = await idle(daemon, site.url, idle_s)
                        begin = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=20)
                        moments = [begin + APART * place for place in range(rounds)]
                        site.configure(schedules + due_at(moments, at_once))
                        async for enqueued, ended in site.bursts(daemon, moments, at_once):
                            say(f"{at_once:,} due at once: enqueued after {enqueued:.2f} s, ended after {ended:.2f} s")
                            found.enqueued.append(enqueued)
                            found.ended.append(ended)
            return found, server.version


def report(command: str, facts: dict[str, str], count: int, at_once: int, found: Numbers, version: str) -> str:
    """The table."""
    empty, first, again = (statistics.median(times) for times in (found.empty, found.first, found.again))
    within = f"{LOAD_TARGET_S:.0f} s"
    burst = max(found.enqueued)
    rows = [
        (f"{count:,} schedules, first start: longer than without any", f"{first - empty:.2f} s", within, first - empty < LOAD_TARGET_S),
        ("the same again: longer than without any", f"{again - empty:.2f} s", within, again - empty < LOAD_TARGET_S),
        ("a start without schedules", f"{empty:.2f} s", "", True),
        (
            f"CPU of the idle daemon with {count:,} schedules",
            f"{found.idle_daemon:.1f} %",
            f"{IDLE_TARGET} %",
            found.idle_daemon < IDLE_TARGET,
        ),
        ("CPU of the idle daemon without schedules", f"{found.idle_none:.1f} %", "", True),
        ("CPU of its server meanwhile", f"{found.idle_server:.1f} %", "", True),
        (f"{at_once:,} due in one second: until all jobs are enqueued", f"{burst:.2f} s", f"{BURST_TARGET_S} s", burst < BURST_TARGET_S),
        (f"until all of them have ended, the longest of {len(found.ended)}", f"{max(found.ended):.2f} s", "", True),
    ]
    head = f"`{command}`\n\n{line(facts)}; Postgres {version}\n\n| | measured | target | |\n|---|---|---|---|\n"
    verdicts = {True: "kept", False: "**missed**"}
    return head + "".join(f"| {what} | {value} | {target} | {verdicts[kept] if target else ''} |\n" for what, value, target, kept in rows)


def say(text: str) -> None:
    """Progress, beside the result."""
    print(text, file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    """The whole run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.schedules", description="Measure what schedules cost.")
    parser.add_argument("--schedules", type=int, default=SCHEDULES, help=f"how many are declared (default: {SCHEDULES})")
    parser.add_argument("--rounds", type=int, default=3, help="starts, and bursts (default: 3)")
    parser.add_argument("--idle", type=float, default=IDLE_S, help=f"seconds of each look at an idle daemon (default: {IDLE_S:.0f})")
    parser.add_argument("--smoke", action="store_true", help="only show that everything works, in about a minute")
    parser.add_argument("--json", type=Path, help="write everything there too")
    parser.add_argument("--markdown", type=Path, help="write the table there too")
    asked = parser.parse_args(arguments)
    at_once = AT_ONCE
    if asked.smoke:
        asked.schedules, asked.rounds, asked.idle, at_once = 500, 1, 3.0, 100
    if asked.schedules < 1 or asked.rounds < 1 or asked.idle <= 0:
        parser.error("--schedules, --rounds and --idle must be positive")
    if warning := busy():
        say(f"warning: {warning}")
    facts = machine()
    command = " ".join(["python -m benchmarks.schedules", *arguments])
    try:
        found, version = asyncio.run(measure(asked.schedules, at_once, asked.rounds, asked.idle))
    except RuntimeError as error:
        say(f"failed: {error}")
        return 1
    text = report(command, facts, asked.schedules, at_once, found, version)
    print(text)
    if asked.markdown:
        asked.markdown.write_text(text, encoding="utf-8")
    if asked.json:
        document = {"command": command, "machine": facts, "postgres": version, "settings": SETTINGS, "numbers": asdict(found)}
        asked.json.write_text(json.dumps(document, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
