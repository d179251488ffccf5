"""Who keeps vacuum from removing dead rows, for how long, and what to do about it.

One old snapshot anywhere in the database makes every table that turns over grow, and so does one old transaction that has written
in any other database of the server. ingestd's own claims stay fast under it, but nothing shrinks before it ends, so whoever it is
gets named.

Weakness: replication slots and standbys do not tell since when they hold, nor do sessions whose role we may not look into;
they are timed from our first look at the same xmin.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from ingestd.events import Bus, HorizonHeld
from ingestd.facts import Check, Gauge, RoomFacts
from ingestd.health import store
from ingestd.health.store import Holder
from ingestd.postgres import locks
from ingestd.postgres.pool import Database
from ingestd.settings import format_duration

EVERY_S = 30.0
LONG = timedelta(minutes=5)
QUERY_CHARS = 80
NAMED_AT_ONCE = 5
KINDS = {"session": "session", "prepared": "prepared transaction", "slot": "replication slot", "standby": "standby"}
STANDBY_HINT = "end the long query on that standby, or switch hot_standby_feedback off there"
# What our sessions are for stands last in their names; the middle is a node.
OURS = re.compile(r"ingestd(?::(?P<node>[0-9a-f-]{36}))?:(?P<purpose>[a-z_:]+)$")


@dataclass(frozen=True, slots=True)
class Held:
    """Somebody who holds back the horizon, in words.

    Args:
        who: one line.
        name: the same in a few words.
        since: as far as it is known.
        transactions: how many have been given numbers since.
        hint: what to do.
    """

    who: str
    name: str
    since: datetime
    held_for: timedelta
    transactions: int
    hint: str


class Horizon:
    """Remembers who held back what since when.

    Args:
        db: read through its `services` connections.
        bus: told once of each that holds for long.
        long: for how long.
    """

    def __init__(self, db: Database, bus: Bus, long: timedelta = LONG) -> None:
        self._db = db
        self._bus = bus
        self._long = long
        self._seen: dict[tuple[str, str, str | None], datetime] = {}
        self._told: set[tuple[str, str]] = set()
        self._lock = asyncio.Lock()

    async def poll(self) -> float:
        """Look, and tell of whoever has begun to hold for long."""
        async with self._db.services() as conn:
            await self.look(conn)
        return EVERY_S

    async def look(self, conn: asyncpg.Connection) -> list[Held]:
        """Everybody who holds back the horizon now, the longest first."""
        async with self._lock:
            now = await locks.now(conn)
            found = await store.holders(conn)
            self._seen = {(one.kind, one.name, one.xmin): self._seen.get((one.kind, one.name, one.xmin), now) for one in found}
            since = {one: min(one.since or now, self._seen[one.kind, one.name, one.xmin]) for one in found}
            held = [await self._describe(conn, one, since[one], now) for one in found]
            self._tell({(one.kind, one.name): words for one, words in zip(found, held, strict=True)})
            return sorted(held, key=lambda one: one.since)

    def _tell(self, held: Mapping[tuple[str, str], Held]) -> None:
        long = {key for key, one in held.items() if one.held_for >= self._long}
        for key in long - self._told:
            self._bus.emit(HorizonHeld(held[key].who, held[key].held_for.total_seconds(), held[key].hint))
        self._told = long

    async def _describe(self, conn: asyncpg.Connection, one: Holder, since: datetime, now: datetime) -> Held:
        held_for = max(now - since, timedelta())
        ours = OURS.match(one.application_name) if one.kind == "session" and not one.elsewhere else None
        name = f"{KINDS[one.kind]} {one.name}"
        if held_for < self._long:
            return Held(name, name, since, held_for, one.transactions, "")  # nobody reads of those: look nothing up
        who, hint = await self._ours(conn, one, ours, since) if ours else describe(one)
        return Held(who, name, since, held_for, one.transactions, hint)

    async def _ours(self, conn: asyncpg.Connection, one: Holder, ours: re.Match[str], since: datetime) -> tuple[str, str]:
        session = f"session {one.pid} ({one.application_name}), {one.state or 'state hidden'}"
        jobs = await store.jobs_of(conn, one.application_name, one.pid or 0, since)
        certain = [job for job in jobs if job["certain"]] or jobs
        if not certain or ours["purpose"].rpartition(":")[2] not in ("handlers", "loader"):
            return f"ingestd itself: {session}{_query(one)}", f"look at it: {_ending(one)} ends it, and what it was for is begun again"
        named = " or ".join(f"job {job['id']} {job['kind']}" + (f" ({job['phase']})" if job["phase"] else "") for job in certain)
        first = certain[0]["id"]
        return (
            f"{named}: {session}{_query(one)}",
            f"`ingestd jobs show {first}` tells how far it is, `ingestd jobs cancel {first}` ends it",
        )

    async def checks(self, conn: asyncpg.Connection) -> list[Check]:
        """Whether somebody holds back the horizon for long."""
        held = await self.look(conn)
        long = [one for one in held if one.held_for >= self._long]
        threshold = format_duration(self._long)
        if not long:
            return [Check("horizon", "healthy", "vacuum can remove what is dead", threshold)]
        value = f"{long[0].who} has kept dead rows for {_about(long[0].held_for)}{_as_well(long[1:])}"
        return [Check("horizon", "degraded", value, threshold, long[0].since, long[0].hint)]

    async def gauges(self, conn: asyncpg.Connection) -> list[Gauge]:
        """How long, and for how many transactions, the oldest snapshot has been held."""
        held = await self.look(conn)
        longest = max((one.held_for.total_seconds() for one in held), default=0.0)
        farthest = max((one.transactions for one in held), default=0)
        return [
            Gauge("horizon_age_seconds", longest, "How long the oldest snapshot has kept dead rows from being removed."),
            Gauge("horizon_age_transactions", float(farthest), "Transactions since the oldest snapshot."),
        ]


def describe(one: Holder) -> tuple[str, str]:
    """Who it is and what to do about it."""
    there = f" in database {one.elsewhere}" if one.elsewhere else ""
    named = one.name.replace("'", "''")
    match one.kind:
        case "prepared":
            return (
                f"prepared transaction '{one.name}' of {one.owner}{there}",
                f"whoever prepared it forgot it:{there} `commit prepared '{named}'` or `rollback prepared '{named}'`",
            )
        case "slot":
            return f"replication slot {one.name} ({one.state}{', catalogs only' if one.catalogs_only else ''}){there}", _slot_hint(one)
        case "standby":
            return f"standby {one.name} by hot_standby_feedback", STANDBY_HINT
    who = (
        f"session {one.pid} ({one.application_name or 'no application_name'}, role {one.owner}){there}, "
        f"{one.state or 'state hidden'}{_query(one)}"
    )
    if (one.state or "").startswith("idle in transaction"):
        return who, f"its program forgot to commit: {_ending(one)}, and set idle_in_transaction_session_timeout for its role"
    if one.state is None:
        return who, f"grant pg_read_all_stats to ingestd's role to see what it does; {_ending(one)} ends it"
    return who, f"wait for its query, or end it: {_ending(one)}"


def _slot_hint(one: Holder) -> str:
    if one.state != "active":
        return f"start its consumer, or if there is none any more: `select pg_drop_replication_slot('{one.name}')`"
    if one.catalogs_only:
        return "its consumer is there and does not confirm what it reads: look at it and at pg_stat_replication"
    return STANDBY_HINT


def _as_well(others: Sequence[Held]) -> str:
    if not others:
        return ""
    more = len(others) - NAMED_AT_ONCE
    return f"; so have {', '.join(one.name for one in others[:NAMED_AT_ONCE])}" + (f" and {more} more" if more > 0 else "")


def _ending(one: Holder) -> str:
    return f"`select pg_terminate_backend({one.pid})`"


def _query(one: Holder) -> str:
    words = " ".join(one.query.split())
    if not words:
        return ""
    return f": {words[:QUERY_CHARS]}{'…' if len(words) > QUERY_CHARS else ''}"


def _about(span: timedelta) -> str:
    seconds = int(span.total_seconds())
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"


def facts(horizon: Horizon) -> RoomFacts:
    """The horizon's check and gauges."""
    return RoomFacts(gauges=horizon.gauges, checks=horizon.checks)
