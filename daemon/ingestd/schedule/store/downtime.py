"""Times in which nothing fired slots: found by the pulse of those who do, counted once what fell into them is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import asyncpg

# The row of the pulse is the fence: of many nodes that come back at once, the first one notes the gap, the others find it closed.
# Where there is nothing to fire, nobody misses the one who does.
NOTE = """
with gap as materialized (
    select at from ingestd.schedule_pulse where at < now() - $1::interval for update
), closed as (
    update ingestd.schedule_pulse p set at = now() from gap
), noted as (
    insert into ingestd.downtime (began_at, ended_at) select at, now() from gap
    where exists (select from ingestd.schedule where removed_at is null and enabled)
    returning id
)
select exists (select from noted) or exists (select from ingestd.downtime where counted_at is null)"""

# Set back as well: a clock that was ahead for a while must not hide the next gap.
BEAT = """
insert into ingestd.schedule_pulse as p (at) values (now())
on conflict (one) do update set at = now() where p.at < now() - $1::interval or p.at > now()"""

# Once nothing is due any more that came due in it. A schedule that another node fires just now is still due to everybody else.
COUNT = """
with over as materialized (
    select d.id, d.began_at, d.ended_at from ingestd.downtime d
    where d.counted_at is null and not exists (
        select from ingestd.schedule s where s.next_due_at <= d.ended_at and s.removed_at is null and s.enabled)
    for update of d skip locked
)
update ingestd.downtime d
set counted_at = now(), schedules = c.schedules, missed = c.missed, late = c.late
from over o cross join lateral (
    select count(distinct l.schedule) as schedules, coalesce(sum(l.slots) filter (where l.state = 'missed'), 0) as missed,
           count(*) filter (where l.state = 'late') as late
    from ingestd.slot l
    where l.due_at > o.began_at and l.due_at <= o.ended_at and l.state in ('late', 'missed')
      and (l.state = 'missed' or l.triggered_by = 'catch_up')
) c
where d.id = o.id
returning d.began_at, d.ended_at, d.schedules, d.missed, d.late"""

SPANS = "select began_at, ended_at from ingestd.downtime where ended_at >= $1"


async def note(conn: asyncpg.Connection, gap: timedelta) -> bool:
    """Note that nothing fired slots until now, if the last look is longer ago than `gap`; whether a downtime is still to be counted."""
    found: bool = await conn.fetchval(NOTE, gap)
    return found


async def beat(conn: asyncpg.Connection, every: timedelta) -> None:
    """Leave word that slots are looked after, unless somebody has within `every`."""
    await conn.execute(BEAT, every)


async def count(conn: asyncpg.Connection) -> list[asyncpg.Record]:
    """Sum up downtimes whose slots have all been recorded; each is returned to one caller only."""
    rows: list[asyncpg.Record] = await conn.fetch(COUNT)
    return rows


async def spans(conn: asyncpg.Connection, since: datetime) -> Sequence[tuple[datetime, datetime]]:
    """Downtimes that ended at that time or later."""
    return [(row["began_at"], row["ended_at"]) for row in await conn.fetch(SPANS, since)]
