"""Real daemons: a folder with a configuration, the processes that run on it, and an end of all of them.

Nothing here waits for a fixed time, and nothing is ended that was not started here.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import asyncpg

from ingestd.errors import DatabaseUnreachable
from ingestd.postgres.cluster import ROLE, cluster_name
from ingestd.postgres.outage import OUTAGE
from ingestd.postgres.place import PORT, SYSTEM_DIR, Place, find_place
from ingestd.postgres.processes import find_postmaster, orphans
from ingestd.postgres.session import connect
from tests.faults import processes
from tests.support import PATIENCE_S, eventually

REPOSITORY = Path(__file__).parents[2]
START_S = 120.0
# A test that reads every 30 ms whether a daemon is ready would slow down the daemon it waits for.
LOOK_S = 0.05
EVIDENCE_DAEMONS, EVIDENCE_LINES = 4, 60
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


def drain_with_parent() -> None:
    """Have the kernel send SIGTERM when the tests are killed: nobody is left then to clean up."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


class Daemon:
    """One `ingestd run`, in a session of its own.

    Args:
        process: as started.
        log_file: where its stderr goes.
    """

    def __init__(self, process: subprocess.Popen[bytes], log_file: Path) -> None:
        self.process = process
        self.log_file = log_file
        self.url = ""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def log(self) -> str:
        """Everything it has said."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def events(self, event_type: str) -> list[dict[str, Any]]:
        """The events of a type that it has logged."""
        found = []
        for line in self.log().splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and entry.get("event_type") == event_type:
                    found.append(entry)
        return found

    async def until_ready(self) -> None:
        """Wait until it says that it is ready, and its admin server, if it has one, says so too.

        Raises:
            AssertionError: it ended instead; with its log.
        """

        async def ready() -> bool:
            if not self.alive:
                raise RuntimeError(f"the daemon ended with {self.process.returncode}:\n{self.log()}")
            started = self.events("NodeStarted")
            if not started:
                return False
            self.url = started[0].get("admin_url") or ""
            return not self.url or await self.status("/health/ready") == 200

        await eventually(ready, timeout_s=START_S, every_s=LOOK_S, saying="ready")

    async def get(self, path: str, **options: Any) -> tuple[int, Any]:
        """Status and JSON of a GET."""
        return await self.request("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        """Status and JSON of a POST."""
        return await self.request("POST", path, json=body, **options)

    async def request(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Status and body of one request on a connection of its own; JSON where it is JSON."""
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.request(method, self.url + path, **options) as answer:
            body = await answer.read()
            return answer.status, json.loads(body) if "json" in answer.content_type else body.decode()

    async def status(self, path: str) -> int:
        """Only the status of a GET; 0 if nobody answers."""
        try:
            return (await self.get(path))[0]
        except (OSError, aiohttp.ClientError):
            return 0

    async def check(self, name: str) -> dict[str, Any]:
        """One health check as `/health` shows it."""
        _, report = await self.get("/health")
        return next((check for check in report["checks"] if check["name"] == name), {})

    def kill(self) -> None:
        """SIGKILL, and see it gone."""
        processes.kill(self.pid)
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    async def ended(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for its end; returns the exit code.

        Raises:
            AssertionError: it has not ended in time; with its log.
        """
        deadline = time.monotonic() + timeout_s
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"still alive after {timeout_s} s:\n{self.log()}"
            await asyncio.sleep(0.01)
        return self.process.returncode

    async def stop(self) -> int:
        """SIGTERM, and wait for the end."""
        self.signal(signal.SIGTERM)
        return await self.ended()


class Site:
    """A folder with a configuration and the daemons that run on it.

    Args:
        url: of the user's own Postgres; empty: the embedded one.
    """

    def __init__(self, url: str = "") -> None:
        # Not pytest's own folder: root's embedded server runs as another user, who must be able to pass through.
        self.folder = Path(tempfile.mkdtemp(prefix="ingestd-site-"))
        self.folder.chmod(0o711)
        self.state = self.folder / "state"
        self.inbox = self.folder / "inbox"
        self.inbox.mkdir()
        self.config = self.folder / "config.toml"
        self.external = url
        self.daemons: list[Daemon] = []
        self.configure()

    def configure(self, text: str = "", *, daemon: str = "", admin: str = "", database: str = "") -> None:
        """Write the configuration.

        Args:
            text: sections besides these.
            daemon: further lines of `[daemon]`.
            admin: further lines of `[admin]`.
            database: further lines of `[database]`.
        """
        self.config.write_text(
            f'[daemon]\nstate_dir = "{self.state}"\n{daemon}\n'
            f'[database]\nurl = "{self.external}"\n{database}\n'
            f"[admin]\n{admin or 'port = 0'}\n{text}\n",
            encoding="utf-8",
        )

    def module(self, name: str, code: str) -> None:
        """Write a module of handlers beside the configuration."""
        (self.folder / f"{name}.py").write_text(code, encoding="utf-8")

    def launch(self, *options: str, environment: Mapping[str, str] | None = None, inside: Sequence[str] = ()) -> Daemon:
        """Start `ingestd run` and do not wait for it.

        Args:
            inside: a command that executes another one somewhere else.
        """
        log_file = self.folder / f"daemon-{len(self.daemons)}.log"
        environ = {name: value for name, value in os.environ.items() if not name.startswith("INGESTD_")}
        # The repository, so that handlers can use what tests share.
        path = os.pathsep.join([str(REPOSITORY), *filter(None, [environ.get("PYTHONPATH", "")])])
        environ |= {"PYTHONPATH": path, **(environment or {})}
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                [*inside, sys.executable, "-m", "ingestd", "--config", str(self.config), "run", *options],
                cwd=self.folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=drain_with_parent,  # noqa: PLW1509 - one system call and nothing that takes a lock
            )
        daemon = Daemon(process, log_file)
        self.daemons.append(daemon)
        return daemon

    async def start(self, *options: str, environment: Mapping[str, str] | None = None, inside: Sequence[str] = ()) -> Daemon:
        """Start `ingestd run` and wait until it is ready."""
        daemon = self.launch(*options, environment=environment, inside=inside)
        await daemon.until_ready()
        return daemon

    @property
    def url(self) -> str:
        """URL of the database in use."""
        if self.external:
            return self.external
        place = self.place()
        return f"postgresql://{ROLE}:{quote(place.read_password(), safe='')}@/ingestd?host={quote(str(place.sockets), safe='')}&port={PORT}"

    def place(self) -> Place:
        """Where the embedded server's files are."""
        return find_place(self.state / "postgres", SYSTEM_DIR)

    @property
    def postmaster(self) -> int | None:
        """The embedded server's process id, while it runs."""
        server = find_postmaster(self.place())
        return server.pid if server else None

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection to the database in use.

        Raises:
            AssertionError: it is away; retry with `eventually`.
        """
        try:
            conn = await connect(self.url, application_name="test")
        except DatabaseUnreachable as error:
            raise AssertionError(error.message) from error
        try:
            yield conn
        finally:
            await conn.close()

    async def ask(self, query: str, *args: Any) -> Any:
        """One value; None while the database is away."""
        try:
            conn = await connect(self.url, application_name="test")
        except (*OUTAGE, DatabaseUnreachable):
            return None
        try:
            return await conn.fetchval(query, *args)
        except OUTAGE:
            return None
        finally:
            await conn.close()

    async def rows(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """All rows of a query."""
        async with self.connection() as conn:
            return await conn.fetch(query, *args)

    async def node_of(self, daemon: Daemon) -> Any:
        """A daemon's node id."""
        return await self.ask("select id from ingestd.node where pid = $1 order by started_at desc limit 1", daemon.pid)

    def evidence(self) -> str:
        """What a failed test wants to know: the end of each daemon's log."""
        return "\n".join(
            f"{daemon.log_file.name}, {'alive' if daemon.alive else f'ended with {daemon.process.returncode}'}:\n"
            + "\n".join(daemon.log().splitlines()[-EVIDENCE_LINES:])
            for daemon in self.daemons[-EVIDENCE_DAEMONS:]
        )

    def clean_up(self) -> None:
        """End everything that was started here and leave nothing."""
        for daemon in self.daemons:
            if daemon.alive:
                processes.kill_tree(daemon.pid)
                daemon.process.wait()
        if not self.external and (self.state / "postgres").exists():
            place = self.place()
            if (server := find_postmaster(place)) is not None:
                processes.kill_machine(server.pid)
            if place.data.exists():
                processes.kill_all(process.pid for process in orphans(place, cluster_name(place)))
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def open_site(url: str = "") -> Iterator[Site]:
    """A site for the length of a block."""
    made = Site(url)
    try:
        yield made
    except BaseException:
        sys.stderr.write(made.evidence())
        raise
    finally:
        made.clean_up()
