"""Roles that may only enqueue, and kinds that nobody may enqueue."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from ingestd import Client
from ingestd.errors import InvalidInput, JobFailed, NotFound, Refused
from ingestd.postgres.migrate import grant
from tests.jobs.kit import rows


@pytest.fixture
async def shop(conn: asyncpg.Connection) -> AsyncIterator[str]:
    """A role with no rights here."""
    role = f"shop_{conn.get_server_pid()}"
    await conn.execute(f"create role {role} login")
    yield role
    await conn.execute(f"drop owned by {role}; drop role {role}")


def as_role(dsn: str, role: str) -> str:
    return f"{dsn}{'&' if '?' in dsn else '?'}role={role}"


async def test_a_role_without_the_rights_is_told_what_it_needs(conn: asyncpg.Connection, dsn: str, shop: str) -> None:
    async with Client(as_role(dsn, shop)) as client:
        for allow_unknown in (False, True):
            with pytest.raises(Refused, match="may not do this") as refused:
                await client.enqueue("sync", allow_unknown=allow_unknown)
            assert "migrate --grant ROLE" in (refused.value.hint or "")


async def test_a_granted_role_is_enough_for_a_client(client: Client, conn: asyncpg.Connection, dsn: str, shop: str) -> None:
    await grant(conn, shop)
    async with Client(as_role(dsn, shop)) as theirs:
        handles = [
            await theirs.enqueue("sync", {"n": 1}),
            await theirs.enqueue("sync", {"n": 2}, delay="0s", unique_key="k"),
            *await theirs.enqueue_many("sync", [{"n": 3}, {"n": 4}]),
            await theirs.enqueue("later", allow_unknown=True),
        ]
        same = await theirs.enqueue("sync", unique_key="k")
        assert (same.id, same.created) == (handles[1].id, False)
        for wrong, options in (("synk", {}), ("sync", {"queue": "nowhere"})):
            with pytest.raises(InvalidInput, match=r"did you mean|declare it as"):
                await theirs.enqueue(wrong, **options)
        async with conn.transaction():
            await conn.execute(f"set local role {shop}")
            await client.enqueue("sync", {"n": 5}, conn=conn)
        found = await rows(conn)
        assert [row["args"].get("n") for row in found] == [1, 2, 3, 4, None, 5]
        assert {row["triggered_by"] for row in found} == {"sql"}

        await conn.execute("delete from ingestd.job")
        mine, ours = handles[0].id, handles[1].id
        for number, by in ((mine, "sql"), (ours, "api")):
            await conn.execute(
                """insert into ingestd.history (keep, state, id, kind, queue_id, rank, attempt, max_attempts, crashes, run_at, due_at,
                       created_at, key_strict, unique_until, args, attempts, tags, triggered_by, error, reason)
                   select 'bad', 'failed', $1, 'sync', 1, 0, 1, 1, 0, now(), now(), now(), false, 'finish', '{}', '[]', '{}', $2,
                          '{"class": "OSError", "message": "away", "traceback": "secrets.py"}', 'away'""",
                number,
                by,
            )
        with pytest.raises(JobFailed, match="away") as failed:
            await handles[0].result(timeout=20)
        assert failed.value.error == {"class": "OSError", "message": "away"}
        with pytest.raises(Refused, match="was not enqueued from SQL"):
            await handles[1].result(timeout=20)
        with pytest.raises(NotFound):
            await handles[2].result(timeout=20)
        with pytest.raises(Refused):
            await handles[0].status()


@pytest.mark.parametrize("kind", ["bulk", "load"])
async def test_kinds_that_act_in_ingestds_own_name_cannot_be_enqueued(client: Client, conn: asyncpg.Connection, kind: str) -> None:
    await conn.execute("insert into ingestd.kind (name, queue, priority, max_attempts) values ($1, 'default', 0, 1)", kind)
    args = {"action": "delete", "filter": {"kind": "sync"}, "last_id": 1 << 40, "asked_at": "2030-01-01T00:00:00+00:00"}
    with pytest.raises(InvalidInput, match="made by ingestd alone"):
        await client.enqueue(kind, args)
    with pytest.raises(InvalidInput, match="made by ingestd alone"):
        await client.enqueue_many(kind, [args], allow_unknown=True)
    with pytest.raises(asyncpg.InvalidParameterValueError, match="made by ingestd alone"):
        await conn.execute("select ingestd.enqueue($1, $2)", kind, args)
    assert await rows(conn) == []


async def test_a_cleanup_from_sql_forgets_no_more_than_is_configured(client: Client, conn: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError, match="retention"):
        await conn.execute("""select ingestd.enqueue_many('[{"kind": "cleanup", "args": {"days": 1}}]')""")
    assert await conn.fetchval("""select ingestd.enqueue('cleanup', '{"days": null}')""") > 0
