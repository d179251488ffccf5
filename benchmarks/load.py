"""`python -m benchmarks.load`: imports by a running daemon against psql's \\copy of the clean file into the same table.

README.md says what each number means and where it is weak.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from benchmarks.machine import busy, line, machine
from benchmarks.server import SETTINGS, Server, postgres, program

ROWS = 1_000_000
COMMAND_S = 900.0
READY_S = 60.0
SAMPLE_S = 0.1

COLUMNS = """
    id bigint primary key, customer integer not null, amount numeric(12,2) not null, quantity smallint not null,
    read_at timestamptz not null, day date not null, label varchar(60) not null, active boolean not null"""
HEADER = "id,customer,amount,quantity,read_at,day,label,active\n"
TOOK = """
select extract(epoch from pg_xact_commit_timestamp(xmin) - started_at) from ingestd.history
where kind = 'load' order by id desc limit 1"""
TABLES = ("by_copy", "by_append", "by_upsert")


@dataclass(frozen=True)
class Case:
    """One thing to load.

    Args:
        name: its key in JSON.
        says: its line in the table.
        import_name: which import.
        file: which file: clean, bad or changed.
        filled: whether the table holds the clean file already.
        promised: at most so many times \\copy's time.
    """

    name: str
    says: str
    import_name: str
    file: str
    filled: bool
    promised: float


CASES = (
    Case("append", "append", "append", "clean", False, 1.1),
    Case("append_bad", "append, 1 % bad rows kept as rejects", "append", "bad", False, 1.2),
    Case("upsert_empty", "upsert into an empty table", "upsert", "clean", False, 1.6),
    Case("upsert_again", "upsert again with 1 % changed", "upsert", "changed", True, 1.4),
    Case("upsert_bad", "upsert into an empty table, 1 % bad rows", "upsert", "bad", False, 2.0),
)


@dataclass
class Times:
    """What one case took, a value each round.

    Args:
        load: seconds from the start of the load to its commit, the one as the daemon says, the other as Postgres does.
        command: seconds of the whole command: start of the program, copy into the spool, load, answer.
        memory: MB at most, of the daemon and its children (PSS).
    """

    load: list[float] = field(default_factory=list)
    command: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


def write_files(folder: Path, rows: int) -> dict[str, Path]:
    """The clean file, one with 1 % bad rows (four kinds in turn), one with 1 % of the values changed."""
    files = {name: folder / f"{name}.csv" for name in ("clean", "bad", "changed")}
    source = random.Random(7)
    began = datetime(2026, 1, 1, tzinfo=UTC)
    with contextlib.ExitStack() as stack:
        clean, bad, changed = (stack.enter_context(path.open("w", encoding="utf-8")) for path in files.values())
        for file in (clean, bad, changed):
            file.write(HEADER)
        for number in range(1, rows + 1):
            cells = [
                str(number),
                str(source.randrange(1_000_000)),
                f"{source.randrange(10_000_000) / 100:.2f}",
                str(source.randrange(1000)),
                (began + timedelta(seconds=number)).strftime("%Y-%m-%dT%H:%M:%SZ"),
                (date(2020, 1, 1) + timedelta(days=source.randrange(2000))).isoformat(),
                f"row {number} of a file, {source.getrandbits(64):016x}".replace(",", " -"),
                "true" if source.random() < 0.5 else "false",
            ]
            text = ",".join(cells) + "\n"
            clean.write(text)
            if number % 100:
                bad.write(text)
                changed.write(text)
            else:
                bad.write(_spoilt(cells, number // 100 % 4))
                cells[2] = "1.23" if cells[2] != "1.23" else "4.56"
                changed.write(",".join(cells) + "\n")
    return files


def _spoilt(cells: list[str], kind: int) -> str:
    """A row that does not load: a word for a number, the 30th of February, too long a text, a missing cell."""
    cells = list(cells)
    if kind == 0:
        cells[1] = "twelve"
    elif kind == 1:
        cells[5] = "2026-02-30"
    elif kind == 2:
        cells[6] = "x" * 80
    else:
        cells.pop()
    return ",".join(cells) + "\n"


class Memory:
    """Watches what a process and its children hold, in a thread of its own."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._stop = threading.Event()
        self.peak_mb = 0.0

    @contextmanager
    def watched(self) -> Iterator[Memory]:
        """Watch while the block runs."""
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            total = 0
            with contextlib.suppress(psutil.Error):
                for process in (self._process, *self._process.children(recursive=True)):
                    with contextlib.suppress(psutil.Error):
                        total += process.memory_full_info().pss
            self.peak_mb = max(self.peak_mb, total / 1e6)


class Site:
    """A database, a configuration and the daemon on it."""

    def __init__(self, server: Server, url: str, folder: Path, rows: int) -> None:
        self._server = server
        self._url = url
        self._folder = folder
        self._rows = rows
        self._config = folder / "config.toml"
        self._config.write_text(
            f"""
[daemon]
state_dir = "{folder}/state"
duties = ["work"]
[database]
url = "{url}"
[imports.append]
source = "upload"
table = "public.by_append"
[imports.upsert]
source = "upload"
table = "public.by_upsert"
mode = "upsert"
key = ["id"]
[logs]
level = "warning"
""",
            encoding="utf-8",
        )

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[int]:
        """Run the daemon; yields its process id once it is at work."""
        await self._ingestd("migrate")
        log = self._folder / "daemon.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "ingestd", "--config", str(self._config), "run",
                env=_environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        try:
            await self._until_ready(process, log)
            yield process.pid
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            await process.wait()

    async def copy(self, path: Path) -> float:
        """The limit: seconds of \\copy."""
        await self._server.run("truncate by_copy", "checkpoint", database="bench")
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            str(program("psql")), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", self._url,
            "-c", f"\\copy by_copy from '{path}' with (format csv, header)",
        )  # fmt: skip
        if await process.wait():
            raise RuntimeError("\\copy failed")
        return time.monotonic() - began

    async def load(self, case: Case, path: Path) -> tuple[float, float]:
        """Seconds of the load, and of the whole command."""
        await self._prepare(case)
        began = time.monotonic()
        done = json.loads(await self._ingestd("--json", "import", case.import_name, str(path), "--force"))
        command = time.monotonic() - began
        self._check(case, done)
        return await self._until_commit(), command

    async def same(self, table: str) -> None:
        """See that a table holds exactly what \\copy has put into the other.

        Raises:
            RuntimeError: it does not.
        """
        conn = await asyncpg.connect(self._url)
        try:
            for one, other in (("by_copy", table), (table, "by_copy")):
                if await conn.fetchval(f"select exists (table {one} except table {other})", timeout=COMMAND_S):
                    raise RuntimeError(f"{one} holds rows that {other} does not")
        finally:
            await conn.close()

    async def _until_commit(self) -> float:
        """What the last load took: its own figure ends just before the commit, the server's clock does not."""
        conn = await asyncpg.connect(self._url)
        try:
            return float(await conn.fetchval(TOOK))
        finally:
            await conn.close()

    async def _prepare(self, case: Case) -> None:
        table = f"by_{case.import_name}"
        await self._server.run(f"truncate {table}", database="bench")
        if case.filled:
            await self._server.run(f"insert into {table} select * from by_copy order by id", f"vacuum analyze {table}", database="bench")
        await self._server.run("checkpoint", database="bench")

    def _check(self, case: Case, done: dict[str, Any]) -> None:
        odd = self._rows // 100 if case.file != "clean" else 0
        expected = {
            "read": self._rows,
            "inserted": 0 if case.filled else self._rows - odd,
            "updated": odd if case.filled else 0,
            "unchanged": self._rows - odd if case.filled else 0,
            "rejected": odd if case.file == "bad" else 0,
        }
        found = {name: done.get(name) for name in expected}
        if found != expected:
            raise RuntimeError(f"{case.name}: {found} instead of {expected}: {done.get('reason')}")

    async def _ingestd(self, *words: str) -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "ingestd", "--config", str(self._config), *words,
            env=_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        )  # fmt: skip
        said, _ = await asyncio.wait_for(process.communicate(), COMMAND_S)
        if process.returncode:
            raise RuntimeError(f"ingestd {' '.join(words)} ended with {process.returncode}")
        return said.decode()

    async def _until_ready(self, daemon: asyncio.subprocess.Process, log: Path) -> None:
        conn = await asyncpg.connect(self._url)
        deadline = time.monotonic() + READY_S
        try:
            while not await conn.fetchval("select exists (select from ingestd.node where state = 'running')"):
                if daemon.returncode is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the daemon has not come up: {_read(log)[-500:]}")
                await asyncio.sleep(0.05)
        finally:
            await conn.close()


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("INGESTD_")}


def _read(path: Path) -> str:
    return path.read_text(errors="replace")


async def measure(rows: int, rounds: int) -> tuple[list[float], dict[str, Times], str]:
    """All rounds; returns the times of \\copy, those of each case, and the server's version."""
    copies: list[float] = []
    times = {case.name: Times() for case in CASES}
    with tempfile.TemporaryDirectory(prefix="ingestd-bench-load-") as name:
        say(f"writing three files of {rows:,} rows")
        files = write_files(Path(name), rows)
        warm = write_files(_folder(name, "warm"), 1000)
        async with postgres(track_commit_timestamp="on") as server:
            url = await server.create("bench")
            await server.run(*[f"create table {table} ({COLUMNS})" for table in TABLES], database="bench")
            # A daemon has loaded before: the first load of its life pays for imports that later ones do not.
            site = Site(server, url, Path(name), rows)
            async with site.daemon() as pid:
                await Site(server, url, Path(name), 1000).load(CASES[0], warm["clean"])
                for number in range(rounds):
                    copies.append(await site.copy(files["clean"]))
                    say(f"round {number + 1} of {rounds}: \\copy {copies[-1]:.2f} s")
                    for case in CASES:
                        with Memory(pid).watched() as memory:
                            load, command = await site.load(case, files[case.file])
                        found = times[case.name]
                        found.load.append(load)
                        found.command.append(command)
                        found.memory.append(memory.peak_mb)
                        say(f"  {case.says}: {load:.2f} s, the whole command {command:.2f} s, {memory.peak_mb:.0f} MB")
                        if number == 0 and case.file == "clean":
                            await site.same(f"by_{case.import_name}")
            return copies, times, server.version


def _folder(parent: str, name: str) -> Path:
    made = Path(parent) / name
    made.mkdir()
    return made


def report(command: str, facts: dict[str, str], rows: int, copies: list[float], times: dict[str, Times], version: str) -> str:
    """The table."""
    limit = statistics.median(copies)
    settings = ", ".join(f"{name} {value}" for name, value in SETTINGS.items())
    what = (
        f"{rows:,} rows of 8 columns as CSV into a typed table with a primary key; medians of {len(copies)} interleaved rounds (± half the "
        f"range). psql \\copy of the clean file, without rejects, counts or history: {limit:.2f} s{_spread(copies)} = 1.00."
    )
    lines = [
        "# Imports against \\copy",
        "",
        f"`{command}`",
        "",
        f"{line(facts)}; Postgres {version} ({settings}).",
        "",
        what,
        "",
    ]
    if rows < ROWS:
        lines += [f"**{rows:,} rows only: this run shows that everything works, not how fast it is. Do not quote it.**", ""]
    lines += ["| import | load, s | times \\copy | promised | | whole command, s | memory at most, MB |", "|---|---|---|---|---|---|---|"]
    for case in CASES:
        found = times[case.name]
        ratio = statistics.median(found.load) / limit
        verdict = "met" if ratio <= case.promised else "**missed**"
        lines.append(
            f"| {case.says} | {statistics.median(found.load):.2f}{_spread(found.load)} | {ratio:.2f} | {case.promised:.1f} | {verdict} | "
            f"{statistics.median(found.command):.2f} | {max(found.memory):.0f} |"
        )
    return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    return f" ±{50 * (max(values) - min(values)) / statistics.median(values):.0f} %" if len(values) > 1 else ""


def say(text: str) -> None:
    """Progress, beside the result."""
    print(text, file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    """The whole run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description="Measure imports against psql's \\copy.")
    parser.add_argument("--scale", type=float, default=1.0, help="of a million rows (default: 1)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved; medians are reported (default: 3)")
    parser.add_argument("--smoke", action="store_true", help="only show that everything works, in less than a minute")
    parser.add_argument("--json", type=Path, help="write everything there too")
    parser.add_argument("--markdown", type=Path, help="write the table there too")
    asked = parser.parse_args(arguments)
    if asked.smoke:
        asked.scale, asked.rounds = 0.01, 1
    if asked.scale <= 0 or asked.rounds < 1:
        parser.error("--scale and --rounds must be positive")
    if warning := busy():
        say(f"warning: {warning}")
    rows = max(1000, int(ROWS * asked.scale) // 400 * 400)
    facts = machine()
    command = " ".join(["python -m benchmarks.load", *arguments])
    try:
        copies, times, version = asyncio.run(measure(rows, asked.rounds))
    except RuntimeError as error:
        say(f"failed: {error}")
        return 1
    text = report(command, facts, rows, copies, times, version)
    print(text)
    if asked.markdown:
        asked.markdown.write_text(text, encoding="utf-8")
    if asked.json:
        document = {"command": command, "machine": facts, "postgres": version, "settings": SETTINGS, "rows": rows, "copy": copies}
        document |= {"cases": {name: vars(found) for name, found in times.items()}}
        asked.json.write_text(json.dumps(document, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
