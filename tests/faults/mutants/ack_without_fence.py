"""The mutant whose `ack` does not ask whose the job is."""

from __future__ import annotations

from ingestd import Context, job
from ingestd.jobs.store import ack

FENCE = " and j.claim = r.claim"
assert ack.ACK.count(FENCE) == 1
ack.ACK = ack.ACK.replace(FENCE, "")


@job("ack_mutant")
async def nothing(ctx: Context) -> None:
    """Declared because a module of handlers must declare a job."""
