"""Whether Postgres answers and takes writes, and who keeps vacuum from removing what is dead."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import asyncpg

PING = "select not current_setting('transaction_read_only')::boolean as takes_writes, to_regclass('ingestd.job') is not null as is_ours"

# Everything whose xmin counts for this database's own tables: sessions in it with a snapshot or a transaction number, prepared
# transactions in it, replication slots, and standbys that feed theirs back (those sessions belong to no database).
# A snapshot of READ COMMITTED is as old as the statement; with a transaction number, or between statements, the whole
# transaction counts. VACUUM holds back nobody. What a session of somebody else runs is hidden, not that it has a snapshot.
# Of another database snapshots do not count, but transaction numbers do: whoever takes a snapshot here takes it from the oldest
# number of the whole server, so where somebody always has one, all is held back. Slots hold in every database anyway.
HOLDERS = """
select 'session' as kind, pid::text as name, pid, application_name, usename::text as owner, state,
       case when backend_xid is not null or state like 'idle%' then xact_start else query_start end as since,
       case when here.is then greatest(age(backend_xmin), age(backend_xid)) else age(backend_xid) end as transactions,
       coalesce(backend_xid, backend_xmin)::text as xmin, left(query, 200) as query,
       case when not here.is then datname::text end as elsewhere, false as catalogs_only
from pg_stat_activity a cross join lateral (select datname = current_database()) here("is")
where (backend_xid is not null or here.is and backend_xmin is not null) and datname is not null and pid <> pg_backend_pid()
  and coalesce(backend_type, 'client backend') in ('client backend', 'background worker')
  and not exists (select from pg_stat_progress_vacuum v where v.pid = a.pid)
union all
select 'prepared', gid, null, '', owner::text, 'prepared', prepared, age(transaction), transaction::text, '',
       nullif(database::text, current_database()::text), false
from pg_prepared_xacts
union all
select 'slot', slot_name::text, active_pid, coalesce(plugin, ''), '', case when active then 'active' else 'inactive' end, null,
       greatest(age(xmin), age(catalog_xmin)), coalesce(xmin, catalog_xmin)::text, '',
       nullif(database::text, current_database()::text), xmin is null
from pg_replication_slots
where xmin is not null or catalog_xmin is not null
union all
select 'standby', coalesce(host(client_addr), application_name), pid, application_name, usename::text, state, null, age(backend_xmin),
       backend_xmin::text, '', null, false
from pg_stat_replication where backend_xmin is not null
order by transactions desc nulls last limit 20"""

# Which of a node's jobs a session of it works for: the one that says so itself, else those that had begun by then.
JOBS_OF = """
select j.id, j.kind, p.progress -> j.id::text ->> 'text' as phase, (p.progress -> 'backends' ->> j.id::text)::integer = $2 as certain
from ingestd.node n join ingestd.node_progress p on p.node = n.id join ingestd.job j on j.id = any (p.started)
where starts_with($1, 'ingestd:' || n.id::text) and (j.claimed_at <= $3 or (p.progress -> 'backends' ->> j.id::text)::integer = $2)
order by certain desc nulls last, j.claimed_at limit 4"""


@dataclass(frozen=True, slots=True)
class Holder:
    """Something that keeps dead rows from being removed.

    Args:
        kind: session, prepared, slot or standby.
        name: its pid, transaction id, slot or standby.
        pid: of its backend, if it has one.
        owner: the role.
        since: of its snapshot; None where the server does not tell.
        transactions: how many have been given numbers since.
        xmin: what it holds, as text.
        query: what it runs or ran last, its beginning.
        elsewhere: the database that it belongs to, if not to this one.
        catalogs_only: users' tables are not held back by it.
    """

    kind: str
    name: str
    pid: int | None
    application_name: str
    owner: str
    state: str | None
    since: datetime | None
    transactions: int
    xmin: str | None
    query: str
    elsewhere: str | None
    catalogs_only: bool


async def ping(conn: asyncpg.Connection) -> tuple[bool, bool]:
    """Have the server answer: whether it takes writes, and whether our tables are there."""
    row = await conn.fetchrow(PING)
    return row["takes_writes"], row["is_ours"]


async def holders(conn: asyncpg.Connection) -> list[Holder]:
    """Who holds back the horizon, the farthest first."""
    return [Holder(**row) for row in await conn.fetch(HOLDERS)]


async def jobs_of(conn: asyncpg.Connection, application_name: str, pid: int, since: datetime) -> list[asyncpg.Record]:
    """Jobs that a session of one of our nodes may work for: id, kind, phase and whether it is certain.

    Args:
        since: its transaction's start.
    """
    rows: list[asyncpg.Record] = await conn.fetch(JOBS_OF, application_name, pid, since)
    return rows
