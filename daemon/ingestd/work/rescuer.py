"""Brings back the jobs of nodes that died, never those of nodes that live.

Death on this machine is exact (`presence`) and acted on at once. Elsewhere it is a session lock that was free on three looks
a second apart, on a server that has been up long enough for living nodes to have taken theirs again.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import asyncpg

from ingestd.events import Bus, JobsRescued, Notice
from ingestd.jobs.store import rescue as rescue_store
from ingestd.postgres.pool import Database
from ingestd.work import store
from ingestd.work.node import NodeIdentity, application_name
from ingestd.work.presence import Presence

EVERY_S = 1.0
LOOKS = 3
SERVER_SETTLES_S = 30.0


class Rescuer:
    """Looks for dead nodes once a second.

    Args:
        db: its pools.
        node: this one, which it never looks at.
        presence: the lock files of this machine.
        bus: where rescues are told.
        sessions: how many sessions this node's own heartbeat has had; another one means that the server was away for us too.
    """

    def __init__(self, db: Database, node: NodeIdentity, presence: Presence, bus: Bus, sessions: Callable[[], int]) -> None:
        self._db = db
        self._node = node
        self._presence = presence
        self._bus = bus
        self._looks: dict[UUID, int] = {}
        self._sessions = sessions
        self._session = 0

    async def poll(self) -> float:
        """One look at all other nodes; returns the seconds until the next."""
        async with self._db.services() as conn:
            self._forget_looks_of_broken_session()
            peers = await store.peers(conn, self._node.id)
            for peer in peers:
                why = await self._death_of(conn, peer)
                if why:
                    await self._bury(conn, peer["id"], peer["name"], why)
            for node in await store.buried_with_jobs(conn):
                await self._rescue(conn, node, str(node), "it was dead already")
        known = {peer["id"] for peer in peers}
        self._looks = {node: looks for node, looks in self._looks.items() if node in known}
        return EVERY_S

    def _forget_looks_of_broken_session(self) -> None:
        # Whoever lost its own session meanwhile may have seen a server going down, not a node dying.
        session = self._sessions()
        if session != self._session:
            self._looks.clear()
            self._session = session

    async def _death_of(self, conn: asyncpg.Connection, peer: asyncpg.Record) -> str | None:
        dead = self._presence.is_dead(peer["id"])
        if dead is not None:
            return "its process has ended" if dead else None
        if not await store.lock_is_free(conn, peer["lock_key"]):
            self._looks.pop(peer["id"], None)
            return None
        self._looks[peer["id"]] = self._looks.get(peer["id"], 0) + 1
        if self._looks[peer["id"]] < LOOKS or await store.server_up_s(conn) < SERVER_SETTLES_S:
            return None
        return f"its session lock was free {LOOKS} times and it has been silent for {peer['silent_s']:.0f} s"

    async def _bury(self, conn: asyncpg.Connection, node: UUID, name: str, why: str) -> None:
        await store.end(conn, node, "dead")
        await self._rescue(conn, node, name, why)
        self._presence.forget(node)

    async def _rescue(self, conn: asyncpg.Connection, node: UUID, name: str, why: str) -> None:
        await rescue_store.terminate_backends(conn, application_name(node))
        rescued = await rescue_store.rescue(conn, node, why)
        if rescued.claimable:
            self._bus.emit(JobsRescued(name, len(rescued.claimable), why))
        for job_id in rescued.quarantined:
            self._bus.emit(Notice(f"job {job_id} took its process down too often and was quarantined", "error"))
