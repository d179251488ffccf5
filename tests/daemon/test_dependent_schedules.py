"""Live nodes: a schedule waits for what it depends on, whichever node sees the success, and a downtime is told once."""

from __future__ import annotations

from tests.daemon.harness import Site
from tests.support import eventually

HANDLERS = """
from ingestd import Context, job

@job("prices")
async def prices(ctx: Context) -> None:
    pass

@job("report")
async def report(ctx: Context) -> list:
    return [ctx.slot.schedule, ctx.slot.due_at.isoformat(), ctx.slot.catch_up]
"""
REPORT = """
[schedules.report]
every = "2s"
jitter = "1s"
job = "report"
after = [{ job = "prices", ok_within = "1h", on_failure = "wait" }]
"""
# Each with the job that was made for it, not before its share of the jitter, and told its slot.
SUCCEEDED = """
select count(*) from ingestd.slot s join ingestd.history h on h.id = s.job_id
where h.state = 'succeeded' and h.run_at >= s.due_at and h.started_at >= h.run_at - interval '50 ms'
  and h.result ->> 0 = 'report' and (h.result ->> 1)::timestamptz = s.due_at and h.result -> 2 = 'false'"""
GAVE_WAY = "select count(*) from ingestd.slot where state = 'skipped' and reason like 'gave way to the slot of %'"
WAITING = "select count(*) from ingestd.slot where state = 'waiting'"
# As if the node had died ten minutes ago.
LONG_AGO = "update ingestd.schedule_pulse set at = at - interval '10 minutes' returning at"
DOWNTIMES = "select count(*) from ingestd.downtime where counted_at is not null and schedules = 1 and missed + late > 0"


async def test_slots_wait_for_a_success_and_run_as_soon_as_a_node_finds_it(site: Site) -> None:
    site.module("reports", HANDLERS)
    site.configure(REPORT, daemon='handlers = ["reports"]')
    nodes = [await site.start("--duties", "work,schedule") for _ in range(2)]

    async def one_gave_way() -> bool:
        return bool(await site.ask(GAVE_WAY))

    await eventually(one_gave_way, every_s=0.3)
    assert await site.ask(WAITING) in (0, 1, 2)
    assert await site.ask(SUCCEEDED) == 0
    await site.ask("select ingestd.enqueue('prices')")

    async def three_ran() -> bool:
        return bool(await site.ask(SUCCEEDED) >= 3)

    await eventually(three_ran, every_s=0.3)
    for node in nodes:
        node.kill()
    await site.ask(LONG_AGO)
    await site.ask("update ingestd.schedule set accounted_to = accounted_to - interval '9 minutes', next_due_at = now(), turn = turn + 1,"
                   " since = since - interval '9 minutes' returning name")  # fmt: skip
    back = [await site.start("--duties", "work,schedule") for _ in range(2)]

    async def counted() -> bool:
        return bool(await site.ask(DOWNTIMES))

    await eventually(counted, every_s=0.3)
    await eventually(lambda: any(node.events("Downtime") for node in back))
    assert sum(len(node.events("Downtime")) for node in back) == 1
    assert not [event for node in back for event in node.events("SlotMissed")]
    for node in back:
        assert await node.stop() == 0
