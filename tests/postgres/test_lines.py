"""Sessions at a server that hangs, was taken over from, takes no writes, or hears nothing any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from ingestd.errors import DatabaseUnreachable
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from ingestd.postgres import listen, silence
from ingestd.postgres.listen import Listener
from ingestd.postgres.outage import ConnectionLost, reason
from ingestd.postgres.pool import Database
from ingestd.postgres.session import connect, is_closed
from ingestd.work.context import Context
from tests.faults import processes
from tests.faults.proxy import Proxy
from tests.support import eventually
from tests.work.conftest import handler, working

NOBODY = 1  # a port
LEFT = """
select 'none' from pg_stat_activity
where datname = current_database() and query like '%into silence%' and pid <> pg_backend_pid()"""


def several(dsn: str, *ports: int) -> str:
    """The URL of the test's server behind others on this machine."""
    parts = urlsplit(dsn)
    host = parse_qs(parts.query).get("host", [parts.hostname])[0]
    port = parse_qs(parts.query).get("port", [str(parts.port or 5432)])[0]
    hosts = ",".join(["127.0.0.1"] * len(ports) + [str(host)])
    at = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    return f"postgresql://{at}{parts.path}?host={hosts}&port={','.join([*map(str, ports), port])}"


async def test_a_first_server_that_hangs_does_not_keep_from_the_one_that_took_over(dsn: str) -> None:
    async with Proxy(dsn) as hanging:
        hanging.stall()
        port = urlsplit(hanging.dsn).port
        assert port
        url = several(dsn, port, NOBODY)
        conn = await connect(url, timeout_s=20)
        assert await conn.fetchval("select 1") == 1
        await conn.close()
        db = Database(url)
        await db.open()
        async with db.services() as lent:
            assert await lent.fetchval("select 1") == 1
        await db.close()


async def test_of_several_servers_one_that_takes_no_writes_is_none_and_each_says_why(dsn: str, conn: asyncpg.Connection) -> None:
    name = await conn.fetchval("select current_database()")
    await conn.execute(f'alter database "{name}" set default_transaction_read_only = on')
    with pytest.raises(DatabaseUnreachable, match=f"127.0.0.1:{NOBODY}: .*; .*: takes no writes"):
        await connect(several(dsn, NOBODY))


async def test_a_job_that_finds_no_writes_taken_waits_and_spends_no_attempt(db: Database, conn: asyncpg.Connection) -> None:
    await conn.execute("create table public.done (job bigint)")
    refused = asyncio.Event()

    async def write(ctx: Context) -> None:
        async with ctx.db.handlers() as own:
            if not refused.is_set():
                refused.set()
                # A server that is closed for writing tells so to sessions that it has, as a standby does to new ones.
                await own.execute("set default_transaction_read_only = on")
            await own.execute("insert into public.done values ($1)", ctx.job.id)

    async with working(db, handler("write", write)):
        (job,) = await enqueue(conn, [NewJob("write", max_attempts=1)])
        row = await eventually(lambda: conn.fetchrow("select state, attempt from ingestd.history where id = $1", job))
    assert refused.is_set()
    assert tuple(row) == ("succeeded", 1)


async def test_only_lines_on_which_both_sides_wait_are_cut(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "ASK_AFTER_S", 0.5)
    monkeypatch.setattr(silence, "SERVER_WAITS_S", 0.2)
    async with Proxy(dsn) as proxy:
        db = Database(proxy.dsn)
        await db.open()
        stranded = asyncio.Event()
        lost = asyncio.create_task(speak_into_silence(db, proxy, stranded))
        await stranded.wait()
        # These were opened since, so that their lines are well; nothing is heard on them for just as long.
        async with db.handlers() as at_work, db.handlers() as at_rest, at_rest.transaction():
            await at_rest.execute("select 1")
            works = asyncio.create_task(at_work.execute("select pg_sleep(3)"))
            assert await eventually(db.cut_silent) == 1
            with pytest.raises(ConnectionLost):
                await lost
            await works
            await at_rest.execute("select 1")
            # Nor does the server keep it, with its locks.
            await eventually(lambda: at_rest.fetchval(f"{LEFT} having count(*) = 0", column=0), saying="its session is ended")
        await db.close()


async def test_what_was_answered_since_it_was_overdue_is_not_cut_off(dsn: str, conn: asyncpg.Connection) -> None:
    async with Proxy(dsn) as proxy:
        db = Database(proxy.dsn)
        await db.open()
        async with db.handlers() as lent, lent.transaction():
            await lent.execute("select 1")
            idle = "select state_change < clock_timestamp() - make_interval(secs => $2) from pg_stat_activity where pid = $1"
            await eventually(lambda: conn.fetchval(idle, lent.get_server_pid(), silence.SERVER_WAITS_S))
            assert await silence.cut_silent({lent: 20.0}, conn) == 0
            await lent.execute("select 1")
        await db.close()


async def test_a_handler_that_is_slow_to_put_rows_somewhere_is_not_cut_off(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "ASK_AFTER_S", 0.3)
    monkeypatch.setattr(silence, "SERVER_WAITS_S", 0.1)
    writing, enough = asyncio.Event(), asyncio.Event()

    async def put(_: bytes) -> None:
        writing.set()
        await enough.wait()

    async with Proxy(dsn) as proxy:
        db = Database(proxy.dsn)
        await db.open()
        look = await connect(dsn)
        async with db.handlers() as conn:
            copies = asyncio.create_task(conn.copy_from_query("select 1", output=put))
            await writing.wait()
            idle = "select state = 'idle' and state_change < clock_timestamp() - interval '1 s' from pg_stat_activity where pid = $1"
            await eventually(lambda: look.fetchval(idle, conn.get_server_pid()))
            assert await db.cut_silent() == 0
            enough.set()
            assert await copies == "COPY 1"
        await look.close()
        await db.close()


async def test_a_handler_that_is_slow_to_make_its_rows_is_not_cut_off(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "ASK_AFTER_S", 0.3)
    monkeypatch.setattr(silence, "SERVER_WAITS_S", 0.1)
    enough = asyncio.Event()

    async def rows() -> AsyncIterator[tuple[int]]:
        yield (1,)
        await enough.wait()
        yield (2,)

    async with Proxy(dsn) as proxy:
        db = Database(proxy.dsn)
        await db.open()
        async with db.handlers() as conn:
            await conn.execute("create temporary table slow (n int)")
            copies = asyncio.create_task(conn.copy_records_to_table("slow", records=rows()))
            await eventually(lambda: silence.quiet_s(conn) > 1.0)
            assert await db.cut_silent() == 0
            enough.set()
            assert await copies == "COPY 2"
        await db.close()


async def test_sessions_left_behind_are_ended_although_a_job_has_not_heard_yet_that_its_own_has(dsn: str, conn: asyncpg.Connection) -> None:
    db = Database(dsn, application_name="ingestd:test")
    await db.open()
    left = await connect(dsn, application_name="ingestd:test:core")
    with suppress(ConnectionLost):
        async with db.handlers() as lent:
            await processes.end_backends(conn, "ingestd:test:handlers")
            await eventually(lambda: is_closed(lent))
            heart = await connect(dsn, application_name="ingestd:test:heartbeat")
            await db.renew()
            await eventually(left.is_closed, timeout_s=10, saying="the session from before the outage is ended")
    await heart.close()
    await db.close()


async def test_a_session_that_is_ended_between_two_parts_of_a_statement_is_lost_like_any_other(db: Database) -> None:
    class Ending(silence._Asking):
        async def prepare(self, *args: Any, **options: Any) -> Any:
            prepared = await super().prepare(*args, **options)
            session.terminate()
            return prepared

    with pytest.raises(ConnectionLost, match="the connection ended in the middle of a statement"):  # noqa: PT012
        async with db.services() as conn:
            session = conn._con
            session._protocol = Ending(session._protocol.protocol)
            await conn.fetchval("select 1 + $1::int", 1)
    with pytest.raises(AttributeError):
        async with db.services() as conn:
            conn.no_such_thing  # noqa: B018 - somebody's mistake stays one


async def speak_into_silence(db: Database, proxy: Proxy, stranded: asyncio.Event) -> None:
    async with db.handlers() as conn, conn.transaction():
        await conn.execute("select 'into silence'")
        proxy.strand()
        stranded.set()
        await conn.execute("select 'into silence'")


async def test_a_listener_whose_line_falls_silent_at_its_first_word_listens_anew(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "CHECK_TIMEOUT_S", 0.5)
    heard: list[str] = []
    async with Proxy(dsn) as proxy:
        db = Database(proxy.dsn)
        listener = Listener(db, {"first": heard.append, "second": heard.append})
        proxy.lose_answers(to=b"second")
        with pytest.raises(TimeoutError):
            await listener.poll()
        proxy.flow()
        await listener.poll()
        conn = await connect(dsn)
        await conn.execute("notify second, 'word'")
        await eventually(lambda: "word" in heard)
        await conn.close()
        await listener.close()


def test_a_connection_that_ended_within_a_statement_is_told_in_words_for_people_and_not_by_the_drivers_states() -> None:
    for drivers in (
        asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress"),
        asyncpg.InterfaceError("cannot call Connection.fetch(): connection has been released back to the pool"),
    ):
        assert reason(drivers) == "the connection ended in the middle of a statement"


async def test_sessions_of_ours_may_rest_whatever_the_databases_are_allowed(dsn: str, conn: asyncpg.Connection) -> None:
    name = await conn.fetchval("select current_database()")
    await conn.execute(f'alter database "{name}" set idle_session_timeout = 1000')
    db = Database(dsn)
    await db.open()
    own = await db.connect("heartbeat", settings={"tcp_keepalives_idle": "5"})
    told = {await own.fetchval("show idle_session_timeout")}
    await own.close()
    for lend in (db.core, db.services, db.handlers, db.enqueues):
        for _ in range(2):  # the second time it has been reset
            async with lend() as lent:
                told.add(await lent.fetchval("show idle_session_timeout"))
    await db.close()
    assert told == {"0"}
