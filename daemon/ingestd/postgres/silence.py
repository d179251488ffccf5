"""Finds lines that have fallen silent under a statement: something in between acknowledges what is said, and passes nothing on.

The kernel's keepalive cannot tell, for whatever is in between answers it; and no time limit may, for statements take as long as they
take. But the server knows whether it is at work for a session: where both sides wait for each other, nothing will ever come.
"""

from __future__ import annotations

import math
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

import asyncpg

# Without a word for so long in either direction, the server is asked.
ASK_AFTER_S = 10.0
# The server itself must have waited for so long: an answer may be on its way.
SERVER_WAITS_S = 5.0
# tcp_info: eight bytes, then numbers of four; the tenth is when something was last sent, the twelfth when something was last heard.
TCP_INFO_BYTES = 56
LAST_SENT, LAST_HEARD = 44, 52

# Those of the sessions that wait for us, or are not there any more. Between the parts of one statement a session is called active.
# They are ended, for the locks of their transactions would stay: no time limit of the server counts between two parts of a statement.
CUT = """
select s.pid, (select pg_terminate_backend(a.pid) from pg_stat_activity a
               where a.pid = s.pid and a.datname = current_database() and a.application_name = s.name)
from unnest($1::int[], $2::text[], $3::boolean[]) s(pid, name, long_enough)
where not exists (
    select from pg_stat_activity a where a.pid = s.pid and a.datname = current_database()
    and not (coalesce(a.state like 'idle%', false) and a.state_change < clock_timestamp() - make_interval(secs => $4)
             or coalesce(a.wait_event, '') = 'ClientRead' and a.state = 'active' and s.long_enough))"""
# What was left behind at the server by an outage of the line: sessions from before the present one of the heartbeat.
END_LEFT_BEHIND = """
select count(pg_terminate_backend(pid)) from pg_stat_activity
where datname = current_database() and usename = current_user and pid <> pg_backend_pid()
and backend_start < (select max(backend_start) from pg_stat_activity where application_name = $1)
and (application_name = any ($2::text[]) or application_name = $3 and state = 'idle' and pid <> all ($4::int[]))"""


def _counted(name: str) -> Callable[..., Awaitable[Any]]:
    async def ask(self: _Asking, *args: Any, **options: Any) -> Any:
        self.unanswered += 1
        self.brings_rows = name == "copy_in"
        try:
            return await getattr(self.protocol, name)(*args, **options)
        finally:
            self.unanswered -= 1
            self.brings_rows = False

    return ask


class _Asking:
    """The driver's own conversation with the server, and whether it waits for an answer now: the driver does not tell."""

    __slots__ = ("brings_rows", "protocol", "unanswered")

    def __init__(self, protocol: Any) -> None:
        self.protocol = protocol
        self.unanswered = 0
        self.brings_rows = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.protocol, name)

    query = _counted("query")
    prepare = _counted("prepare")
    bind = _counted("bind")
    execute = _counted("execute")
    bind_execute = _counted("bind_execute")
    bind_execute_many = _counted("bind_execute_many")
    copy_in = _counted("copy_in")
    # Not copy_out: there the server may have said all it has to say, and the client takes its time to put it somewhere.


class Attentive(asyncpg.Connection):  # type: ignore[misc]  # the driver has no types
    """A connection that knows whether it waits for an answer."""

    def __init__(self, protocol: Any, *args: Any, **options: Any) -> None:
        super().__init__(_Asking(protocol), *args, **options)


def quiet_s(conn: Any) -> float:
    """Seconds for which an answer has been waited for without a byte in either direction; 0 where none is, or it is not known.

    Args:
        conn: an `Attentive` connection, or what a pool lends of one.
    """
    with suppress(asyncpg.InterfaceError, AttributeError, OSError):
        conn = getattr(conn, "_con", conn)
        sock = conn._transport.get_extra_info("socket")  # noqa: SLF001 - the driver has no option for that
        if not conn._protocol.unanswered or sock is None or sock.family == socket.AF_UNIX:  # noqa: SLF001 - an `_Asking`, ours
            return 0.0
        # uvloop shows a socket without getsockopt; a duplicate of its descriptor is the same socket.
        with socket.socket(fileno=os.dup(sock.fileno())) as twin:
            told = twin.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
        return float(min(struct.unpack_from("I", told, at)[0] for at in (LAST_SENT, LAST_HEARD)) / 1000)
    return 0.0


def _brings_rows(conn: Any) -> bool:
    with suppress(asyncpg.InterfaceError, AttributeError):
        return bool(getattr(conn, "_con", conn)._protocol.brings_rows)  # noqa: SLF001 - an `_Asking`, ours
    return False


def unanswered(conns: Iterable[Any]) -> dict[Any, float]:
    """Those of the connections on which an answer is overdue, with seconds."""
    return {conn: quiet for conn in conns if (quiet := quiet_s(conn)) > ASK_AFTER_S}


async def cut_silent(overdue: dict[Any, float], ask: asyncpg.Connection, rows_within_s: float = math.inf) -> int:
    """Break the connections that wait for a server which waits for them; whoever uses them is told that Postgres went away.

    Args:
        overdue: see `unanswered`.
        ask: another connection to the same database, past any pooler.
        rows_within_s: how long a client that brings rows may take to make the next ones, in seconds; a handler may for ever.

    Returns:
        How many there were.
    """
    # A loop that was blocked has its answers waiting in the kernel: they were read while `ask` was made.
    overdue = unanswered(overdue)
    if not overdue:
        return 0
    asked: dict[int, tuple[Any, str, bool]] = {}
    for conn, quiet in overdue.items():
        with suppress(asyncpg.InterfaceError):  # it has just been returned
            long_enough = not _brings_rows(conn) or quiet > rows_within_s
            asked[conn.get_server_pid()] = conn, conn.get_settings().application_name, long_enough
    names, enough = [name for _, name, _ in asked.values()], [enough for *_, enough in asked.values()]
    rows = await ask.fetch(CUT, list(asked), names, enough, SERVER_WAITS_S)
    for row in rows:
        with suppress(asyncpg.InterfaceError):
            asked[row["pid"]][0].terminate()
    return len(rows)


async def end_left_behind(ask: asyncpg.Connection, name: str, lent_to_jobs: Iterable[Any]) -> None:
    """End this process's sessions from before an outage: nobody hears them any more, and the server would keep them, with their locks.

    Args:
        ask: a connection of the same role that was opened since.
        name: the application name that all of them begin with.
        lent_to_jobs: connections that jobs use; those are cut when it is known that they have fallen silent, and not before.
    """
    spared = []
    for conn in lent_to_jobs:
        with suppress(asyncpg.InterfaceError):  # it has ended, and its job has not heard of it yet
            spared.append(conn.get_server_pid())
    ended = [f"{name}:{purpose}" for purpose in ("core", "services", "enqueues", "listen")]
    await ask.execute(END_LEFT_BEHIND, f"{name}:heartbeat", ended, f"{name}:handlers", spared)
