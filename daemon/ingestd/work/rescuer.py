"""Brings back the jobs of nodes that died, never those of nodes that live.

Death on this machine is exact (`presence`) and acted on at once. Elsewhere it is a session lock that was free on three looks
a second apart, on a server that has been up long enough for living nodes to have taken theirs again. Behind a pooler, where no
session belongs to anybody, it is a heartbeat that has stood still. A process that lives and has not beaten for `stall_limit` is
treated as dead too: stopped, or starved. If it comes back, everything it writes about its old jobs is refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import UUID

import asyncpg

from ingestd.events import Bus, JobsRescued, Notice
from ingestd.jobs.store import rescue as rescue_store
from ingestd.postgres.pool import Database
from ingestd.work import store
from ingestd.work.death import LOOKS, SETTLES_S, DeathWatch
from ingestd.work.node import NodeIdentity, application_name
from ingestd.work.presence import Presence

EVERY_S = 1.0


class Rescuer:
    """Looks for dead nodes once a second.

    Args:
        db: its pools.
        node: this one, which it never looks at.
        presence: the lock files of this machine.
        bus: where rescues are told.
        sessions: how many sessions this node's own heartbeat has had; another one means that the server was away for us too.
        stall_limit_s: see `DeathWatch`.
    """

    def __init__(
        self,
        db: Database,
        node: NodeIdentity,
        presence: Presence,
        bus: Bus,
        sessions: Callable[[], int],
        stall_limit_s: float = 600.0,
    ) -> None:
        self._db = db
        self._node = node
        self._presence = presence
        self._bus = bus
        self._sessions = sessions
        self._watch = DeathWatch(stall_limit_s)
        self._may_not_terminate = False

    async def poll(self) -> float:
        """One look at all other nodes; returns the seconds until the next."""
        async with self._db.services() as conn:
            peers = await store.peers(conn, self._node.id)
            self._watch.look(time.monotonic(), self._sessions(), {peer["id"]: peer["heartbeat_at"] for peer in peers})
            for peer in peers:
                why = await self._death_of(conn, peer)
                if why:
                    await self._bury(conn, peer["id"], peer["name"], why)
            for node, state in await store.buried_with_jobs(conn):
                # Who stopped in order has ended its jobs before: they killed nobody.
                started = set[int]() if state == "stopped" else self._presence.started(node)
                await self._rescue(conn, node, str(node), f"it was {state} already", started)
        return EVERY_S

    async def _death_of(self, conn: asyncpg.Connection, peer: asyncpg.Record) -> str | None:
        node, silent_s = peer["id"], peer["silent_s"]
        dead = self._presence.is_dead(node)
        if dead:
            return "its process has ended"
        # Where the process can be seen to live, on this machine, silence alone proves little.
        unseen = dead is None
        if unseen and not peer["by_heartbeat"]:
            free = self._watch.lock_seen(node, free=await store.lock_is_free(conn, peer["lock_key"]))
            if free and await store.server_up_s(conn) >= SETTLES_S:
                return f"its session lock was free {LOOKS} times and it has been silent for {silent_s:.0f} s"
        if self._watch.is_silent(node, silent_s, lives_elsewhere_by_heartbeat=unseen and peer["by_heartbeat"]):
            return f"it has been silent for {silent_s:.0f} s"
        return None

    async def _bury(self, conn: asyncpg.Connection, node: UUID, name: str, why: str) -> None:
        await store.end(conn, node, "dead")
        await self._rescue(conn, node, name, why, self._presence.started(node))
        if self._presence.is_dead(node):
            self._presence.forget(node)

    async def _rescue(self, conn: asyncpg.Connection, node: UUID, name: str, why: str, started: set[int] | None) -> None:
        await self._terminate(conn, node)
        rescued = await rescue_store.rescue(conn, node, why, started)
        if rescued.claimable:
            self._bus.emit(JobsRescued(name, len(rescued.claimable), why))
        for job_id in rescued.quarantined:
            told = f"job {job_id} took its process down too often and was quarantined: `ingestd jobs show {job_id}` has each time"
            self._bus.emit(Notice(f"{told}; repair the cause, then `ingestd jobs retry {job_id}`", "error", {"job_id": job_id}))

    async def _terminate(self, conn: asyncpg.Connection, node: UUID) -> None:
        try:
            await rescue_store.terminate_backends(conn, application_name(node))
        except asyncpg.InsufficientPrivilegeError as error:
            # Another role's sessions end when the server notices that nobody is there; until then their rows are skipped.
            if not self._may_not_terminate:
                self._bus.emit(Notice(f"the sessions of a dead node cannot be ended: {error}; grant pg_signal_backend to this role"))
            self._may_not_terminate = True
