"""Promise 4: a process that only stands still keeps its jobs for a while; if it loses them, nothing it says later counts.

`INGESTD_LONG_TESTS=1` blocks the interpreter for the full minute that is promised.
"""

from __future__ import annotations

import time

import asyncpg

from tests.daemon.harness import Daemon, Site, open_site
from tests.faults import ledger, processes
from tests.promises.test_04_fast_rescue import HANDLERS, SERVER_SETTLED, held_by
from tests.support import LONG, PATIENCE_S, eventually

HELD_S = 60.0 if LONG else 5.0
STALL_S = 5
ENQUEUE = "select ingestd.enqueue($1, $2)"
STATE = "select state from ingestd.history where id = $1"


async def test_while_c_code_holds_the_interpreter_nothing_of_it_runs_elsewhere(site: Site, conn: asyncpg.Connection, dsn: str) -> None:
    """The other node is on another machine, as far as it can tell: only the session lock says that this one lives."""
    with open_site(dsn) as elsewhere:
        for each in (site, elsewhere):
            each.configure(daemon=HANDLERS)
        await ledger.open_ledger(conn)
        blocked = await site.start()
        go, settled = site.folder / "go", site.folder / "settled"
        waits = await conn.fetchval(ENQUEUE, "until_file", {"path": str(go)})
        await held_by(conn, waits, await site.node_of(blocked))
        regex = await conn.fetchval(ENQUEUE, "regex", {"seconds": HELD_S, "after": str(settled)})
        await held_by(conn, regex, await site.node_of(blocked))
        other = await elsewhere.start("--duties", "work")
        # Whatever that took, all of the silence is seen by a node that may rescue.
        await eventually(lambda: conn.fetchval(SERVER_SETTLED), every_s=0.5)

        settled.touch()
        silent = await eventually(
            lambda: conn.fetchval(
                "select extract(epoch from now() - heartbeat_at)::float8 from ingestd.node where pid = $1"
                " and now() - heartbeat_at > make_interval(secs => $2)",
                blocked.pid,
                HELD_S * 0.6,
            ),
            timeout_s=HELD_S * 8 + 60,
            every_s=0.2,
        )
        assert silent > HELD_S * 0.6, "or nothing was proved"
        await eventually(lambda: conn.fetchval(STATE, regex), timeout_s=HELD_S * 8 + 60, every_s=0.2)
        go.touch()
        await eventually(lambda: conn.fetchval(STATE, waits))
        await ledger.assert_exactly_once_of(conn, [regex, waits])
        assert not other.events("JobsRescued")
        assert not blocked.events("StaleAck")
        # Told when the interpreter was free again; with whose code it had been, unless the loop was quicker.
        assert all(", in regex" in told["stack"] for told in blocked.events("LoopBlocked") if told["seconds"] > HELD_S * 0.6)
        freed = await eventually(lambda: blocked.events("LoopFreed"))
        assert max(event["seconds"] for event in freed) > HELD_S * 0.6


async def test_a_blocked_loop_shows_its_stack_while_it_is_blocked(site: Site, conn: asyncpg.Connection) -> None:
    site.configure(daemon=HANDLERS + '\nblocked_after = "2s"')
    await ledger.open_ledger(conn)
    daemon = await site.start()
    job_id = await conn.fetchval(ENQUEUE, "blocks", {"seconds": 4})
    await eventually(lambda: daemon.events("LoopBlocked"))
    assert await conn.fetchval(STATE, job_id) is None, "it was told too late"
    # What runs is told by the same thread, for the loop may be about to take the process with it.
    await eventually(lambda: conn.fetchval("select $1 = any (started) from ingestd.node_progress", job_id))
    await eventually(lambda: conn.fetchval(STATE, job_id))
    freed = await eventually(lambda: daemon.events("LoopFreed"))
    (told,) = daemon.events("LoopBlocked")
    assert "time.sleep(seconds)" in told["stack"]
    assert len(freed) == 1
    assert freed[0]["seconds"] > 3
    _, metrics = await daemon.get("/metrics")
    assert "ingestd_loop_blocked_seconds_count 1.0" in metrics


async def test_who_was_stopped_beyond_the_limit_is_rescued_and_refused_when_it_comes_back(
    site: Site, conn: asyncpg.Connection, dsn: str
) -> None:
    with open_site(dsn) as elsewhere:
        for each in (site, elsewhere):
            each.configure(daemon=f'{HANDLERS}\nstall_limit = "{STALL_S}s"')
        await ledger.open_ledger(conn)
        stopped = await site.start()
        node = await site.node_of(stopped)
        go = site.folder / "go"
        row, loop = [await conn.fetchval(ENQUEUE, kind, {"path": str(go)}) for kind in ("holds_its_row", "until_file")]
        await held_by(conn, loop, node)
        await eventually((site.folder / f"go-{node}").exists)
        other = await elsewhere.start()
        taker = await elsewhere.node_of(other)

        processes.freeze(stopped.pid)
        began = time.monotonic()
        try:
            # Its open transaction has locked its job's row, which must not hold up the rescue.
            rescued = await eventually(lambda: other.events("JobsRescued"), timeout_s=STALL_S + PATIENCE_S)
            assert time.monotonic() - began > STALL_S - 2.5, "nobody may be rescued before the limit"
            assert [event["count"] for event in rescued] == [2]
            go.touch()
            for job_id in (row, loop):
                await eventually(lambda job_id=job_id: conn.fetchval(STATE, job_id))
        finally:
            processes.thaw(stopped.pid)

        await eventually(lambda: len(stopped.events("StaleAck")) == 2)
        await ledger.assert_exactly_once_of(conn, [row, loop])
        assert await conn.fetchval("select array_agg(distinct node) from faults.ledger") == [taker]
        _, metrics = await stopped.get("/metrics")
        assert 'ingestd_stale_acks_total{kind="until_file"} 1.0' in metrics
        await goes_on(site, stopped, conn)
        assert await other.stop() == 0


async def goes_on(site: Site, daemon: Daemon, conn: asyncpg.Connection) -> None:
    """It is registered again, and takes what comes."""
    node = await site.node_of(daemon)
    await eventually(lambda: conn.fetchval("select state = 'running' from ingestd.node where id = $1", node))
    done = "select exists (select from faults.ledger where node = $1)"

    async def worked() -> bool:
        await conn.fetchval(ENQUEUE, ledger.KIND, {})
        return bool(await conn.fetchval(done, node))

    await eventually(worked, every_s=0.2)
