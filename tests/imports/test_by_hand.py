"""What people do to imports and loads by hand, and how they are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncpg
import pytest

from ingestd.errors import Conflict, FileMissing, NotFound, Refused
from ingestd.imports.actions import import_file, retry_load, skip_load, trigger_import
from ingestd.imports.facts import facts
from ingestd.imports.store import reads
from ingestd.jobs.actions import cancel_job
from tests.imports.arriving import LOADS, OPERATOR, Inbox, poll_until


async def test_a_file_given_by_hand_is_loaded_again_and_again_but_never_lost(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare(source="upload", order="any")
    path = inbox.root / "by hand.csv"
    path.write_text("id\n1\n")
    first = await import_file(inbox.intake, OPERATOR, "readings", inbox.imports, path, notes="n", tags=["t"], priority=7, metadata={"k": 1})
    second = await import_file(inbox.intake, OPERATOR, "readings", inbox.imports, path, force=True)
    rows = await conn.fetch(LOADS)
    assert [(row["id"], row["file_name"], row["triggered_by"]) for row in rows] == [
        (first, "by hand.csv", "cli"),
        (second, "by hand.csv", "cli"),
    ]
    assert rows[1]["args"] == {"load": second, "force": True}
    job = await conn.fetchrow("select notes, tags, metadata, rank from ingestd.job where id = $1", rows[0]["job"])
    assert dict(job) == {"notes": "n", "tags": ["t"], "metadata": {"k": 1}, "rank": -7}
    assert await conn.fetchval("select count(*) from ingestd.audit where action = 'import' and actor = 'ana'") == 2


async def test_a_file_of_the_watched_folder_given_by_hand_is_not_loaded_by_the_watch_too(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare()
    path = inbox.put("a.csv", "id\n1\n")
    await import_file(inbox.intake, OPERATOR, "readings", inbox.imports, path)
    inbox.put("b.csv", "id\n2\n")
    await poll_until(inbox, conn, ["a.csv", "b.csv"])


async def test_what_cannot_be_imported_by_hand_is_one_clear_line(inbox: Inbox) -> None:
    inbox.declare()

    async def give(name: str, path: Path) -> Any:
        return await import_file(inbox.intake, OPERATOR, name, inbox.imports, path)

    with pytest.raises(NotFound, match='no import "reading", did you mean "readings"'):
        await give("reading", inbox.folder)
    with pytest.raises(FileMissing, match="is not there"):
        await give("readings", inbox.folder / "missing.csv")
    with pytest.raises(Refused, match="is not a regular file"):
        await give("readings", inbox.folder)


async def test_a_trigger_is_an_import_job_and_an_audit_row(inbox: Inbox, conn: asyncpg.Connection) -> None:
    job_id = await trigger_import(conn, OPERATOR, "readings")
    row = await conn.fetchrow("select kind, args, triggered_by from ingestd.job where id = $1", job_id)
    assert dict(row) == {"kind": "import", "args": {"import": "readings"}, "triggered_by": "cli"}
    assert await conn.fetchval("select object_id from ingestd.audit where action = 'trigger'") == "readings"


async def test_a_waiting_load_can_be_skipped_and_a_final_one_cannot(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare()
    inbox.put("a.csv", "id\n1\n")
    await poll_until(inbox, conn, ["a.csv"])
    ((load_id, job_id),) = await conn.fetch("select id, job_id from ingestd.load")
    await skip_load(conn, OPERATOR, load_id)
    (item,) = await reads.list_loads(conn)
    assert (item["status"], item["reason"]) == ("skipped", "skipped by ana")
    assert await conn.fetchval("select state from ingestd.history where id = $1", job_id) == "skipped"
    for act in (skip_load, retry_load):
        with pytest.raises(Conflict, match=f"load {load_id} is skipped"):
            await act(conn, OPERATOR, load_id)
        with pytest.raises(NotFound):
            await act(conn, OPERATOR, 999)


async def test_a_load_whose_job_was_cancelled_is_not_left_pending(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare()
    inbox.put("a.csv", "id\n1\n")
    await poll_until(inbox, conn, ["a.csv"])
    await cancel_job(conn, OPERATOR, await conn.fetchval("select job_id from ingestd.load"))
    await inbox.new_watch().poll()
    (item,) = await reads.list_loads(conn)
    assert (item["status"], item["reason"]) == ("failed", "cancelled by ana")
    job_id = await retry_load(conn, OPERATOR, item["id"])
    assert (await reads.list_loads(conn))[0]["status"] == "pending"
    assert await conn.fetchval("select args ->> 'load' from ingestd.job where id = $1", job_id) == str(item["id"])


async def test_a_failed_load_is_retried_even_when_history_has_forgotten_its_job(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare()
    inbox.put("a.csv", "id\n1\n")
    await poll_until(inbox, conn, ["a.csv"])
    await conn.execute("delete from ingestd.job")
    await inbox.new_watch().poll()
    (item,) = await reads.list_loads(conn)
    assert (item["status"], item["reason"]) == ("failed", "its job ended: gone")
    await retry_load(conn, OPERATOR, item["id"])
    (row,) = await conn.fetch(LOADS)
    assert (row["kind"], row["store"], row["key"], row["status"]) == ("load", inbox.store.id, "table:public.readings", "pending")


async def test_lists_of_imports_and_loads_have_what_the_contract_names(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare()
    inbox.put("a.csv", "id\n1\n", minutes_ago=2)
    inbox.put("b.csv", "id\n2\n", minutes_ago=1)
    await poll_until(inbox, conn, ["a.csv", "b.csv"])
    newest, oldest = await reads.list_loads(conn)
    assert (newest["file"], oldest["file"]) == ("b.csv", "a.csv")
    assert {
        "id", "import_name", "file", "status", "read", "inserted", "updated", "unchanged", "rejected", "superseded", "duration_ms",
        "triggered_by", "reason", "created_at", "finished_at", "progress",
    } <= newest.keys()  # fmt: skip
    assert (newest["state"], newest["reason"]) == ("blocked", "waits for earlier loads into public.readings")
    assert [item["id"] for item in await reads.list_loads(conn, before_id=newest["id"])] == [oldest["id"]]
    assert await reads.list_loads(conn, status="failed") == []
    assert len(await reads.list_loads(conn, import_name="readings", limit=1)) == 1
    detail = await reads.load_detail(conn, newest["id"])
    assert detail is not None
    assert detail["path"] == f"{inbox.folder}/b.csv"
    assert await reads.load_detail(conn, 999) is None
    (first, never) = await reads.list_imports(conn, ["readings", "never"])
    assert (first["name"], first["pending"], first["last_load"]) == ("readings", 2, None)
    assert (never["pending"], never["last_arrived_at"]) == (0, None)
    gauges = facts(lambda: inbox.imports, inbox.bus).gauges
    assert gauges is not None
    values = {gauge.name: gauge.value for gauge in await gauges(conn)}
    assert values["loads_pending"] == 2
    assert 0 <= values["source_freshness_seconds"] < 60


async def test_a_page_of_rejects_never_ends_inside_a_record(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare()
    inbox.put("a.csv", "id\n1\n")
    await poll_until(inbox, conn, ["a.csv"])
    load_id = await conn.fetchval("select id from ingestd.load")
    await conn.executemany(
        "insert into ingestd.reject values ($1, $2, $3, 'bad_value', 'no', 'raw')",
        [(load_id, 1, "a"), (load_id, 1, "b"), (load_id, 2, "a")],
    )
    page = await reads.list_rejects(conn, load_id, limit=1)
    assert [(row["record"], row["column"]) for row in page] in ([(1, "a"), (1, "b")], [(1, "b"), (1, "a")])
    assert [row["record"] for row in await reads.list_rejects(conn, load_id, limit=1, after=1)] == [2]
