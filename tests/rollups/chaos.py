"""Writers, refreshers, killed backends and readers at once, until each has done enough; the readers compare the view with the recount.

A mutant is a run with one safeguard removed and delays injected where it matters: its readers must see wrong numbers, or the
run would prove nothing.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import asyncpg
import pytest

from ingestd.postgres.session import connect
from ingestd.rollups import sql
from ingestd.rollups.refresh import refresh
from ingestd.rollups.store import dirty
from tests.rollups import kit

ZONE = "Europe/Amsterdam"
MOST_S = 120.0
START = "timestamptz '2026-10-24 12:00+00'"  # two days around the night when clocks go back


@dataclass
class Ledger:
    """What happened, and what was wrong."""

    writes: int = 0
    rollbacks: int = 0
    refreshes: int = 0
    failures: int = 0
    kills: int = 0
    snapshots: int = 0
    wrong: list[str] = field(default_factory=list)


class Chaos:
    """One run.

    Args:
        enough: what has happened by its end, unless something is wrong before.
        killing: end refreshing backends from time to time.
    """

    def __init__(self, dsn: str, seed: int, enough: Callable[[Ledger], bool], *, killing: bool = True) -> None:
        self.dsn = dsn
        self.dice = random.Random(seed)
        self.ends = time.monotonic() + MOST_S
        self.enough = enough
        self.killing = killing
        self.ledger = Ledger()

    @property
    def going(self) -> bool:
        return not self.ledger.wrong and not self.enough(self.ledger) and time.monotonic() < self.ends

    async def run(self) -> Ledger:
        conn = await connect(self.dsn)
        await conn.execute(f"drop table if exists public.sales cascade; {kit.SALES}")
        await conn.execute(
            f"insert into sales (at, store, amount) select {START} + n * interval '2 minutes', n % 4, n % 50 "
            "from generate_series(1, 1400) n"
        )
        await kit.declared(conn, hourly=kit.rollup(), daily=kit.rollup(bucket="1 day", timezone=ZONE))
        await kit.settled(conn, "hourly")
        await kit.settled(conn, "daily")
        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(self.write(), name=f"writer {number}")
            for number in range(3):
                group.create_task(self.refresh(), name=f"refresher {number}")
            group.create_task(self.normalise(), name="normaliser")
            group.create_task(self.read(), name="reader")
            if self.killing:
                group.create_task(self.kill(), name="killer")
        await kit.settled(conn, "hourly")
        await kit.settled(conn, "daily")
        for name, expected in (("hourly", kit.recount()), ("daily", kit.recount("1 day", ZONE))):
            if await kit.difference(conn, kit.stored(name), expected):
                self.ledger.wrong.append(f"{name} table at the end")
        await conn.close()
        return self.ledger

    async def write(self) -> None:
        conn = await connect(self.dsn)
        while self.going:
            low = self.dice.randrange(1500)
            statement = self.dice.choice(
                [
                    f"insert into sales (at, store, amount) values ({START} + interval '{low * 2} minutes', {low % 4}, {low % 7})",
                    f"update sales set amount = amount + 1 where id between {low} and {low + 3}",
                    f"update sales set at = at + interval '{self.dice.randrange(-200, 200)} minutes' where id = {low}",
                    f"delete from sales where id between {low} and {low + 1}",
                ]
            )
            transaction = conn.transaction()
            await transaction.start()
            await conn.execute(statement)
            await asyncio.sleep(self.dice.uniform(0, 0.03))
            if self.dice.random() < 0.1:
                await transaction.rollback()
                self.ledger.rollbacks += 1
            else:
                await transaction.commit()
                self.ledger.writes += 1
        await conn.close()

    async def refresh(self) -> None:
        conn = None
        while self.going:
            try:
                conn = conn or await connect(self.dsn, application_name="refresher")
                async with conn.transaction():
                    done = await refresh(conn, self.dice.choice(["hourly", "daily"]), budget_s=0.2)
                    await asyncio.sleep(self.dice.uniform(0, 0.01))
                self.ledger.refreshes += done.chunks
            except (asyncpg.PostgresError, asyncpg.InternalClientError, asyncpg.InterfaceError, OSError):
                # asyncpg may raise any of these for a backend that was ended
                self.ledger.failures += 1
                if conn is not None:
                    conn.terminate()
                conn = None
            await asyncio.sleep(0.002)
        if conn is not None:
            await conn.close()

    async def normalise(self) -> None:
        conn = await connect(self.dsn)
        while self.going:
            await dirty.normalise(conn)
            await asyncio.sleep(self.dice.uniform(0, 0.05))
        await conn.close()

    async def read(self) -> None:
        conn = await connect(self.dsn)
        while self.going:
            async with conn.transaction(isolation="repeatable_read", readonly=True):
                for name, expected in (("hourly", kit.recount()), ("daily", kit.recount("1 day", ZONE))):
                    self.ledger.snapshots += 1
                    if await kit.difference(conn, f"select * from rollups.{name}", expected):
                        self.ledger.wrong.append(f"{name} view")
        await conn.close()

    async def kill(self) -> None:
        conn = await connect(self.dsn)
        while self.going:
            await asyncio.sleep(self.dice.uniform(0.05, 0.3))
            self.ledger.kills += await conn.fetchval(
                "select count(*) from (select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and application_name = 'refresher' and state <> 'idle' limit 1) killed"
            )
        await conn.close()


def slow_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a refresh linger between its snapshot and its writes, where an unlocked one does harm."""
    made = sql.refresh

    def lingering(shape: sql.Shape, table: str) -> str:
        statement = made(shape, table)
        assert "with claimed as (" in statement
        assert "id = any ($1::bigint[])" in statement
        # before the delete: once that has locked the dirty rows, they alone would hold the other refresh off
        return statement.replace(
            "with claimed as (", "with pause as materialized (select pg_sleep(random() * 0.06)), claimed as ("
        ).replace("id = any ($1::bigint[])", "id = any ($1::bigint[]) and (select count(*) from pause) = 1")

    monkeypatch.setattr(sql, "refresh", lingering)


def unlock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: refreshes do not exclude each other."""

    async def always(_conn: asyncpg.Connection, _rollup_id: int) -> bool:
        return True

    monkeypatch.setattr(dirty, "try_lock_rollup", always)
