"""The daemon's own commands, started by schedules."""

from __future__ import annotations

from tests.daemon.harness import Site
from tests.support import eventually

COMMANDS = """
[schedules.tidy]
every = "1s"
command = "cleanup"
args = { days = 3650 }

[schedules.look]
every = "1s"
command = "health"

[schedules.keep]
every = "1s"
command = "maintenance"
"""
ENDED = "select kind, state, result from ingestd.history where kind = any ($1) and state in ('succeeded', 'failed') order by id"
# What a minute that nobody folded in its time looks like, and a partition that is missing.
UNFOLDED = """
insert into ingestd.job_stat (minute, kind, queue_id, outcome, bucket, n, ms)
select date_trunc('minute', now()) - interval '5 hours', 'x', 1, 'succeeded', 1, 1, 1 from generate_series(1, 3)"""
FOLDED = "select count(*) = 1 and sum(n) = 3 from ingestd.job_stat where kind = 'x'"


async def test_each_command_runs_as_a_job_of_its_name(site: Site) -> None:
    site.configure(COMMANDS)
    daemon = await site.start()
    await site.rows(UNFOLDED)

    async def all_ended() -> bool:
        return len({row["kind"] for row in await site.rows(ENDED, ["cleanup", "health", "maintenance"])}) == 3

    await eventually(all_ended)
    rows = await site.rows(ENDED, ["cleanup", "health", "maintenance"])
    assert {row["state"] for row in rows} == {"succeeded"}
    results = {row["kind"]: row["result"] for row in rows}
    assert results["maintenance"].keys() == {"partitions_made", "slot_partitions_made"}
    assert results["cleanup"]["dry_run"] is False
    assert results["health"]["status"] in ("healthy", "degraded")

    async def folded() -> bool:
        return bool(await site.ask(FOLDED))

    await eventually(folded)
    assert await daemon.stop() == 0
