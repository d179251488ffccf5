"""The ledger's job for a daemon that is a process of its own: `[daemon] handlers = ["tests.faults.ledger_jobs"]`."""

from __future__ import annotations

from datetime import timedelta

from ingestd import Context, job
from ingestd.jobs.backoff import Backoff
from tests.faults import ledger


@job(ledger.KIND, max_attempts=20, backoff=Backoff(base_s=0.05, jitter=0), timeout=timedelta(minutes=1))
async def enter(ctx: Context) -> None:
    """Leave one row, committed together with the job's completion."""
    await ledger.enter(ctx)
