"""Promise 9 under load: jobs and files go on coming while Postgres stops, dies, ends every session, falls silent or lets nobody in.

`INGESTD_LONG_TESTS=1` stops it for two minutes, and disturbs it for one, as is promised.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from urllib.parse import urlsplit

import asyncpg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ingestd.postgres.migrate import migrate
from ingestd.postgres.session import connect
from tests.daemon import readings
from tests.daemon.harness import Daemon, Site, open_site
from tests.daemon.service_manager import ServiceManager, service_manager
from tests.faults import ledger, processes
from tests.faults.proxy import Proxy
from tests.promises.storms import LONG, OwnServer, Probe, Stream, lasts, own_server
from tests.promises.test_09_postgres_may_go_away import turns
from tests.support import CROWDED, eventually

HANDLERS = 'handlers = ["tests.daemon.jobs"]'
AWAY_S = 120.0 if LONG else 6.0
DISTURBED_S = 60.0 if LONG else 3.0
# A machine that is busy with other tests is late with its answers.
RED_S = (5.0 + 1.5) * CROWDED
GREEN_S = 10.0 * CROWDED
TOLD_S = 8.0 * CROWDED
# A line that is found to be silent under a job's statement is cut after 15 s.
SETTLED_S = 40.0 * CROWDED
WATCHDOG_S = 6.0
# The longest that a loop sleeps is a minute.
TICK_S = 90.0
TABLE = "create table public.readings (meter_id int, reading bigint, value numeric, note text, primary key (meter_id, reading))"
LISTENERS = "select count(*) from pg_stat_activity where datname = current_database() and application_name like 'ingestd:%:listen'"


@pytest.fixture
async def server() -> AsyncIterator[OwnServer]:
    async with own_server() as started:
        yield started


@pytest.fixture
def busy(proxy: Proxy) -> Iterator[Site]:
    """A site whose files are loaded, behind a line that can fail."""
    with open_site(proxy.dsn) as made:
        made.configure(readings.IMPORT, daemon=HANDLERS)
        yield made


async def make_tables(conn: asyncpg.Connection) -> None:
    await conn.execute(TABLE)
    await ledger.open_ledger(conn)


async def unharmed(daemon: Daemon, timeout_s: float = GREEN_S) -> None:
    """It has started once and still runs, and every loop of it turns and says so."""
    assert daemon.alive
    assert len(daemon.events("NodeStarted")) == 1
    assert not daemon.events("StaleAck")
    await turns(daemon, timeout_s)
    failures, ticks = await loop_numbers(daemon)
    assert ticks.keys() == failures.keys() > {"claimer", "rescuer", "listener", "slots", "upkeep"}
    assert sum(failures.values()) >= len(daemon.events("LoopFailed")), "what went wrong is counted"
    assert time.time() - min(ticks.values()) < TICK_S, ticks


async def loop_numbers(daemon: Daemon) -> tuple[dict[str, float], dict[str, float]]:
    """Failures and last tick of each loop, as metrics."""
    _, text = await daemon.get("/metrics")
    found = {
        family.name: {sample.labels["loop"]: sample.value for sample in family.samples}
        for family in text_string_to_metric_families(text)
        if family.name in ("ingestd_loop_failures", "ingestd_loop_last_tick_timestamp_seconds")
    }
    return found["ingestd_loop_failures"], found["ingestd_loop_last_tick_timestamp_seconds"]


def always_fed(manager: ServiceManager, since: float) -> bool:
    """Whether no gap between two pings of the watchdog was as long as it allows."""
    fed = [since, *(at for at, message in manager.messages if "WATCHDOG" in message and at > since), time.monotonic()]
    gaps = [later - earlier for earlier, later in pairwise(fed)]
    assert max(gaps) < WATCHDOG_S * CROWDED, gaps
    return True


async def told(daemon: Daemon) -> None:
    """Whoever asks for anything hears what is the matter, and not after long."""
    began = time.monotonic()
    status, report = await daemon.get("/health")
    assert (status, report["status"]) == (503, "critical")
    status, problem = await daemon.get("/api/v1/jobs")
    assert (status, problem["type"]) == (503, "urn:ingestd:problem:database-unreachable")
    assert await daemon.status("/metrics") == 200
    assert time.monotonic() - began < TOLD_S


async def listens(conn: asyncpg.Connection) -> None:
    await eventually(lambda: conn.fetchval(f"{LISTENERS} having count(*) = 1"), saying="one session listens")


@pytest.mark.parametrize("how", ["stopped", "killed"] if LONG else ["stopped"])
async def test_postgres_that_is_away_under_load_costs_nothing_but_time(server: OwnServer, how: str) -> None:
    conn = await connect(server.dsn)
    await migrate(conn)
    await make_tables(conn)
    await conn.close()
    with open_site(server.dsn) as site, service_manager() as manager:
        site.configure(readings.IMPORT, daemon=HANDLERS)
        daemon = await site.start(environment=manager.environment(WATCHDOG_S))
        ready = time.monotonic()
        async with Probe(daemon) as probe:
            async with Stream(site, server.dsn) as stream:
                await stream.goes_on()
                began = time.monotonic()
                if how == "stopped":
                    await server.stop()
                else:
                    processes.kill(server.pid)
                gone = time.monotonic()
                await probe.becomes(503, began, gone - began + RED_S)
                red = time.monotonic()
                await told(daemon)
                await lasts(AWAY_S - (red - gone))
                back = time.monotonic()
                await (server.start() if how == "stopped" else server.start_again())
                answering = time.monotonic()
                await probe.becomes(200, back, answering - back + GREEN_S)
                await stream.goes_on()
            conn = await connect(server.dsn)
            try:
                await stream.all_done_once(conn)
                await listens(conn)
            finally:
                await conn.close()
            assert probe.said(red, back) == {503}, "it is never said to be ready while nothing can be done"
            assert probe.always_alive()
            assert always_fed(manager, ready)
        await unharmed(daemon)
        assert manager.steps() == ["READY"], "its manager saw neither an end nor another start"
        assert daemon.events("DatabaseLost")
        assert daemon.events("DatabaseBack")
        assert await daemon.stop() == 0


async def test_sessions_ended_every_second_under_load_cost_nothing_but_time(site: Site, conn: asyncpg.Connection) -> None:
    site.configure(readings.IMPORT, daemon=HANDLERS)
    await make_tables(conn)
    daemon = await site.start()
    ended = 0
    async with Probe(daemon) as probe:
        async with Stream(site, site.url) as stream:
            await stream.goes_on()
            until = time.monotonic() + DISTURBED_S
            while time.monotonic() < until:
                ended += await processes.end_backends(conn, "ingestd:")
                await lasts(1.0)
            await stream.goes_on()
        await stream.all_done_once(conn)
        assert probe.always_alive()
    assert ended > DISTURBED_S
    await listens(conn)
    await unharmed(daemon)
    assert await daemon.stop() == 0


async def test_lines_that_fall_silent_again_and_again_under_load_cost_nothing_but_time(
    busy: Site, proxy: Proxy, dsn: str, conn: asyncpg.Connection
) -> None:
    await make_tables(conn)
    daemon = await busy.start()
    async with Probe(daemon) as probe:
        async with Stream(busy, dsn) as stream:
            await stream.goes_on()
            until = time.monotonic() + (DISTURBED_S if LONG else 0)
            times = 0
            while not times or time.monotonic() < until:
                assert proxy.strand() > 0
                times += 1
                await eventually(lambda: len(daemon.events("DatabaseBack")) >= times)  # noqa: B023 - awaited here
            await stream.goes_on()
        await stream.all_done_once(conn)
        assert probe.always_alive()
    await unharmed(daemon, SETTLED_S)
    assert await daemon.stop() == 0


async def test_logins_that_are_refused_for_a_while_cost_nothing_but_time(dsn: str, conn: asyncpg.Connection) -> None:
    role, secret = "ingestd_" + urlsplit(dsn).path.strip("/")[-20:], "a word of this test"
    await make_tables(conn)
    await conn.execute(f"create role {role} login superuser password '{secret}'")
    try:
        parts = urlsplit(dsn)
        host = parts.netloc.rpartition("@")[2]
        with open_site(parts._replace(netloc=f"{role}:{secret.replace(' ', '%20')}@{host}").geturl()) as site:
            site.configure(readings.IMPORT, daemon=HANDLERS)
            daemon = await site.start()
            async with Probe(daemon) as probe:
                async with Stream(site, dsn) as stream:
                    await stream.goes_on()
                    began = time.monotonic()
                    await conn.execute(f"alter role {role} nologin")
                    assert await processes.end_backends(conn, "ingestd:") >= 4
                    await probe.becomes(503, began, time.monotonic() - began + RED_S)
                    await told(daemon)
                    await stream.goes_on()
                    back = time.monotonic()
                    await conn.execute(f"alter role {role} login")
                    await probe.becomes(200, back, GREEN_S)
                await stream.all_done_once(conn)
                assert probe.always_alive()
            await unharmed(daemon)
            assert await daemon.stop() == 0
    finally:
        await conn.execute(f"drop owned by {role} cascade")
        await conn.execute(f"drop role {role}")
