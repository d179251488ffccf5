"""A node whose start fails takes down again what it had started, in silence and without keeping anybody's jobs."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr

from ingestd.admin.settings import AdminSettings
from ingestd.app.app import App, Options
from ingestd.app.control import Control
from ingestd.app.settings import DaemonSettings, DatabaseSettings, Settings
from ingestd.errors import IngestdError
from ingestd.events import Bus, Event, LoopFailed
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from ingestd.jobs.registry import HandlerSpec
from ingestd.work.context import Context


async def rest(_ctx: Context) -> None:
    await asyncio.sleep(600)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


async def test_a_start_refused_its_port_ends_in_silence_and_keeps_no_job(
    dsn: str, conn: asyncpg.Connection, taken_port: int, tmp_path: Path
) -> None:
    spec = HandlerSpec("rest", rest, queue="default")
    settings = Settings(
        daemon=DaemonSettings(state_dir=tmp_path), database=DatabaseSettings(url=SecretStr(dsn)), admin=AdminSettings(port=taken_port)
    )
    await enqueue(conn, [NewJob("rest")] * 3)
    heard: list[Event] = []
    bus = Bus()
    bus.subscribe(heard.append)
    before = asyncio.all_tasks()
    # Whether a loop is at its first pass just then is luck; three times it hardly fails.
    for _ in range(3):
        with pytest.raises(IngestdError, match="in use by another process"):
            await App(settings, Control(), bus, Options(handlers=[spec])).run()
        assert [event for event in heard if isinstance(event, LoopFailed)] == []
        assert {task.get_name() for task in asyncio.all_tasks() - before} == set()
    rows = await conn.fetch("select claim, attempt from ingestd.job where kind = 'rest'")
    assert [(row["claim"], row["attempt"]) for row in rows] == [(None, 0)] * 3
    assert await conn.fetchval("select count(*) from ingestd.node where state <> 'stopped'") == 0
