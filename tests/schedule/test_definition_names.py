"""What a schedule made by API or command line may name: what the configuration declares, and kinds that somebody can run."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from ingestd.access.roles import Actor
from ingestd.app.definitions import definitions
from ingestd.app.settings import Settings, build
from ingestd.errors import ConfigurationError, InvalidInput
from ingestd.events import Bus, Event, SlotFired
from ingestd.jobs.registry import HandlerSpec
from ingestd.jobs.store.queues import declare_queue, publish_missing_kinds
from ingestd.settings import Layers
from tests.schedule.conftest import backdate

ADA = Actor("ada", "operator", "api")
DECLARED = {
    "imports": {"readings": {"source": "upload", "table": "public.readings"}},
    "workflows": {"market": {"steps": {"one": {"job": "tick"}}}},
    "queues": {"slow": {"concurrency": 1}},
}


def configured(**more: Any) -> Settings:
    layers = Layers()
    layers.merge(DECLARED | more, "config.toml")
    return build(layers)


async def tick(ctx: Any, supplier: str, days: int = 1) -> None:
    """A job of the user's."""


SPEC = HandlerSpec("tick", tick, queue="slow", priority=7, max_attempts=9, aliases=("tock",))


@pytest.fixture
async def known(conn: asyncpg.Connection) -> asyncpg.Connection:
    """A database that knows what a daemon would have told it."""
    for name, queue in configured().all_queues().items():
        await declare_queue(conn, name, queue)
    await publish_missing_kinds(conn, [SPEC])
    return conn


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"import": "redings"}, '"import" in [schedules.mine]: there is no import "redings", did you mean "readings"?'),
        ({"workflow": "markt"}, '"workflow" in [schedules.mine]: there is no workflow "markt", did you mean "market"?'),
        ({"rollup": "daily"}, '"rollup" in [schedules.mine]: there is no rollup "daily"'),
        ({"import": "readings", "after": [{"import": "nope"}]}, '"after" in [schedules.mine]: there is no import "nope"'),
        ({"job": "tik"}, '"job" in [schedules.mine]: no node knows the kind "tik", did you mean "tick"?'),
        ({"job": "bulk"}, '"job" in [schedules.mine]: jobs of the kind bulk are made by ingestd alone'),
        (
            {"import": "readings", "after": [{"job": "tik"}]},
            '"after" in [schedules.mine]: no node knows the kind "tik", did',
        ),
        ({"job": "tick"}, '"job" in [schedules.mine]: the arguments do not fit tick'),
        ({"job": "tick", "args": {"supplier": "x", "dayz": 1}}, "the arguments do not fit tick"),
    ],
)
async def test_what_nobody_knows_is_refused_in_the_words_of_the_file(known: asyncpg.Connection, keys: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        await definitions(configured).create(known, ADA, "mine", {"every": "1h"} | keys)
    assert says in refused.value.message
    assert await known.fetchval("select count(*) from ingestd.schedule") == 0
    if "there is no" in says:
        with pytest.raises(ConfigurationError) as by_file:
            configured(schedules={"mine": {"every": "1h"} | keys})
        assert by_file.value.problems == [f"config.toml: {refused.value.message}"]


async def test_a_job_takes_the_defaults_of_its_kind_though_its_code_is_elsewhere(known: asyncpg.Connection) -> None:
    made = definitions(configured)
    await made.create(known, ADA, "mine", {"every": "1h", "job": "tick", "args": {"supplier": "acme"}})
    await made.create(known, ADA, "old", {"every": "1h", "job": "tock", "args": {"supplier": "acme"}, "priority": 3})
    rows = await known.fetch(
        """select s.kind, q.name, -s.rank, s.max_attempts from ingestd.schedule s join ingestd.queue q on q.id = s.queue_id
           order by s.name"""
    )
    assert [tuple(row) for row in rows] == [("tick", "slow", 7, 9), ("tick", "slow", 3, 9)]


async def test_each_kind_of_target_can_be_made(known: asyncpg.Connection) -> None:
    made = definitions(lambda: configured(rollups={"daily": ROLLUP}))
    targets = {
        "import": "readings", "workflow": "market", "rollup": "daily", "command": "maintenance",
    }  # fmt: skip
    for kind, name in targets.items():
        await made.create(known, ADA, f"by_{kind}", {"every": "1h", kind: name})
    rows = await known.fetch("select target ->> 'type' as type, target ->> 'name' as name, kind from ingestd.schedule")
    assert {row["type"]: row["name"] for row in rows} == targets
    assert {row["kind"] for row in rows} == {"import", "workflow", "rollup", "maintenance"}


ROLLUP = {"source": "public.readings", "time": "at", "bucket": "1 day", "measures": {"n": "count(*)"}}


async def test_a_kind_whose_code_is_at_hand_is_published_when_it_is_named(conn: asyncpg.Connection) -> None:
    for name, queue in configured().all_queues().items():
        await declare_queue(conn, name, queue)
    keys = {"every": "1h", "job": "tick", "args": {"supplier": "acme"}}
    with pytest.raises(InvalidInput, match="no node has run here yet"):
        await definitions(configured).create(conn, ADA, "mine", keys)
    await definitions(configured, specs=lambda: [SPEC]).create(conn, ADA, "mine", keys)
    assert await conn.fetchval("select kind from ingestd.schedule") == "tick"


async def test_slots_that_an_edited_schedule_owed_are_told(known: asyncpg.Connection) -> None:
    bus, heard = Bus(), list[Event]()
    bus.subscribe(heard.append)
    made = definitions(configured, bus)
    await made.create(known, ADA, "mine", {"every": "1m", "command": "health"})
    await backdate(known, timedelta(seconds=90))
    await made.edit(known, ADA, "mine", {"every": "2m"})
    assert any(isinstance(event, SlotFired) and event.schedule == "mine" for event in heard)
