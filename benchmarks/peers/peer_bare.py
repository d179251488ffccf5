"""No queue at all: one insert with a NOTIFY, and a listener that claims the row by its id. What a pick-up costs at the least here.

Both commits are durable, as a queue's are; there is no retry, no limit, no acknowledgement, no worker pool and no second index.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import asyncpg
from driver import Side, serve
from meter import worker_meter

INSERT = "with made as (insert into bare_job (args) values ($1) returning id) select pg_notify('bare_job', id::text) from made"
CLAIM = "update bare_job set claim = gen_random_uuid() where id = $1 and claim is null returning args"


class Bare(Side):
    async def connect(self, url: str, clients: int) -> None:
        self.conn = await asyncpg.connect(url)

    async def setup(self) -> None:
        await self.conn.execute("create table bare_job (id bigserial primary key, args text, claim uuid)")

    async def ping(self, sent_ns: int, urgent: bool) -> None:
        await self.conn.execute(INSERT, str(sent_ns))

    async def close(self) -> None:
        await self.conn.close()


async def work() -> None:
    meter = worker_meter()
    url = os.environ["BENCH_URL"]
    listens, claims = await asyncpg.connect(url), await asyncpg.connect(url)
    told: asyncio.Queue[int] = asyncio.Queue()

    def hear(_conn: Any, _pid: int, _channel: str, payload: str) -> None:
        told.put_nowait(int(payload))

    await listens.add_listener("bare_job", hear)
    # Sent before anybody listened.
    for row in await claims.fetch("select id from bare_job where claim is null"):
        told.put_nowait(row["id"])
    while True:
        sent = await claims.fetchval(CLAIM, await told.get())
        if sent is not None:
            meter.ping(int(sent))


if __name__ == "__main__":
    if sys.argv[1] == "work":
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        asyncio.run(work())
    else:
        serve(Bare())
