"""What tests of rollups share: a source table, a declaration, a refresh until clean, and the recount it must equal."""

from __future__ import annotations

from typing import Any

import asyncpg

from ingestd.rollups import declare
from ingestd.rollups.refresh import Refreshed, refresh
from ingestd.rollups.settings import RollupSettings
from ingestd.rollups.store import dirty
from ingestd.rollups.tend import tend

SALES = """
create table public.sales (
    id bigint generated always as identity primary key, at timestamptz, store int, amount numeric(12,2), note text)"""
MEASURES = {
    "n": "count(*)",
    "amounts": "count(amount)",
    "total": "sum(amount)",
    "mean": "avg(amount)",
    "low": "min(amount)",
    "high": "max(amount)",
}
AGGREGATES = "count(*) n, count(amount) amounts, sum(amount) total, avg(amount) mean, min(amount) low, max(amount) high"


def rollup(**changes: Any) -> RollupSettings:
    """Hourly sales by store, or what the changes make of it."""
    base: dict[str, Any] = {"source": "sales", "time": "at", "bucket": "1 hour", "group_by": ["store"], "measures": MEASURES}
    return RollupSettings.model_validate({**base, **changes})


def key(bucket: str = "1 hour", zone: str = "UTC") -> str:
    """The bucket of `at`, written independently of the code under test."""
    return f"date_trunc('day', at, '{zone}')" if bucket == "1 day" else f"date_bin('{bucket}', at, timestamptz 'epoch')"


def recount(bucket: str = "1 hour", zone: str = "UTC", where: str = "true") -> str:
    """The GROUP BY that rollup() must equal."""
    return (
        f"select {key(bucket, zone)} bucket, store, {AGGREGATES} from sales "
        f"where at is not null and isfinite(at) and ({where}) group by 1, 2"
    )


async def difference(conn: asyncpg.Connection, one: str, other: str) -> list[asyncpg.Record]:
    """Rows that stand in only one of two queries, from one snapshot."""
    rows: list[asyncpg.Record] = await conn.fetch(
        f"with a as materialized ({one}), b as materialized ({other}) "
        "(select 'first' side, a.* from a except all select 'first', b.* from b) union all "
        "(select 'second', b.* from b except all select 'second', a.* from a)"
    )
    return rows


async def declared(conn: asyncpg.Connection, **rollups: RollupSettings) -> None:
    """Declare these rollups and set up what can be."""
    await declare.apply(conn, rollups)
    await tend(conn)


async def refreshed(conn: asyncpg.Connection, name: str) -> Refreshed:
    """One refresh in its own transaction."""
    async with conn.transaction():
        return await refresh(conn, name)


async def settled(conn: asyncpg.Connection, name: str) -> None:
    """Refresh until nothing is dirty."""
    for _ in range(50):
        await dirty.normalise(conn)
        await refreshed(conn, name)
        if not await conn.fetchval(
            "select count(*) from ingestd.dirty d join ingestd.rollup r on r.id = d.rollup_id where r.name = $1", name
        ):
            return
    raise AssertionError(f"{name} does not settle")


def stored(name: str) -> str:
    """The stored table, in the columns that users see."""
    return f"select bucket, store, n, amounts, total, mean__sum / nullif(mean__count, 0) mean, low, high from rollups.{name}_stored"


async def exact(conn: asyncpg.Connection, name: str, expected: str) -> None:
    """The view equals the recount before and after a refresh, and so does the table after it."""
    assert await difference(conn, f"select * from rollups.{name}", expected) == [], "view, dirty"
    await settled(conn, name)
    assert await difference(conn, f"select * from rollups.{name}", expected) == [], "view, clean"
    assert await difference(conn, stored(name), expected) == [], "table"
