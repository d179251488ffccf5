"""Whoever follows events hears of what happens on all nodes, in order and without holes, however they come and go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import asyncpg
import pytest

from ingestd.admin import happenings, live
from ingestd.admin.api import events as api
from ingestd.admin.feed import MOST_AT_ONCE, Feed
from ingestd.admin.store import FORGET_EVENTS
from ingestd.events import Bus, JobFinished, JobsSucceeded, LoadFinished, NodeDraining, NodeStopped, Notice
from ingestd.jobs.filters import FINAL_STATES
from ingestd.postgres.pool import Database
from tests.admin.conftest import TOKEN, Open, Site
from tests.support import eventually
from tests.tokens import bearer, make_token

PATH = "/api/v1/events"
STREAM = {"Accept": "text/event-stream"}
# A stream that is not refused has no end.
SOON = aiohttp.ClientTimeout(10)


class Follower:
    """Reads a stream of events."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.last_id = ""

    async def next(self) -> tuple[str, Any]:
        """The next event's name and data."""
        name, data = "", ""
        async with asyncio.timeout(20):
            while True:
                line = (await self.response.content.readline()).decode()
                if not line:
                    raise EOFError
                field, _, value = line.rstrip("\n").partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    data = value
                elif field == "id":
                    self.last_id = value
                elif not field and data:
                    return name, json.loads(data)

    async def ready(self) -> None:
        """Wait until it has its place."""
        async with asyncio.timeout(20):
            while not (await self.response.content.readline()).startswith(b"retry"):
                pass


@asynccontextmanager
async def follow(site: Site, query: str = "", **headers: str) -> AsyncIterator[Follower]:
    async with site.request("GET", PATH + query, headers=STREAM | headers, timeout=aiohttp.ClientTimeout(60)) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        yield Follower(response)


def finished(job_id: int, state: str = "failed") -> JobFinished:
    return JobFinished(job_id, "sync_prices", state, 12, error="postgres://me:hunter2@db/x is gone")


@pytest.fixture
def bus() -> Bus:
    return Bus()


@pytest.fixture
def feed(db: Database, bus: Bus) -> Feed:
    """What another node writes."""
    return Feed(db, bus, "elsewhere")


async def test_what_happens_on_another_node_is_heard_here(site: Site, feed: Feed, bus: Bus) -> None:
    async with follow(site) as follower:
        await follower.ready()
        bus.emit(finished(5))
        bus.emit(JobsSucceeded("load", (4, 8)))
        await feed.poll()
        name, told = await follower.next()
        assert (name, told["node"], told["data"]["job_id"], told["id"]) == ("job.failed", "elsewhere", "5", follower.last_id)
        assert "hunter2" not in told["data"]["error"]
        assert (await follower.next())[1]["data"] == {"kind": "load", "count": 2, "mean_ms": 6.0}


async def test_a_follower_comes_back_to_where_it_was(open_site: Open, feed: Feed, bus: Bus) -> None:
    """On another node, and with everything that happened while it was away."""
    one, other = await open_site(), await open_site()
    async with follow(one) as follower:
        await follower.ready()
        bus.emit(finished(1))
        await feed.poll()
        await follower.next()
        last = follower.last_id
    for number in range(2, 8):
        bus.emit(finished(number))
        await feed.poll()
    async with follow(other, **{"Last-Event-ID": last}) as follower:
        assert [(await follower.next())[1]["data"]["job_id"] for _ in range(6)] == ["2", "3", "4", "5", "6", "7"]
        bus.emit(finished(8))
        await feed.poll()
        assert (await follower.next())[1]["data"]["job_id"] == "8"


async def test_a_follower_that_was_away_too_long_is_told_so(site: Site, feed: Feed, bus: Bus, conn: asyncpg.Connection) -> None:
    for number in range(3):
        bus.emit(finished(number))
    await feed.poll()
    oldest = await conn.fetchval("select min(id) from ingestd.event")
    await conn.execute("delete from ingestd.event where id < $1", oldest + 2)
    async with follow(site, f"?after={oldest}") as follower:
        assert (await follower.next())[0] == "reset"
    async with follow(site, "?after=999999999") as follower:
        assert (await follower.next())[0] == "reset"


async def test_only_what_was_asked_for_is_told(site: Site, feed: Feed, bus: Bus) -> None:
    async with follow(site, "?type=node.*,job.cancelled") as follower:
        await follower.ready()
        for event in (finished(1), finished(2, "cancelled"), finished(3), NodeDraining(0, 1.0), Notice("not for others")):
            bus.emit(event)
        await feed.poll()
        assert [(await follower.next())[0] for _ in range(2)] == ["job.cancelled", "node.draining"]


async def test_many_writers_leave_no_hole_for_a_reader(site: Site, db: Database) -> None:
    """An id that becomes visible late would be passed over: they do so in their order."""
    buses = [Bus() for _ in range(4)]
    feeds = [Feed(db, bus, f"node{i}") for i, bus in enumerate(buses)]
    async with follow(site) as follower:
        await follower.ready()
        for turn in range(10):
            for i, bus in enumerate(buses):
                bus.emit(finished(turn * 10 + i))
            await asyncio.gather(*[feed.poll() for feed in feeds])
        told = [(await follower.next())[1] for _ in range(40)]
    assert {int(one["data"]["job_id"]) for one in told} == {turn * 10 + i for turn in range(10) for i in range(4)}
    assert [int(one["id"]) for one in told] == sorted(int(one["id"]) for one in told)


async def test_too_much_is_counted_instead(feed: Feed, bus: Bus, conn: asyncpg.Connection) -> None:
    for number in range(MOST_AT_ONCE + 5):
        bus.emit(finished(number))
    await feed.poll()
    assert await conn.fetchval("select data->>'count' from ingestd.event where name = 'events.dropped'") == "5"
    assert await conn.fetchval("select count(*) from ingestd.event") == MOST_AT_ONCE + 1


async def test_the_log_of_events_stays_small(conn: asyncpg.Connection) -> None:
    await conn.execute(
        "insert into ingestd.event (at, node, name, data) select now() - interval '2 hours', 'n', 'x', '{}' from generate_series(1, 1500)"
    )
    await conn.execute(FORGET_EVENTS)
    assert await conn.fetchval("select count(*) from ingestd.event") == 1001


async def test_one_that_takes_nothing_is_let_go(
    site: Site, feed: Feed, bus: Bus, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "STALL_S", 0.3)
    host, port = site.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port), limit=1024)
    writer.write(f"GET {PATH}?after=0 HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: text/event-stream\r\n\r\n".encode())
    await writer.drain()
    await eventually(lambda: site.state.live.listeners == 1)
    for _ in range(6):
        await conn.execute(
            "insert into ingestd.event (at, node, name, data)"
            " select now(), 'n', 'job.failed', jsonb_build_object('t', repeat('x', 5000)) from generate_series(1, 400)"
        )
    await eventually(lambda: site.state.live.listeners == 0)
    writer.close()
    assert len(site.state.live._ring) <= live.RING


async def test_everybody_is_let_go_when_the_server_stops(site: Site) -> None:
    async with follow(site) as follower, follow(site) as other:
        await follower.ready()
        await other.ready()
        began = asyncio.get_running_loop().time()
        await site.server.stop()
        assert asyncio.get_running_loop().time() - began < 3
        for one in (follower, other):
            with pytest.raises(EOFError):
                await one.next()


async def test_the_end_of_a_node_is_heard_through_it(site: Site, feed: Feed, bus: Bus) -> None:
    """Also where nothing runs, and the server stops a moment after it was written down."""
    async with follow(site) as follower, follow(site, "?type=node.*") as other:
        await follower.ready()
        await other.ready()
        await eventually(lambda: site.state.live._newest is not None)
        bus.emit(NodeDraining(0, 1.0))
        bus.emit(NodeStopped(0))
        await feed.close()
        await site.server.stop()
        for one in (follower, other):
            assert [(await one.next())[0], (await one.next())[0]] == ["node.draining", "node.stopped"]
            with pytest.raises(EOFError):
                await one.next()


async def test_who_has_gone_holds_no_place(site: Site) -> None:
    """Nothing is written to them that could fail: without a look they would hold it until the next sign of life."""
    async with follow(site) as follower:
        await follower.ready()
        follower.response.close()
        async with asyncio.timeout(api.SILENCE_S - 3):
            await eventually(lambda: site.state.live.listeners == 0)


async def test_a_revoked_token_hears_no_more(open_site: Open, conn: asyncpg.Connection) -> None:
    site = await open_site(token=TOKEN)
    text = await make_token(conn, "viewer")
    async with follow(site, **bearer(text)) as follower:
        await follower.ready()
        await conn.execute("update ingestd.token set revoked_at = now()")
        await site.state.tokens.refresh()
        with pytest.raises(EOFError):
            await follower.next()


async def test_there_are_never_too_many_listeners(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOST_LISTENERS", 1)
    async with follow(site) as follower:
        await follower.ready()
        async with site.request("GET", PATH, headers=STREAM) as response:
            assert (response.status, "Retry-After" in response.headers) == (429, True)


async def test_who_takes_json_gets_the_latest(site: Site, feed: Feed, bus: Bus) -> None:
    for number in range(5):
        bus.emit(finished(number))
    await feed.poll()
    json_only = {"Accept": "application/json"}
    page = await site.get(f"{PATH}?limit=2&type=job.*", headers=json_only)
    assert [item["data"]["job_id"] for item in page["items"]] == ["4", "3"]
    more = await site.get(f"{PATH}?limit=2&type=job.*&cursor={page['next_cursor']}", headers=json_only)
    assert [item["data"]["job_id"] for item in more["items"]] == ["2", "1"]
    assert (await site.get(f"{PATH}?type=node.*", headers=json_only))["items"] == []


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
async def test_a_name_that_no_event_has_is_refused(site: Site, accept: str) -> None:
    """It would be waited for in vain; the nearest name is told, or all of them."""
    for wrong, words in {
        "job.faild": '"type" cannot be "job.faild", did you mean "job.failed"?',
        "load.*,zebra": "configuration.applied, ",
        "jobb.*": "cannot be",
    }.items():
        problem = await site.get(PATH, 400, params={"type": wrong}, headers={"Accept": accept}, timeout=SOON)
        assert words in problem["detail"]


def told_of() -> list[str | None]:
    """The names of whatever can be told of, and of what is known to end jobs and loads."""
    ends = [LoadFinished(1, "readings", "a.csv", status) for status in ("succeeded", "partial", "failed", "skipped")]
    plain = [name for name in happenings._NAMES.values() if isinstance(name, str)]
    return [*plain, *(happenings.name_of(end) for end in ends), *(happenings.name_of(finished(1, state)) for state in FINAL_STATES)]


async def test_every_name_that_an_event_has_can_be_asked_for(site: Site, feed: Feed, bus: Bus, conn: asyncpg.Connection) -> None:
    bus.emit(JobsSucceeded("load", (4, 8)))
    for number in range(MOST_AT_ONCE + 1):
        bus.emit(finished(number))
    await feed.poll()
    written = [row["name"] for row in await conn.fetch("select distinct name from ingestd.event")]
    assert {"jobs.succeeded", "events.dropped"} <= {*written}
    for name in {*told_of(), *written, "job.*", "jo*", "*"}:
        await site.get(PATH, params={"type": str(name)}, headers={"Accept": "application/json"})


@pytest.mark.parametrize("query", ["limit=2", "cursor=x"])
async def test_a_stream_takes_no_words_of_pages(site: Site, query: str) -> None:
    problem = await site.get(f"{PATH}?{query}", 400, headers=STREAM, timeout=SOON)
    assert problem["detail"] == f'"{query.partition("=")[0]}" belongs to a page of events, and this is a stream'
    assert "application/json" in problem["hint"]


@pytest.mark.parametrize("wrong", ["x", "-1", "1" * 20, "\u0661"])
async def test_an_id_that_is_none_is_refused(site: Site, wrong: str) -> None:
    assert "not the id of an event" in (await site.get(PATH, 400, params={"after": wrong}, headers=STREAM))["detail"]
