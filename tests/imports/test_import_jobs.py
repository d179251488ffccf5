"""Arrivals through their loads into the table: exactly once, in order, and an `import` job that ends as its loads end."""

from __future__ import annotations

from typing import Any

import asyncpg
import psutil

from ingestd.events import LoadFinished
from ingestd.imports.actions import import_file, retry_load, skip_load, trigger_import
from ingestd.imports.facts import facts
from ingestd.imports.store import reads
from ingestd.jobs.actions import retry_job
from ingestd.jobs.store import history
from ingestd.jobs.store.reads import show_job
from tests.imports.arriving import OPERATOR, Inbox
from tests.support import eventually


async def ended(conn: asyncpg.Connection, job_id: int) -> dict[str, Any]:
    """The job once it is final."""

    async def final() -> dict[str, Any] | None:
        job = await show_job(conn, job_id)
        return job if job and job["finished_at"] else None

    job = await eventually(final, saying=f"end of job {job_id}")
    assert job is not None
    return job


async def statuses(conn: asyncpg.Connection, wanted: list[str]) -> list[dict[str, Any]]:
    """The loads in arrival order, once their statuses are these."""

    async def reached() -> list[dict[str, Any]]:
        loads = (await reads.list_loads(conn))[::-1]
        assert [load["status"] for load in loads] == wanted, [(load["file"], load["status"], load["reason"]) for load in loads]
        return loads

    return await eventually(reached)


async def table(conn: asyncpg.Connection) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await conn.fetch("select id, v from readings order by id")]


LOADER_WAITS = """
select count(*) > 0 from pg_stat_activity
where datname = current_database() and application_name like '%:loader' and wait_event_type = 'Lock'"""


async def test_an_import_job_loads_what_is_there_and_sums_it_up(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare(poll="off")
    inbox.put("a.csv", "id,v\n1,x\n2,y\n", minutes_ago=2)
    inbox.put("b.csv", "id,v\n2,z\n3,w\n", minutes_ago=1)
    async with inbox.working():
        job = await ended(conn, await trigger_import(conn, OPERATOR, "readings"))
    assert (job["state"], job["partial"]) == ("succeeded", False)
    assert job["result"] == {
        "files": 2, "read": 4, "inserted": 3, "updated": 1, "unchanged": 0, "rejected": 0, "superseded": 0, "skipped": 0,
    }  # fmt: skip
    assert await table(conn) == [(1, "x"), (2, "z"), (3, "w")]
    assert [load["triggered_by"] for load in await reads.list_loads(conn)] == ["cli", "cli"]
    told = [event for event in inbox.events if isinstance(event, LoadFinished)]
    assert [(event.file, event.inserted, event.updated) for event in told] == [("a.csv", 2, 0), ("b.csv", 1, 1)]


async def test_an_import_job_that_finds_nothing_new_succeeds_with_no_files(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare(poll="off")
    inbox.put("a.csv", "id,v\n1,x\n")
    async with inbox.working():
        await ended(conn, await trigger_import(conn, OPERATOR, "readings"))
        again = await ended(conn, await trigger_import(conn, OPERATOR, "readings"))
    assert (again["state"], again["result"]) == ("succeeded", {"files": 0})


async def test_an_import_job_with_rejects_is_partial(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare(poll="off", max_reject_ratio=0.9, columns={"id": "bigint"})
    inbox.put("a.csv", "id,v\n1,x\nnot a number,y\n")
    async with inbox.working():
        job = await ended(conn, await trigger_import(conn, OPERATOR, "readings"))
    assert (job["state"], job["partial"], job["result"]["rejected"]) == ("succeeded", True, 1)


async def test_an_import_job_fails_with_the_name_and_reason_of_the_file_that_failed(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare(poll="off", order="any")
    inbox.put("bad.csv", "wrong,v\n1,x\n", minutes_ago=2)
    inbox.put("good.csv", "id,v\n1,x\n")
    async with inbox.working():
        job_id = await trigger_import(conn, OPERATOR, "readings")
        job = await ended(conn, job_id)
        assert job["state"] == "failed"
        assert "1 of 2 files failed; bad.csv: " in job["reason"]
        # Once the file has been given up, the job can be run again and is content.
        (bad, _) = await statuses(conn, ["failed", "succeeded"])
        await skip_load(conn, OPERATOR, bad["id"])
        skipped = next(load for load in await reads.list_loads(conn) if load["id"] == bad["id"])
        assert skipped["reason"] == f"skipped by ana; it had failed: {bad['reason']}"
        await retry_job(conn, OPERATOR, job_id)
        assert (await ended(conn, job_id))["state"] == "succeeded"


async def test_a_folder_that_is_not_there_is_tried_again_and_said(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare(poll="off")
    inbox.folder.rmdir()
    async with inbox.working():
        job_id = await trigger_import(conn, OPERATOR, "readings")

        async def retrying() -> bool:
            job = await show_job(conn, job_id)
            return bool(job and job["state"] == "retrying" and "does not exist" in job["error"]["message"])

        await eventually(retrying)


async def test_imports_that_cannot_be_scanned_fail_at_once(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare("hand", source="upload")
    async with inbox.working():
        unknown = await ended(conn, await trigger_import(conn, OPERATOR, "nothing"))
        by_hand = await ended(conn, await trigger_import(conn, OPERATOR, "hand"))
    assert (unknown["state"], unknown["reason"]) == ("failed", 'there is no import "nothing" in the configuration')
    assert (by_hand["state"], by_hand["reason"]) == ("failed", 'import "hand" takes files by hand only: ingestd import hand FILE')


async def test_a_then_corrected_b_then_a_again_ends_as_a(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare()
    async with inbox.working(watching=True):
        for turn, text in enumerate(("x", "corrected", "x"), start=1):
            inbox.put("a.csv", f"id,v\n1,{text}\n", minutes_ago=10 - turn)
            await statuses(conn, ["succeeded"] * turn)
            assert await table(conn) == [(1, text)]


async def test_the_same_content_twice_in_a_row_is_skipped_visibly(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare()
    async with inbox.working(watching=True):
        inbox.put("a.csv", "id,v\n1,x\n", minutes_ago=2)
        (first,) = await statuses(conn, ["succeeded"])
        inbox.put("a.csv", "id,v\n1,x\n", minutes_ago=1)
        (_, second) = await statuses(conn, ["succeeded", "skipped"])
    assert str(first["id"]) in second["reason"]
    assert second["duplicate_of"] == first["id"]


async def test_a_second_import_by_hand_is_skipped_unless_forced(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare(source="upload")
    path = inbox.root / "a.csv"
    path.write_text("id,v\n1,x\n")
    async with inbox.working():
        for force in (False, False, True):
            await import_file(inbox.intake, OPERATOR, "readings", inbox.imports, path, force=force)
        loads = await statuses(conn, ["succeeded", "skipped", "succeeded"])
    assert loads[2]["unchanged"] == 1


async def test_under_strict_order_a_failed_load_blocks_visibly_until_it_is_skipped(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare()
    inbox.put("a.csv", "id,v\n1,x\n", minutes_ago=3)
    inbox.put("b.csv", "wrong,v\n1,x\n", minutes_ago=2)
    inbox.put("c.csv", "id,v\n3,z\n", minutes_ago=1)
    checks = facts(lambda: inbox.imports, inbox.bus, inbox.watch).checks
    assert checks is not None
    async with inbox.working(watching=True):
        (_, failed, _) = await statuses(conn, ["succeeded", "failed", "pending"])

        async def blocked() -> bool:
            waiting = (await reads.list_loads(conn))[0]
            return bool(waiting["state"] == "blocked" and waiting["blocked_by"] == failed["id"])

        await eventually(blocked)
        waiting = (await reads.list_loads(conn))[0]
        assert waiting["reason"] == f"blocked: load {failed['id']} (b.csv) failed; ingestd loads retry|skip {failed['id']}"
        (readings,) = await reads.list_imports(conn, ["readings"])
        assert (readings["pending"], readings["blocked_by"]) == (1, failed["id"])
        check = (await checks(conn))[-1]
        assert (check.name, check.status) == ("loads_blocked", "degraded")
        assert f"ingestd loads skip {failed['id']}" in check.hint
        await skip_load(conn, OPERATOR, failed["id"])
        await statuses(conn, ["succeeded", "skipped", "succeeded"])
        assert (await checks(conn))[-1].status == "healthy"
    assert await table(conn) == [(1, "x"), (3, "z")]


async def test_the_hint_about_blocking_loads_is_about_one_that_the_check_names(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare("alone", source=f"{inbox.folder}/alone.csv", table="alone")
    inbox.put("alone.csv", "wrong,v\n1,x\n", minutes_ago=9)
    async with inbox.working(watching=True):
        await statuses(conn, ["failed"])
        inbox.declare()
        inbox.put("b.csv", "wrong,v\n1,x\n", minutes_ago=2)
        inbox.put("c.csv", "id,v\n3,z\n", minutes_ago=1)
        del inbox.imports["alone"]
        (inbox.folder / "alone.csv").unlink()
        (_, failed, _) = await statuses(conn, ["failed", "failed", "pending"])
        checks = facts(lambda: inbox.imports, inbox.bus, inbox.watch).checks
        assert checks is not None

        async def told() -> bool:
            check = (await checks(conn))[-1]
            return f"load {failed['id']} (b.csv)" in check.value and f"ingestd loads skip {failed['id']}" in check.hint

        await eventually(told)


def loaded_files(inbox: Inbox) -> list[str]:
    return [event.file for event in inbox.events if isinstance(event, LoadFinished)]


async def test_a_retried_load_keeps_its_place_before_the_later_ones(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare()
    inbox.put("a.csv", "Id No,v\n1,early\n", minutes_ago=2)
    inbox.put("b.csv", "id,v\n1,late\n", minutes_ago=1)
    async with inbox.working(watching=True):
        (failed, _) = await statuses(conn, ["failed", "pending"])
        # The cause is removed in the configuration; the load then goes through before the one behind it.
        inbox.declare(rename={"Id No": "id"})
        await retry_load(conn, OPERATOR, failed["id"])
        await statuses(conn, ["succeeded", "succeeded"])
        # Told after the commit that made them so.
        await eventually(lambda: loaded_files(inbox) == ["a.csv", "a.csv", "b.csv"])
    assert await table(conn) == [(1, "late")]


async def test_the_job_of_a_failed_load_can_be_retried_as_any_other_job(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare()
    inbox.put("a.csv", "Id No,v\n1,x\n")
    async with inbox.working(watching=True):
        (failed,) = await statuses(conn, ["failed"])
        inbox.declare(rename={"Id No": "id"})
        await retry_job(conn, OPERATOR, failed["job_id"])
        await statuses(conn, ["succeeded"])


async def test_under_any_order_a_failed_load_blocks_nobody(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare(order="any")
    inbox.put("a.csv", "wrong,v\n1,x\n", minutes_ago=2)
    inbox.put("b.csv", "id,v\n1,x\n", minutes_ago=1)
    async with inbox.working(watching=True):
        await statuses(conn, ["failed", "succeeded"])


async def test_a_load_of_an_import_that_left_the_configuration_fails_and_can_be_retried(inbox: Inbox, conn: asyncpg.Connection) -> None:
    settings = inbox.declare(poll="off")
    inbox.put("a.csv", "id,v\n1,x\n")
    path = inbox.folder / "a.csv"
    load_id = await import_file(inbox.intake, OPERATOR, "readings", inbox.imports, path)
    inbox.imports.clear()
    async with inbox.working():
        (failed,) = await statuses(conn, ["failed"])
        assert "is not in the configuration any more" in failed["reason"]
        job_id = await conn.fetchval("select job_id from ingestd.load where id = $1", load_id)
        assert await history.find_state(conn, job_id) == "failed", "load and job fail together, or a retry between the two is lost"
        inbox.imports["readings"] = settings
        await retry_load(conn, OPERATOR, load_id)
        await statuses(conn, ["succeeded"])


async def test_a_load_whose_bytes_are_gone_fails_with_what_to_do(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare(poll="off")
    path = inbox.put("a.csv", "id,v\n1,x\n")
    await import_file(inbox.intake, OPERATOR, "readings", inbox.imports, path)
    for kept in (inbox.store.folder / "kept").rglob("*"):
        if kept.is_file():
            kept.unlink()
    async with inbox.working():
        (failed,) = await statuses(conn, ["failed"])
    assert "are gone; put the file into the source again" in failed["reason"]


async def test_a_change_of_table_is_followed_by_loads_that_were_waiting(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare(poll="off")
    path = inbox.put("a.csv", "id,v\n1,x\n")
    await import_file(inbox.intake, OPERATOR, "readings", inbox.imports, path)
    inbox.declare(poll="off", table="elsewhere")
    async with inbox.working():
        (load,) = await statuses(conn, ["succeeded"])
    assert load["table"] == "public.elsewhere"
    assert await conn.fetchval("select count(*) from elsewhere") == 1


async def test_loaded_originals_are_moved_and_failed_ones_stay(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare(after_load=f"move:{inbox.root}/done", order="any")
    good = inbox.put("good.csv", "id,v\n1,x\n", minutes_ago=2)
    bad = inbox.put("bad.csv", "wrong,v\n1,x\n", minutes_ago=1)
    async with inbox.working(watching=True):
        await statuses(conn, ["succeeded", "failed"])
        await eventually((inbox.root / "done" / "good.csv").exists)
        assert bad.exists()
        assert not good.exists()


async def test_an_original_left_behind_by_a_crash_after_its_load_is_cleared_by_the_next_look(
    inbox: Inbox, conn: asyncpg.Connection
) -> None:
    inbox.declare()
    path = inbox.put("a.csv", "id,v\n1,x\n")
    async with inbox.working(watching=True):
        await statuses(conn, ["succeeded"])
    assert path.exists()
    inbox.declare(after_load="delete")
    await inbox.new_watch().poll()
    assert not path.exists()


async def test_a_load_whose_process_dies_on_its_last_attempt_ends_failed_and_can_be_retried(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare(source="upload")
    path = inbox.root / "big.csv"
    path.write_text("id,v\n" + "".join(f"{number},{'x' * 60}\n" for number in range(20_000)))
    load_id = await import_file(inbox.intake, OPERATOR, "readings", inbox.imports, path)
    await conn.execute("update ingestd.job set max_attempts = 1")

    def kill_the_loader() -> bool:
        for child in psutil.Process().children():
            if "ingestd.imports.child" in child.cmdline():
                child.kill()
                return True
        return False

    async with inbox.working():
        async with inbox.db.handlers() as other, other.transaction():
            # The load cannot write its end while this is held: it is killed in the middle, however fast it is.
            await other.execute("lock table ingestd.load in share mode")
            await eventually(lambda: conn.fetchval(LOADER_WAITS))
            assert kill_the_loader()
        (failed,) = await statuses(conn, ["failed"])
        assert failed["reason"]
        assert (await ended(conn, failed["job_id"]))["state"] == "failed"
        await retry_load(conn, OPERATOR, load_id)
        (load,) = await statuses(conn, ["succeeded"])
    assert load["inserted"] == await conn.fetchval("select count(*) from readings") == 20_000


async def test_a_file_named_by_hand_is_never_deleted(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare(after_load="delete", poll="off")
    path = inbox.put("a.csv", "id,v\n1,x\n")
    async with inbox.working():
        await import_file(inbox.intake, OPERATOR, "readings", inbox.imports, path)
        await statuses(conn, ["succeeded"])
        await ended(conn, await trigger_import(conn, OPERATOR, "readings"))
    assert path.exists()
