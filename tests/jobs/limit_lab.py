"""Limited queues without a worker: queues, nodes that have a row, and claimers on connections of their own."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg

from ingestd.jobs.model import Job, State
from ingestd.jobs.settings import QueueSettings
from ingestd.jobs.store import ack, limits, queues
from ingestd.jobs.store.ack import Result
from ingestd.jobs.store.claim import Claimant
from ingestd.jobs.store.limits import Taken
from ingestd.work.cursor import Cursor

STORE = uuid.uuid4()
REGISTER = """
insert into ingestd.node (id, store, name, host, pid, version, duties, lock_key) values ($1, $2, $3, 'h', 1, '0', '{work}', 0)"""


async def declare(conn: asyncpg.Connection, name: str = "narrow", **settings: Any) -> int:
    """Make a queue; returns its id."""
    await queues.declare_queue(conn, name, QueueSettings(**settings))
    number: int = await conn.fetchval("select id from ingestd.queue where name = $1", name)
    return number


async def register(conn: asyncpg.Connection, node: UUID | None = None, name: str = "h:1") -> UUID:
    """Give a node its row, as a heartbeat does."""
    node = node or uuid.uuid4()
    await conn.execute(REGISTER, node, STORE, name)
    return node


@dataclass
class Narrow:
    """One node that claims from one limited queue.

    Args:
        conn: its connection.
        queue: the queue's id.
        node: its UUID; it has a row.
        kinds: what it can run.
    """

    conn: asyncpg.Connection
    queue: int
    node: UUID
    kinds: list[str] = field(default_factory=lambda: ["k"])

    async def claim(self, free: int = 100) -> Taken:
        """Take what the limits leave, from the very front."""
        cursor = Cursor()
        cursor.know(range(-100, 101, 10))
        who = Claimant(uuid.uuid4(), self.node, self.kinds, STORE)
        return await limits.claim_within_limit(self.conn, who, self.queue, "narrow", free, cursor.bounds())

    async def finish(self, *jobs: Job) -> None:
        """Ack them."""
        await ack.ack(self.conn, [Result(job.id, job.claim, State.SUCCEEDED) for job in jobs])
