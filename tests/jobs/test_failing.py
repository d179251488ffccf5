"""What fails again and again: in metrics, and in health from the configured number on."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from ingestd.events import Bus
from ingestd.facts import Check, RoomFacts
from ingestd.imports.facts import facts as import_facts
from ingestd.imports.settings import ImportSettings
from ingestd.jobs.facts import facts as job_facts
from tests.admin.rows import new_load
from tests.admin.runs import new_job, new_run


@pytest.fixture
def rooms(tmp_path: Path) -> list[RoomFacts]:
    """Two imports, two workflows, and whatever kinds a node runs; three in a row are too many."""
    imports = {name: ImportSettings(source=str(tmp_path / name), table=name) for name in ("readings", "prices")}
    return [import_facts(lambda: imports, Bus(), None, lambda: 3), job_facts(lambda: ["market", "quiet"], lambda: 3)]


@pytest.fixture
async def node(conn: asyncpg.Connection) -> None:
    """A living node that knows two kinds, and a dead one that knew another."""
    for name, state, kinds in (("a", "running", ["sync", "other"]), ("b", "dead", ["retired"])):
        await conn.execute(
            """insert into ingestd.node (id, store, name, host, pid, version, state, duties, kinds, lock_key)
            values (gen_random_uuid(), gen_random_uuid(), $1, 'h', 1, '1', $2, '{}', $3, 1)""",
            name, state, kinds,
        )  # fmt: skip


async def in_a_row(conn: asyncpg.Connection, rooms: list[RoomFacts]) -> dict[tuple[str, str], float]:
    """The gauges of failures in a row."""
    found = {}
    for room in rooms:
        assert room.gauges is not None
        for gauge in await room.gauges(conn):
            if gauge.name.endswith("_consecutive_failures"):
                ((label, name),) = gauge.labels.items()
                assert gauge.name == f"{label}_consecutive_failures"
                found[label, name] = gauge.value
    return found


async def failing(conn: asyncpg.Connection, rooms: list[RoomFacts]) -> dict[str, Check]:
    """The checks about it."""
    found = {}
    for room in rooms:
        assert room.checks is not None
        found |= {check.name: check for check in await room.checks(conn) if check.name.endswith("_failing")}
    return found


async def test_failures_in_a_row_are_gauged_for_what_is_declared_and_for_kinds_that_a_living_node_runs(
    conn: asyncpg.Connection, rooms: list[RoomFacts], node: None
) -> None:
    known = {"import": ("readings", "prices"), "workflow": ("market", "quiet"), "kind": ("sync", "other")}
    nothing = {(what, name) for what, names in known.items() for name in names}
    assert await in_a_row(conn, rooms) == dict.fromkeys(nothing, 0.0)
    for state in ("succeeded", "failed", "cancelled", "failed"):
        await new_load(conn, "readings", f"{state}.csv", status="skipped" if state == "cancelled" else state, read=1, inserted=1)
        await new_run(conn, "market", state)
        await new_job(conn, "sync", state)
        await new_job(conn, "retired", "failed")
    found = await in_a_row(conn, rooms)
    assert {what: number for what, number in found.items() if number} == {
        ("import", "readings"): 2.0,
        ("workflow", "market"): 2.0,
        ("kind", "sync"): 2.0,
    }
    assert found.keys() == nothing


async def test_health_tells_from_the_configured_number_on_and_until_a_success(
    conn: asyncpg.Connection, rooms: list[RoomFacts], node: None
) -> None:
    async def fail(times: int) -> None:
        for _ in range(times):
            await new_load(conn, "readings", "a.csv", status="failed")
            await new_run(conn, "market", "failed")
            await new_job(conn, "sync", "failed")

    await fail(2)
    assert {check.status for check in (await failing(conn, rooms)).values()} == {"healthy"}
    await fail(2)
    for what, name in (("import", "readings"), ("workflow", "market"), ("kind", "sync")):
        check = (await failing(conn, rooms))[f"{what}s_failing"]
        assert (check.status, check.value, check.threshold) == ("degraded", f"{name} failed 4 times in a row", "3")
        assert f"ingestd {what}s last {name}" in check.hint
    await new_load(conn, "readings", "a.csv", status="partial")
    await new_run(conn, "market", "succeeded")
    await new_job(conn, "sync", "partial")
    assert {check.status for check in (await failing(conn, rooms)).values()} == {"healthy"}


async def test_the_worst_are_named_first_and_the_rest_counted(conn: asyncpg.Connection) -> None:
    names = [f"w{number}" for number in range(7)]
    for number, name in enumerate(names):
        for _ in range(number):
            await new_run(conn, name, "failed")
    check = (await failing(conn, [job_facts(lambda: names, lambda: 1)]))["workflows_failing"]
    assert check.value.startswith("w6 failed 6 times in a row; w5 failed 5")
    assert check.value.endswith("; and 1 more")
