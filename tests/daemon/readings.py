"""A file big enough that its load can be interrupted, and the table it must become."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.daemon.harness import Site
from tests.support import eventually

IMPORT = """
[imports.readings]
source = "inbox/*.csv"
table = "public.readings"
mode = "upsert"
key = ["meter_id", "reading"]
poll = "100ms"
settle = "100ms"
"""
UNDER_WAY = "select 1 from pg_stat_progress_copy where datname = current_database() and tuples_processed > $1"


def write_readings(file: Path, rows: int, start: int = 0, note: str = "as read") -> None:
    """Write a file whose row n holds n as its value; it appears whole."""
    file.parent.mkdir(exist_ok=True)
    hidden = file.with_name(f".{file.name}.part")
    with hidden.open("w", encoding="ascii") as out:
        out.write("meter_id,reading,value,note\n")
        for first in range(start, start + rows, 10_000):
            out.writelines(f"{n % 100},{n},{n}.5,{note} {n}\n" for n in range(first, min(first + 10_000, start + rows)))
    hidden.replace(file)


async def put_readings(site: Site, name: str, rows: int, **how: object) -> None:
    """Put such a file into the inbox."""
    await asyncio.to_thread(write_readings, site.inbox / name, rows, **how)


async def in_the_middle(site: Site, rows: int) -> None:
    """Until a load has brought that many rows into Postgres, of which none is committed."""
    async with site.connection() as conn:
        await eventually(lambda: conn.fetchval(UNDER_WAY, rows), every_s=0.005, saying="a load is under way")


async def all_loaded(site: Site, *names: str, timeout_s: float = 90.0) -> None:
    """Until each of these files has been loaded once, and nothing else has."""

    async def settled() -> bool:
        found = await site.ask("select array_agg(file_name || ' ' || status order by file_name, id) from ingestd.load")
        return found == [f"{name} succeeded" for name in sorted(names)]

    await eventually(settled, timeout_s=timeout_s, every_s=0.1, saying=f"{names} loaded")
