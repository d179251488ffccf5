"""The database that programs of the queue's model run on, and what must be so in it whatever the model says."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from ingestd.postgres.session import connect

FORGET = """
delete from ingestd.job; delete from ingestd.history; delete from ingestd.unique_hold; delete from ingestd.key_hold;
delete from ingestd.job_stat; delete from ingestd.queue_rate; delete from ingestd.workflow_run; delete from ingestd.node;
delete from ingestd.audit; update ingestd.queue set paused_at = null, paused_by = null"""
HOURS_PASS = """
with jobs as (update ingestd.job set run_at = run_at - $1::interval, due_at = due_at - $1::interval),
     periods as (update ingestd.unique_hold set expires_at = expires_at - $1::interval)
update ingestd.queue_rate set at = array(select a - $1::interval from unnest(at) a)"""
# What must be so whatever the model says.
BROKEN = """
select 'a job is in two places', id::text from ingestd.job where id in (select id from ingestd.history)
union all select 'a job ended twice', id::text from ingestd.history group by id having count(*) > 1
union all select 'a unique key is held by two jobs', unique_key from ingestd.job group by unique_key
    having unique_key is not null and count(*) > 1
union all select 'two jobs of a strict key may run', key from ingestd.job where key is not null and parked & 2 = 0
    group by key having bool_or(key_strict) and count(*) > 1
union all select 'a parent runs before its children are final', p.id::text from ingestd.job p
    where p.parked & 4 <> 0 and p.claim is not null
union all select 'a step runs before those it waits for', j.id::text from ingestd.job j join ingestd.workflow_step s on s.job_id = j.id
    where s.state = 'blocked' and (j.claim is not null or j.parked & 1 = 0)
union all select 'a claim without a node', id::text from ingestd.job
    where claim is not null and node not in (select id from ingestd.node)"""

T = TypeVar("T")


def same(real: dict[Any, Any], model: dict[Any, Any]) -> None:
    """Only what differs is told of."""
    wrong = {key: (real.get(key), model.get(key)) for key in real.keys() | model.keys() if real.get(key) != model.get(key)}
    assert not wrong, f"(real, model): {wrong}"


class Lab:
    """A database, and a loop of its own that runs one coroutine at a time."""

    def __init__(self, dsn: str) -> None:
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self.conn, self.other = self.run(connect(dsn)), self.run(connect(dsn))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.get_loop().run_until_complete(asyncio.wait_for(work, 60))

    def close(self) -> None:
        self.run(self.conn.close())
        self.run(self.other.close())
        self._runner.close()
