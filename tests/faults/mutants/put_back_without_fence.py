"""The mutant whose `put_back` does not ask whose the job is."""

from __future__ import annotations

from ingestd import Context, job
from ingestd.jobs.store import ack

FENCE = " and j.claim = r.claim"
assert ack.PUT_BACK.count(FENCE) == 1
ack.PUT_BACK = ack.PUT_BACK.replace(FENCE, "")


@job("put_back_mutant")
async def nothing(ctx: Context) -> None:
    """Declared because a module of handlers must declare a job."""
