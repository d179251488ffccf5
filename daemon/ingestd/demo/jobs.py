"""A job that fails twice on purpose, to show what a retry looks like."""

from __future__ import annotations

from ingestd import Context, Retry, job

FAILS = 2


@job("flaky_courier", max_attempts=4)
async def flaky_courier(ctx: Context, parcel: str) -> Retry | dict[str, str]:
    """Deliver a parcel at the third try."""
    if ctx.job.attempt <= FAILS:
        return Retry(after="2s", reason="nobody opened the door")
    return {"delivered": parcel}
