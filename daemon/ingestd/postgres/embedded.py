"""The Postgres that ingestd brings along: started by whoever needs it first, stopped by whoever needs it last.

Three lock files in its folder say who does what, and the kernel drops them when a process dies, however it dies:

- `control.lock`: held alone while the server is started, joined or stopped.
- `holders.lock`: shared by every process that uses the server. Who can have it alone is the last one.
- `server.lock`: held by the server and each of its processes. While it is held something of it still lives, even if
  it cannot be seen from here (another container); starting a second server on the same data would destroy it.

The server is a process of its own: killing the daemon leaves it running, and the next daemon joins it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import asyncpg
import psutil

from ingestd.errors import AlreadyRunning, DatabaseUnreachable, Refused
from ingestd.events import Overdue
from ingestd.postgres.binaries import folder_of, psql_path, server_programs
from ingestd.postgres.cluster import (
    ROLE,
    check_version,
    cluster_name,
    last_words,
    launch,
    make_cluster,
    prune_logs,
    write_configuration,
)
from ingestd.postgres.flock import FileLock
from ingestd.postgres.place import PORT, SYSTEM_DIR, Place, abandoned_places, find_place
from ingestd.postgres.processes import colliding_pid, find_postmaster, is_alive, is_log_writer, orphans

__all__ = ["EmbeddedPostgres", "EmbeddedSettings", "psql_path"]

DATABASE = "ingestd"
_LOOK_AGAIN = 0.03  # seconds
_SAY_AGAIN = 5.0
_LOGIN_PATIENCE = 10.0
_LAST_LOG_LINES = 2.0
_ORPHANS_PATIENCE = 15.0
_PRUNE_EVERY = 600.0
# Ways to stop, each with its patience: fast shutdown, immediate shutdown (which recovers at the next start), kill.
_WAYS_TO_STOP = ((signal.SIGINT, 60.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0))


@dataclass(frozen=True)
class EmbeddedSettings:
    """What the embedded Postgres needs to know.

    Args:
        data_dir: its folder, `<state_dir>/postgres`.
        version: major version, 16 or 18.
        start_timeout: seconds without an answer from a live server until we give up; recovery after a crash counts as
            an answer and may take as long as it takes.
    """

    data_dir: Path
    version: int = 18
    start_timeout: float = 60.0


class EmbeddedPostgres:
    """One process's hold on the embedded Postgres.

    Args:
        settings: where it is, and how patient to be.
        report: told in a few words what is going on while something takes time.
        system_dir: where root's server lives if its user cannot get into the data folder.
    """

    def __init__(
        self,
        settings: EmbeddedSettings,
        *,
        report: Callable[[str], None] = lambda _: None,
        system_dir: Path = SYSTEM_DIR,
    ) -> None:
        folder_of(settings.version)
        self._settings = settings
        self._report = report
        self._system_dir = system_dir
        self._turn = asyncio.Lock()
        self._place: Place | None = None
        self._holders: FileLock | None = None
        self._server: psutil.Process | None = None
        self._password = ""
        self._prune_at = 0.0

    @property
    def dsn(self) -> str:
        """URL of the database `ingestd`, for asyncpg and libpq; it holds the password and stays the same over restarts.

        Raises:
            DatabaseUnreachable: the server has not been acquired.
        """
        return self._url(DATABASE)

    @property
    def client_environment(self) -> dict[str, str]:
        """Variables with which psql and its like connect, so that no password stands in a command line."""
        return {
            "PGHOST": str(self._held_place().sockets),
            "PGPORT": str(PORT),
            "PGUSER": ROLE,
            "PGPASSWORD": self._password,
            "PGDATABASE": DATABASE,
        }

    @property
    def postmaster_pid(self) -> int | None:
        """Process id of the server, if it is ours to use and lives."""
        return self._server.pid if self._server is not None and is_alive(self._server) else None

    async def acquire(self) -> str:
        """Start the server, or join the one that runs.

        Returns:
            The URL of its database `ingestd`.

        Raises:
            Refused: a folder is not writable, the disk is full, or no user for the server can be had.
            ConfigurationError: the programs are missing, or the data is of another major version.
            DatabaseUnreachable: the server ends or does not answer; with the last words of its log.
            AlreadyRunning: a server that we cannot see uses the same data.
        """
        async with self._turn:
            if self._holders is None:
                with _clear_errors(self._settings.data_dir):
                    await self._acquire()
            return self.dsn

    async def ensure_running(self) -> bool:
        """See that the server lives; cheap while it does.

        Returns:
            True if it had died and runs again.

        Raises:
            DatabaseUnreachable: the server has not been acquired, ends again or does not answer.
        """
        place = self._held_place()
        if self.postmaster_pid is not None:
            self._prune(place)
            return False
        async with self._turn:
            if self.postmaster_pid is None:
                self._report("Postgres has ended: starting it again")
                with _clear_errors(self._settings.data_dir):
                    async with self._control(place):
                        await self._start_or_join(place)
        return True

    async def release(self) -> None:
        """Let go of the server; whoever lets go last stops it."""
        async with self._turn:
            if self._place is None or self._holders is None:
                return
            try:
                if self._place.folder.is_dir():
                    async with self._control(self._place):
                        if self._holders.try_exclusive():
                            await self._stop(self._place)
                elif self._server is not None and is_alive(self._server):
                    # Its folder was deleted under it: there is nothing left to shut down in order.
                    self._server.send_signal(signal.SIGQUIT)
            finally:
                self._holders.drop()
                self._holders = self._server = None

    async def _acquire(self) -> None:
        place = await asyncio.to_thread(find_place, self._settings.data_dir, self._system_dir)
        holders = FileLock(place.folder / "holders.lock", place.owner)
        try:
            async with self._control(place):
                if not holders.try_shared():
                    raise AlreadyRunning(f"another process holds {place.folder}/holders.lock alone; try again")
                self._place, self._holders = place, holders
                await self._start_or_join(place)
        except BaseException:
            holders.drop()
            self._place = self._holders = self._server = None
            raise

    def _control(self, place: Place) -> contextlib.AbstractAsyncContextManager[None]:
        lock = FileLock(place.folder / "control.lock", place.owner)
        return lock.exclusive(lambda: self._report("waiting for another process that starts or stops Postgres"))

    def _held_place(self) -> Place:
        if self._place is None or self._holders is None:
            raise DatabaseUnreachable("the embedded Postgres is not in use: acquire it first")
        return self._place

    def _url(self, database: str) -> str:
        host = quote(str(self._held_place().sockets), safe="")
        return f"postgresql://{ROLE}:{quote(self._password, safe='')}@/{database}?host={host}&port={PORT}"

    async def _start_or_join(self, place: Place) -> None:
        """Come to a server that answers. Runs under the control lock."""
        self._server = None
        # The first server we meet may be one that is just shutting down; the next one is ours.
        while (server := find_postmaster(place)) is not None:
            check_version(place, self._settings.version)
            self._password = place.read_password()
            if await self._until_ready(server):
                self._server = server
                return
        server = await self._start(place)
        try:
            ready = await self._until_ready(server)
        except BaseException:
            # It has no holder that knows it: without this it would run on for nobody.
            with contextlib.suppress(psutil.NoSuchProcess):
                server.send_signal(signal.SIGINT)
            raise
        if not ready:
            raise last_words(place)
        self._server = server

    async def _start(self, place: Place) -> psutil.Process:
        """Start a server where none runs."""
        version = self._settings.version
        programs = await asyncio.to_thread(server_programs, version, place.account, self._system_dir)
        # From here on an initdb or a server of ours holds the lock too, and alone once we leave it.
        liveness = await self._end_orphans(place)
        try:
            if not place.data.exists():
                self._report(f"creating the database (Postgres {version}, once)")
                for earlier in abandoned_places(place):
                    await self._leave_behind(earlier)
                await asyncio.to_thread(make_cluster, place, programs, version, liveness.handle)
            check_version(place, version)
            self._password = place.read_password()
            for folder in (place.log, place.sockets):
                place.make_folder(folder)
            write_configuration(place)
            prune_logs(place)
            return launch(place, programs, liveness.handle, colliding_pid(place))
        finally:
            liveness.leave()

    async def _end_orphans(self, place: Place) -> FileLock:
        """Kill what a dead postmaster left behind, and wait until all of it is gone.

        A backend that is busy does not notice the death of its postmaster and goes on writing to the shared memory.
        No harm comes from killing it: what it had committed is in the log from which the next server recovers.

        Returns:
            The lock that shows it, held alone.
        """
        liveness = FileLock(place.folder / "server.lock", place.owner)
        cluster = cluster_name(place)
        began = time.monotonic()
        while not liveness.try_exclusive():
            waited = time.monotonic() - began
            if waited > _ORPHANS_PATIENCE:
                raise AlreadyRunning(
                    f"processes of an earlier Postgres still use {place.data}, and cannot be seen or ended from here",
                    hint="if another container uses the same folder, stop it; give each container its own",
                )
            for process in orphans(place, cluster):
                # The log writer ends by itself once it has written what the others said last.
                if waited > _LAST_LOG_LINES or not is_log_writer(process):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
            await asyncio.sleep(_LOOK_AGAIN)
        return liveness

    async def _until_ready(self, server: psutil.Process) -> bool:
        """Wait until a live server lets us in.

        Returns:
            False if it ended instead.

        Raises:
            DatabaseUnreachable: it lives, but has not answered for `start_timeout` seconds.
        """
        began = time.monotonic()
        deadline, say_at = began + self._settings.start_timeout, began + _SAY_AGAIN
        while is_alive(server):
            answer = await self._ask()
            if answer is None:
                return True
            now = time.monotonic()
            recovers = "starting up" in answer or "recovery" in answer or "accepting connections" in answer
            if recovers:
                deadline = now + self._settings.start_timeout
            if now > deadline:
                raise DatabaseUnreachable(
                    f"the embedded Postgres (process {server.pid}) does not answer after {now - began:.0f} s: {answer}"
                )
            if now > say_at:
                doing = "recovering after a crash" if recovers else "waiting for Postgres"
                self._report(Overdue(f"{doing} ({now - began:.0f} s)"))
                say_at = now + _SAY_AGAIN
            await asyncio.sleep(_LOOK_AGAIN)
        return False

    async def _ask(self) -> str | None:
        """Log in once, making the database if there is none yet. Returns what stands in the way, or None."""
        try:
            try:
                await self._login(DATABASE, "select 1")
            except asyncpg.InvalidCatalogNameError:
                await self._login("postgres", f"create database {DATABASE} owner {ROLE}")
        except asyncpg.InvalidAuthorizationSpecificationError as error:
            raise Refused(
                f"the embedded Postgres does not accept the password in {self._held_place().password}: {error}",
                hint="restore the file that belongs to this database",
            ) from error
        except asyncpg.TooManyConnectionsError:
            return None
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            return str(error) or type(error).__name__
        return None

    async def _login(self, database: str, statement: str) -> None:
        connection = await asyncpg.connect(self._url(database), timeout=_LOGIN_PATIENCE)
        try:
            await connection.execute(statement, timeout=self._settings.start_timeout)
        finally:
            connection.terminate()

    async def _stop(self, place: Place) -> None:
        """Stop the server, if one runs, and wait for its last process. Runs under the control lock."""
        server = find_postmaster(place)
        if server is None:
            return
        for way, patience in _WAYS_TO_STOP:
            with contextlib.suppress(psutil.NoSuchProcess):
                server.send_signal(way)
            if await _ended(server, patience):
                break
            self._report(f"Postgres has not stopped within {patience:.0f} s: pressing harder")
        # Whatever else is left is not the server: a program that it had started, say.
        with contextlib.suppress(AlreadyRunning):
            (await self._end_orphans(place)).drop()

    async def _leave_behind(self, earlier: Place) -> None:
        """Stop the server of a deleted state folder, if nobody uses it; its data is kept, since only its owner may judge."""
        holders = FileLock(earlier.folder / "holders.lock", earlier.owner)
        if holders.try_exclusive():
            await self._stop(earlier)
            holders.drop()
        self._report(f"the database of an earlier {self._settings.data_dir} is kept in {earlier.folder}")

    def _prune(self, place: Place) -> None:
        if time.monotonic() > self._prune_at:
            self._prune_at = time.monotonic() + _PRUNE_EVERY
            prune_logs(place)


async def _ended(process: psutil.Process, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while is_alive(process):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_LOOK_AGAIN)
    return True


@contextlib.contextmanager
def _clear_errors(data_dir: Path) -> Iterator[None]:
    """Turn what the file system refuses into one line that names the path."""
    try:
        yield
    except OSError as error:
        raise Refused(
            f"the embedded Postgres cannot use {error.filename or data_dir}: {error.strerror or error}",
            hint="make it writable or free some space, choose another [daemon] state_dir, or set [database] url",
        ) from error
