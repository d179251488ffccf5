"""A node whose start fails takes down again what it had started, in silence and without keeping anybody's jobs."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from ingestd.admin.settings import AdminSettings
from ingestd.app import configuration
from ingestd.app.app import App, Options
from ingestd.app.control import Control
from ingestd.app.settings import DaemonSettings, DatabaseSettings, Settings
from ingestd.errors import IngestdError
from ingestd.events import Bus, Event, LoopFailed, NodeStarted
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from ingestd.jobs.registry import HandlerSpec
from ingestd.postgres import listen
from ingestd.work.context import Context
from tests.schedule.conftest import declare
from tests.support import eventually


async def rest(_ctx: Context) -> None:
    await asyncio.sleep(600)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def node(dsn: str, folder: Path, port: int, heard: list[Event]) -> App:
    daemon, admin = DaemonSettings(state_dir=folder), AdminSettings(port=port)
    bus = Bus()
    bus.subscribe(heard.append)
    settings = Settings(daemon=daemon, database=DatabaseSettings(url=SecretStr(dsn)), admin=admin)
    return App(settings, Control(), bus, Options(handlers=[HandlerSpec("rest", rest, queue="default")]))


async def nothing_left(conn: asyncpg.Connection, heard: list[Event], before: set[asyncio.Task[Any]]) -> None:
    assert [event for event in heard if isinstance(event, LoopFailed)] == []
    assert {task.get_name() for task in asyncio.all_tasks() - before} == set()
    rows = await conn.fetch("select claim, attempt from ingestd.job where kind = 'rest'")
    assert [(row["claim"], row["attempt"]) for row in rows] == [(None, 0)] * 3
    assert await conn.fetchval("select count(*) from ingestd.node where state <> 'stopped'") == 0


async def test_a_node_that_cannot_serve_leaves_the_configuration_in_force_alone(
    dsn: str, conn: asyncpg.Connection, taken_port: int, tmp_path: Path
) -> None:
    """By the last configuration that is applied all nodes go, and this one's names no schedule."""
    await declare(conn, {"nightly": {"cron": "@daily"}})
    with pytest.raises(IngestdError, match="in use by another process"):
        await node(dsn, tmp_path, taken_port, []).run()
    assert await conn.fetchval("select removed_at is null from ingestd.schedule where name = 'nightly'")


async def test_a_start_refused_its_port_ends_in_silence_and_keeps_no_job(
    dsn: str, conn: asyncpg.Connection, taken_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the port had been taken only after the node had looked.
    monkeypatch.setattr(configuration, "check_address", lambda _settings: None)
    await enqueue(conn, [NewJob("rest")] * 3)
    heard: list[Event] = []
    before = asyncio.all_tasks()
    with pytest.raises(IngestdError, match="in use by another process"):
        await node(dsn, tmp_path, taken_port, heard).run()
    await nothing_left(conn, heard, before)


async def test_whatever_ends_a_node_its_loops_end_before_what_they_use_and_its_jobs_are_handed_back(
    dsn: str, conn: asyncpg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A loop that is always at its connection meets whoever closes that too early.
    monkeypatch.setattr(listen, "CHECK_EVERY_S", 0.0)
    await enqueue(conn, [NewJob("rest")] * 3)
    heard: list[Event] = []
    before = asyncio.all_tasks()
    running = asyncio.create_task(node(dsn, tmp_path, 0, heard).run())

    async def at_work() -> bool:
        held = await conn.fetchval("select count(*) from ingestd.job where claim is not null")
        return held == 3 and any(isinstance(event, NodeStarted) for event in heard)

    await eventually(at_work)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await nothing_left(conn, heard, before)
