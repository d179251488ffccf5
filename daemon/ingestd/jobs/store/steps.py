"""Workflow runs and their steps: inserted with their jobs in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

NEW_RUN = """
insert into ingestd.workflow_run (workflow, definition, triggered_by, correlation_id, job_id) values ($1, $2, $3, $4, $5) returning id"""
NEW_STEP = """
insert into ingestd.workflow_step (run, step, position, after, on_failure, require, job_id, state)
values ($1, $2, $3, $4, $5, $6, $7, $8)"""
OPEN_RUN = "select id from ingestd.workflow_run where workflow = $1 and state = 'running' order by id limit 1"
RUN_STATE = "select state from ingestd.workflow_run where id = $1"


async def new_run(
    conn: asyncpg.Connection,
    workflow: str,
    definition: Mapping[str, Any],
    triggered_by: str,
    correlation_id: str | None,
    job_id: int | None,
) -> int:
    """Insert a run; returns its id."""
    run: int = await conn.fetchval(NEW_RUN, workflow, dict(definition), triggered_by, correlation_id, job_id)
    return run


async def new_step(
    conn: asyncpg.Connection,
    run: int,
    name: str,
    position: int,
    after: Sequence[str],
    on_failure: str,
    require: str,
    job_id: int,
) -> None:
    """Insert a step of a run; one with parents starts blocked."""
    state = "blocked" if after else "open"
    await conn.execute(NEW_STEP, run, name, position, list(after), on_failure, require, job_id, state)


async def open_run(conn: asyncpg.Connection, workflow: str) -> int | None:
    """The oldest run of a workflow that is not final."""
    run: int | None = await conn.fetchval(OPEN_RUN, workflow)
    return run
