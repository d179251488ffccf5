"""Schedules that nobody means, over HTTP: refused quickly, with the key that is wrong, and nothing is stored."""

from __future__ import annotations

import time
from typing import Any

import asyncpg
import pytest

from ingestd.app.definitions import definitions
from ingestd.app.settings import Settings
from tests.admin.conftest import Open
from tests.support import CROWDED

MEGABYTE = 1_000_000


@pytest.mark.parametrize(
    "keys",
    [
        {"cron": "0 0 1--100000000 * *"},
        {"cron": "*" * MEGABYTE},
        {"cron": "٣ 2 * * *"},
        {"cron": "0 0 * * *\0"},
        {"cron": ["0 0 * * *"]},
        {"cron": {"a": {"b": "c"}}},
        {"every": "9" * MEGABYTE},
        {"cron": "0 0 * * *", "timezone": "x" * MEGABYTE},
        {"cron": "0 0 * * *", "z" * MEGABYTE: 1},
        {"cron": "0 0 * * *", **{f"key{number}": 1 for number in range(20_000)}},
        {"cron": "0 0 * * *", "after": [{"job": "x"}] * 20_000},
    ],
    ids=lambda keys: repr(keys)[:40],
)
async def test_a_hostile_schedule_is_refused_and_not_stored(open_site: Open, conn: asyncpg.Connection, keys: dict[str, Any]) -> None:
    site = await open_site(state={"definitions": definitions(Settings)})
    began = time.perf_counter()
    problem = await site.post("/api/v1/schedules", 422, json={"name": "odd", "command": "health"} | keys)
    took = time.perf_counter() - began
    assert len(problem["detail"]) < 2000
    assert took < 3 * CROWDED
    assert await conn.fetchval("select count(*) from ingestd.schedule where name = 'odd'") == 0
