"""Promise 10 where somebody has locked what the drain would write: it ends all the same, and nothing is lost."""

from __future__ import annotations

import time

from tests.daemon.harness import Site
from tests.promises.test_10_sigterm_is_not_a_failure import open_row, put, running
from tests.support import eventually

DRAIN_S = 0.2
# Five seconds for Postgres to take the endings, five more for what still waits for it; the rest is for a machine that is busy.
CLOSING_S = 30.0
SETTINGS = f'handlers = ["tests.daemon.jobs"]\ndrain_timeout = "{DRAIN_S}s"'
AN_ENDING_WAITS = """
select 1 from pg_stat_activity
where datname = current_database() and application_name like 'ingestd:%:core' and wait_event_type = 'Lock'"""


async def test_a_drain_behind_a_locked_table_ends_and_its_jobs_are_taken_up_later(site: Site) -> None:
    site.configure(daemon=SETTINGS)
    daemon = await site.start()
    soon, later = site.folder / "soon", site.folder / "later"
    jobs = [await put(site, "returns_on_file", path=str(path)) for path in (soon, later)]
    for job_id in jobs:
        await running(site, job_id)
    async with site.connection() as holder, holder.transaction():
        await holder.execute("lock table ingestd.job in access exclusive mode")
        soon.touch()
        await eventually(lambda: site.ask(AN_ENDING_WAITS), saying="an ending waits for the lock")
        began = time.monotonic()
        assert await daemon.stop() == 0
        assert time.monotonic() - began < DRAIN_S + CLOSING_S
    assert [(await open_row(site, job_id))["claim"] is not None for job_id in jobs] == [True, True]

    later.touch()
    again = await site.start()
    await eventually(lambda: site.ask("select count(*) = 2 from ingestd.history where state = 'succeeded' and attempt = 1"))
    assert await again.stop() == 0
