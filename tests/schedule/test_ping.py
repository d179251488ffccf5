"""The sign of life to the outside, called on a real HTTP server; what goes wrong is told once and never names the URL."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta

import asyncpg
import pytest
from aiohttp import web
from pydantic import ValidationError

from ingestd.events import Bus, Event, LoopFailed, Notice
from ingestd.postgres.pool import Database
from ingestd.schedule import facts
from ingestd.schedule import ping as ping_module
from ingestd.schedule.ping import AGAIN_S, FIRST_S, FRESH_S, OFF_S, Ping
from ingestd.schedule.ping_settings import HeartbeatSettings
from ingestd.service import LoopState
from tests.schedule.watching import pulse
from tests.support import eventually

SECRET = "5f0c-secret-check"
NOW = timedelta()


@dataclass
class Outside:
    """A service that waits for calls, and what it got."""

    url: str = ""
    status: int = 200
    slow_s: float = 0.0
    location: str | None = None
    calls: list[web.Request] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.calls.append(request)
        await asyncio.sleep(self.slow_s)
        headers = {"Location": self.location} if self.location else None
        return web.Response(status=self.status, text="OK", headers=headers)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def outside() -> AsyncIterator[Outside]:
    service = Outside()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", service.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    service.url = f"http://{host}:{port}/ping/{SECRET}"
    yield service
    await runner.cleanup()


@dataclass
class Calling:
    """A ping without its loop, and what it tells."""

    db: Database
    url: str
    every: str = "60s"
    scheduler: LoopState | None = None
    told: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        bus = Bus()
        bus.subscribe(self.told.append)
        self.ping = Ping(self.db, bus, lambda: HeartbeatSettings.model_validate({"url": self.url, "every": self.every}), self.scheduler)

    async def call(self) -> float:
        """A pass whose time has come."""
        self.ping._called_at = None
        return await self.ping.poll()

    def notices(self) -> list[tuple[str, str]]:
        return [(event.level, event.message) for event in self.told if isinstance(event, Notice)]


async def test_the_url_is_called_while_slots_are_looked_after(db: Database, conn: asyncpg.Connection, outside: Outside) -> None:
    await pulse(conn, NOW)
    calling = Calling(db, outside.url)
    assert await calling.ping.poll() == 60.0
    (request,) = outside.calls
    assert (request.method, request.path) == ("GET", f"/ping/{SECRET}")
    assert request.headers["User-Agent"].startswith("ingestd/")
    assert calling.told == []


async def test_waking_the_loop_calls_no_sooner(db: Database, conn: asyncpg.Connection, outside: Outside) -> None:
    await pulse(conn, NOW)
    calling = Calling(db, outside.url)
    await calling.ping.poll()
    assert 0 < await calling.ping.poll() <= 60.0
    assert len(outside.calls) == 1


async def test_another_url_is_called_at_once(db: Database, conn: asyncpg.Connection, outside: Outside) -> None:
    await pulse(conn, NOW)
    calling = Calling(db, outside.url)
    await calling.ping.poll()
    calling.url += "-other"
    await calling.ping.poll()
    assert [request.path for request in outside.calls] == [f"/ping/{SECRET}", f"/ping/{SECRET}-other"]


async def test_without_a_url_nothing_is_asked_of_anybody(db: Database) -> None:
    await db.close()
    calling = Calling(db, "")
    assert await calling.ping.poll() == OFF_S
    assert not calling.ping.on


async def test_no_call_is_made_while_nobody_looks_after_slots(db: Database, conn: asyncpg.Connection, outside: Outside) -> None:
    calling = Calling(db, outside.url)
    assert await calling.call() == AGAIN_S
    await pulse(conn, timedelta(minutes=5))
    await calling.call()
    assert outside.calls == []
    assert calling.notices() == [("error", "the heartbeat ping fails: withheld: no node looks after slots")]
    await pulse(conn, NOW)
    await calling.call()
    assert len(outside.calls) == 1


async def test_a_node_that_begins_waits_for_the_first_pass_of_its_scheduler(
    db: Database, conn: asyncpg.Connection, outside: Outside
) -> None:
    """After a longer stop the last look is old, and that is no failure."""
    await pulse(conn, timedelta(hours=1))
    scheduler = LoopState()
    calling = Calling(db, outside.url, scheduler=scheduler)
    assert await calling.ping.poll() == FIRST_S
    assert (outside.calls, calling.told) == ([], [])
    await pulse(conn, NOW)
    scheduler.last_tick = time.monotonic()
    await calling.ping.poll()
    assert (len(outside.calls), calling.told) == (1, [])


async def test_a_first_pass_that_fails_or_never_ends_is_told(db: Database, outside: Outside) -> None:
    failing = Calling(db, outside.url, scheduler=LoopState(restarts=1))
    hanging = Calling(db, outside.url, scheduler=LoopState())
    hanging.ping._made_at -= FRESH_S
    for calling in (failing, hanging):
        await calling.ping.poll()
        assert calling.notices() == [("error", "the heartbeat ping fails: withheld: no node looks after slots")]


async def test_no_call_is_made_while_this_nodes_scheduler_stands_still(db: Database, conn: asyncpg.Connection, outside: Outside) -> None:
    await pulse(conn, NOW)
    calling = Calling(db, outside.url, scheduler=LoopState(last_tick=1e-9))
    await calling.call()
    assert outside.calls == []
    assert "scheduler stands still" in calling.notices()[0][1]


async def test_no_call_is_made_without_a_database(db: Database, outside: Outside) -> None:
    gone = Database("postgresql://nobody@127.0.0.1:1/nowhere")
    await gone.open()
    try:
        calling = Calling(gone, outside.url)
        await calling.call()
    finally:
        await gone.close()
    assert outside.calls == []
    assert calling.notices() == [("error", "the heartbeat ping fails: withheld: the database does not answer")]


async def test_a_failure_is_told_once_and_the_next_success_as_well(db: Database, conn: asyncpg.Connection, outside: Outside) -> None:
    await pulse(conn, NOW)
    calling = Calling(db, outside.url)
    outside.status = 503
    assert await calling.call() == AGAIN_S
    await calling.call()
    outside.status = 200
    await calling.call()
    await calling.call()
    failed, back = calling.notices()
    assert failed == ("error", "the heartbeat ping fails: the answer was 503")
    assert back[0] == "info"
    assert "arrives again" in back[1]


async def test_health_shows_how_it_goes(db: Database, conn: asyncpg.Connection, outside: Outside) -> None:
    await pulse(conn, NOW)
    calling = Calling(db, outside.url)
    source = facts.facts(ping=calling.ping).checks
    assert source is not None

    async def check() -> tuple[str, str, str]:
        (found,) = [check for check in await source(conn) if check.name == "heartbeat"]
        return found.status, found.value, found.hint

    assert await check() == ("healthy", "none has arrived yet", "")
    await calling.call()
    assert await check() == ("healthy", "the last arrived 0 s ago", "")
    outside.status = 404
    await calling.call()
    status, value, hint = await check()
    assert status == "degraded"
    assert value.startswith("the answer was 404; the last arrived")
    assert "[heartbeat] url" in hint
    calling.url = ""
    assert [check.name for check in await source(conn) if check.name == "heartbeat"] == []


async def test_an_answer_that_does_not_come_is_waited_for_so_long_and_no_longer(
    db: Database, conn: asyncpg.Connection, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ping_module, "TIMEOUT_S", 1.0)
    await pulse(conn, NOW)
    outside.slow_s = 60.0
    calling = Calling(db, outside.url)
    await calling.call()
    assert calling.notices() == [("error", "the heartbeat ping fails: no answer within 1 s")]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:{port}/{secret}", "could not connect: Connection refused"),
        ("http://{secret}.invalid/", "its host has no address"),
        ("http://127.0.0.1:{outside}/{secret}-loop", "too many redirects"),
        ("https://127.0.0.1:{outside}/{secret}", "its certificate is not valid here, or TLS failed"),
        ("http://[::1/{secret}", None),
    ],
)
async def test_whatever_goes_wrong_the_url_is_never_named(
    db: Database, conn: asyncpg.Connection, outside: Outside, url: str, words: str | None
) -> None:
    await pulse(conn, NOW)
    wanted = url.format(port=free_port(), secret=SECRET, outside=outside.url.split(":")[2].split("/")[0])
    if words is None:
        with pytest.raises(ValidationError) as refused:
            HeartbeatSettings.model_validate({"url": wanted})
        assert SECRET not in refused.value.errors()[0]["msg"]
        return
    if words == "too many redirects":
        outside.status, outside.location = 302, outside.url
    calling = Calling(db, wanted)
    await calling.call()
    assert calling.notices() == [("error", f"the heartbeat ping fails: {words}")]
    assert SECRET not in repr(calling.told)
    assert SECRET not in repr(calling.ping.known)
    assert SECRET not in repr(HeartbeatSettings.model_validate({"url": wanted}))


@pytest.mark.parametrize("every", ["9s", "2d", "soon"])
def test_how_often_is_bounded(every: str) -> None:
    with pytest.raises(ValidationError):
        HeartbeatSettings.model_validate({"every": every})


@pytest.mark.parametrize("url", ["ftp://host/x", "host/x", "https://", "https://ho st/", "https://host:0/", "https://host:99999/"])
def test_what_cannot_be_called_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValidationError) as refused:
        HeartbeatSettings.model_validate({"url": url})
    (error,) = refused.value.errors()
    assert error["msg"] == "Value error, not a URL that can be called: write https://HOST/PATH"


async def test_the_loop_goes_on_whatever_happens(db: Database, conn: asyncpg.Connection, outside: Outside) -> None:
    told: list[Event] = []
    bus = Bus()
    bus.subscribe(told.append)
    settings = HeartbeatSettings.model_validate({"url": outside.url, "every": "10s"})
    ping = Ping(db, bus, lambda: settings)
    task = asyncio.create_task(ping.run(), name="ping under test")
    try:
        await eventually(lambda: ping.known.problem is not None)
        await pulse(conn, NOW)
        await eventually(lambda: len(outside.calls) == 1)
        await eventually(lambda: ping.known.problem is None)
    finally:
        ping.stop()
        await task
    assert not [event for event in told if isinstance(event, LoopFailed)]
