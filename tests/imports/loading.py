"""A bench for loads: writes a file, its rows in the tables of arrivals, a claimed job, and runs the load on it."""

from __future__ import annotations

import hashlib
import itertools
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg

from ingestd.imports.request import LoadOutcome, LoadRequest
from ingestd.postgres.session import connect

STORE = uuid.UUID(int=7)
NODE = uuid.UUID(int=8)
Runner = Callable[[LoadRequest], Awaitable[LoadOutcome]]


class LoadBench:
    """Loads text as files into one database.

    Args:
        conn: for setting up and looking.
        runner: runs a request; by default in this process.
    """

    def __init__(self, dsn: str, conn: asyncpg.Connection, folder: Path, runner: Runner | None = None) -> None:
        self.dsn = dsn
        self.conn = conn
        self.folder = folder
        self.progress: list[tuple[float, str]] = []
        self._runner = runner or self.run_here
        self._numbers = itertools.count(1)

    async def run_here(self, request: LoadRequest) -> LoadOutcome:
        from ingestd.imports import load

        return await load.run(request, lambda: connect(self.dsn), lambda *what: self.progress.append(what))

    async def request(self, content: bytes | str, *, name: str = "data.csv", **options: Any) -> LoadRequest:
        """Everything a load needs, as the room's other half would have prepared it."""
        data = content.encode() if isinstance(content, str) else content
        number = next(self._numbers)
        path = self.folder / f"{number}.kept"
        path.write_bytes(data)
        given = {"target": "public.t", "mode": "append", "key": (), "import_name": "things"} | options
        file_id = await self.conn.fetchval(
            "insert into ingestd.file (sha256, size, store, path) values ($1, $2, $3, $4) "
            "on conflict (sha256, size, store) do update set path = excluded.path returning id",
            hashlib.sha256(data).digest(), len(data), STORE, str(path),
        )  # fmt: skip
        arrival = await self.conn.fetchval(
            "insert into ingestd.arrival (import, store, path, name, size, mtime_ns, file_id) "
            "values ($1, $2, $3, $4, $5, $6, $7) returning id",
            given["import_name"], STORE, str(path), name, len(data), number, file_id,
        )  # fmt: skip
        claim = uuid.uuid4()
        job = await self.conn.fetchval(
            "insert into ingestd.job (kind, queue_id, attempt, claim, node, claimed_at) "
            "select 'load', id, 1, $1, $2, now() from ingestd.queue where name = 'imports' returning id",
            claim, NODE,
        )  # fmt: skip
        load = await self.conn.fetchval(
            "insert into ingestd.load (import, target, mode, arrival_id, file_id, file_name, job_id, bytes, triggered_by) "
            "values ($1, $2, $3, $4, $5, $6, $7, $8, 'cli') returning id",
            given["import_name"], given["target"], given["mode"], arrival, file_id, name, job, len(data),
        )  # fmt: skip
        base = LoadRequest(
            load_id=load, job_id=job, claim=str(claim), import_name="", path=str(path), file_name=name, file_id=file_id,
            size=len(data), target="", mode="append",
        )  # fmt: skip
        return replace(base, **given)

    async def load(self, content: bytes | str, **options: Any) -> LoadOutcome:
        """Load some content; checks that what is committed agrees with the answer, and that the counts add up."""
        request = await self.request(content, **options)
        outcome = await self._runner(request)
        await self.check(request, outcome)
        return outcome

    async def check(self, request: LoadRequest, outcome: LoadOutcome) -> None:
        """The books agree: load row, rejects, history."""
        row = await self.conn.fetchrow("select * from ingestd.load where id = $1", request.load_id)
        assert row["status"] == outcome.status
        assert row["reason"] == outcome.reason
        for name, number in outcome.counts.items():
            assert row[name] == number, name
        assert outcome.adds_up or outcome.status == "failed"
        rejects = await self.conn.fetchval("select count(*) from ingestd.reject where load_id = $1", request.load_id)
        assert rejects == outcome.rejected
        history = await self.conn.fetchrow("select state, partial from ingestd.history where id = $1", request.job_id)
        assert history["state"] == ("failed" if outcome.status == "failed" else "succeeded")
        assert history["partial"] == (outcome.status == "partial")
        assert not await self.conn.fetchval("select exists (select from ingestd.job where id = $1)", request.job_id)
        left = await self.conn.fetchval(
            "select count(*) from pg_class where relnamespace = 'ingestd_stg'::regnamespace and relname = $1",
            f"load_{request.load_id}",
        )
        assert left == 0

    async def rows(self, query: str = "select * from t order by 1") -> list[tuple[Any, ...]]:
        """Rows of a query, without our own columns."""
        found = await self.conn.fetch(query)
        return [tuple(v for k, v in row.items() if not k.startswith("_ingestd")) for row in found]

    async def rejects(self) -> list[tuple[int, str | None, str, str]]:
        """Record, column, code and raw text of every reject of the latest load."""
        found = await self.conn.fetch(
            'select record, "column", code, raw from ingestd.reject where load_id = (select max(id) from ingestd.load) order by record'
        )
        return [tuple(row) for row in found]

    async def reasons(self) -> list[str]:
        """Reasons of the rejects of the latest load."""
        found = await self.conn.fetch(
            "select reason from ingestd.reject where load_id = (select max(id) from ingestd.load) order by record"
        )
        return [row["reason"] for row in found]

    async def types(self, table: str = "t") -> dict[str, str]:
        """SQL type by column."""
        found = await self.conn.fetch(
            "select attname, format_type(atttypid, atttypmod) as type from pg_attribute "
            "where attrelid = $1::regclass and attnum > 0 and not attisdropped order by attnum",
            table,
        )
        return {row["attname"]: row["type"] for row in found if not row["attname"].startswith("_ingestd")}
