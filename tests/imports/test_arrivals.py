"""An arrival is taken once, whole, in order, whatever lies around it and whatever crashes."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys

import asyncpg
import pytest

from ingestd.events import FileArrived
from ingestd.files import spool
from ingestd.files.identity import Stamp
from ingestd.imports.arrivals import Cause
from ingestd.imports.facts import facts
from ingestd.imports.sources.folder import Seen
from tests.imports.arriving import LOADS, Inbox, names, permissions_matter, poll_until
from tests.support import eventually


async def test_a_complete_file_becomes_an_arrival_a_load_and_a_keyed_job(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare(tags=["energy"], priority="high")
    inbox.put("a.csv", "id,v\n1,x\n")
    await poll_until(inbox, conn, ["a.csv"])
    (load,) = await conn.fetch(LOADS)
    assert (load["status"], load["triggered_by"], load["target"], load["tags"]) == ("pending", "folder", "public.readings", ["energy"])
    assert (load["kind"], load["queue"], load["key"], load["key_strict"]) == ("load", "imports", "table:public.readings", True)
    assert load["store"] == inbox.store.id
    assert load["args"] == {"load": load["id"]}
    assert [event for event in inbox.events if isinstance(event, FileArrived)] == [FileArrived("readings", "a.csv", 9, load["id"])]


async def test_what_has_arrived_is_never_looked_at_again_even_after_a_restart(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare()
    inbox.put("a.csv", "id\n1\n")
    await poll_until(inbox, conn, ["a.csv"])
    shutil.rmtree(inbox.store.folder / "kept")
    inbox.store.open()
    inbox.watch = inbox.new_watch()
    inbox.put("b.csv", "id\n2\n")
    await poll_until(inbox, conn, ["a.csv", "b.csv"])
    # The first file was not even read again: its bytes are not back in the store.
    assert len([path for path in (inbox.store.folder / "kept").rglob("*") if path.is_file()]) == 1


async def test_a_growing_file_is_not_taken_before_it_is_complete(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare(settle="300ms")
    path = inbox.folder / "a.csv"
    with path.open("w") as file:
        for number in range(40):
            file.write(f"{number}\n")
            file.flush()
            await inbox.watch.poll()
            await asyncio.sleep(0.02)
            assert await names(conn) == []
    await poll_until(inbox, conn, ["a.csv"])
    assert await conn.fetchval("select size from ingestd.arrival") == path.stat().st_size


async def test_files_arrive_in_the_order_they_were_written(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare()
    for name, minutes_ago in (("z.csv", 3), ("a.csv", 1), ("m.csv", 2)):
        inbox.put(name, name, minutes_ago=minutes_ago)
    await poll_until(inbox, conn, ["z.csv", "m.csv", "a.csv"])
    rows = await conn.fetch(LOADS)
    assert [row["job"] for row in rows] == sorted(row["job"] for row in rows)


async def test_the_same_name_with_other_content_arrives_again(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare()
    inbox.put("a.csv", "id\n1\n", minutes_ago=3)
    await poll_until(inbox, conn, ["a.csv"])
    inbox.put("a.csv", "id\n2\n", minutes_ago=2)
    await poll_until(inbox, conn, ["a.csv", "a.csv"])
    # The first content once more is a third arrival of the first file.
    inbox.put("a.csv", "id\n1\n", minutes_ago=1)
    await poll_until(inbox, conn, ["a.csv", "a.csv", "a.csv"])
    files = [row["file_id"] for row in await conn.fetch("select file_id from ingestd.load order by id")]
    assert files[0] == files[2] != files[1]


async def test_the_same_content_under_another_name_shares_its_bytes(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare()
    inbox.put("a.csv", "id\n1\n", minutes_ago=2)
    inbox.put("b.csv", "id\n1\n", minutes_ago=1)
    await poll_until(inbox, conn, ["a.csv", "b.csv"])
    assert await conn.fetchval("select count(*) from ingestd.file") == 1


async def test_links_pipes_sockets_folders_and_unfinished_files_never_arrive(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare()
    (inbox.folder / "link.csv").symlink_to("/etc/hostname")
    os.mkfifo(inbox.folder / "pipe.csv")
    (inbox.folder / "folder.csv").mkdir()
    (inbox.folder / ".hidden.csv").touch()
    (inbox.folder / "b.csv.part").touch()
    inbox.put("a.csv", "id\n1\n")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(inbox.folder / "socket.csv"))
        await poll_until(inbox, conn, ["a.csv"])
        await inbox.watch.poll()
    assert await names(conn) == ["a.csv"]
    assert inbox.notices() == [f"import readings: {inbox.folder}/link.csv is a symbolic link and is not followed"]
    assert inbox.watch.problems("readings") == []


async def test_a_file_changed_between_look_and_copy_is_left_for_the_next_look(inbox: Inbox, conn: asyncpg.Connection) -> None:
    settings = inbox.declare()
    path = inbox.put("a.csv", "id\n1\n")
    looked = Seen("a.csv", str(path), Stamp.of(path.stat()))
    path.write_text("id\n1\n2\n")
    with pytest.raises(spool.NotComplete):
        await inbox.intake.take("readings", settings, looked, Cause())
    await poll_until(inbox, conn, ["a.csv"])
    assert await conn.fetchval("select bytes from ingestd.load") == 7


async def test_two_watches_that_see_a_file_at_once_make_one_load_of_it(inbox: Inbox, conn: asyncpg.Connection) -> None:
    settings = inbox.declare()
    path = inbox.put("a.csv", "id\n1\n")
    looked = Seen("a.csv", str(path), Stamp.of(path.stat()))
    made = await asyncio.gather(*(inbox.intake.take("readings", settings, looked, Cause()) for _ in range(4)))
    assert len([load for load in made if load is not None]) == 1
    assert await conn.fetchval("select count(*) from ingestd.job") == 1


async def test_killed_between_copy_and_row_the_file_is_taken_again(inbox: Inbox, conn: asyncpg.Connection, dsn: str) -> None:
    inbox.declare()
    path = inbox.put("a.csv", "id\n1\n")
    script = """
import asyncio, os, signal, sys
from pathlib import Path
from ingestd.events import Bus
from ingestd.files.identity import Stamp
from ingestd.files.spool import Store
from ingestd.imports import arrivals
from ingestd.imports.settings import ImportSettings
from ingestd.imports.sources.folder import Seen
from ingestd.postgres.pool import Database

async def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    dsn, state, path = sys.argv[1:]
    db, store = Database(dsn), Store(Path(state))
    await db.open()
    store.open()
    arrivals.enqueue = die  # after the arrival row, before the commit
    settings = ImportSettings.model_validate({"source": path, "table": "readings"})
    seen = Seen("a.csv", path, Stamp.of(os.stat(path)))
    await arrivals.Intake(db, store, Bus()).take("readings", settings, seen, arrivals.Cause())

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, dsn, str(inbox.root / "state"), str(path))
    assert await process.wait() == -9
    assert len([kept for kept in (inbox.store.folder / "kept").rglob("*") if kept.is_file()]) == 1
    assert await conn.fetchval("select count(*) from ingestd.arrival") == 0
    await poll_until(inbox, conn, ["a.csv"])
    assert await conn.fetchval("select count(*) from ingestd.file") == 1


async def test_a_name_that_is_not_text_arrives_escaped(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare()
    inbox.put(os.fsdecode(b"caf\xe9\n.csv"), "id\n1\n")
    await poll_until(inbox, conn, [r"caf\xe9\x0a.csv"])
    await inbox.watch.poll()
    await inbox.new_watch().poll()
    assert len(await names(conn)) == 1


async def test_a_name_too_long_to_be_remembered_is_told_and_stops_nobody(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare(source=f"{inbox.folder}/**/*.csv")
    deep = "/".join(os.urandom(100).hex() for _ in range(14))
    inbox.put("a.csv", "id\n1\n")
    inbox.put(f"{deep}/b.csv", "id\n2\n", minutes_ago=2)
    await poll_until(inbox, conn, ["a.csv"])
    await eventually(lambda: any("too long" in notice for notice in inbox.notices()))


async def test_a_missing_folder_is_told_once_and_picked_up_when_it_appears(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.folder.rmdir()
    inbox.declare()
    checks = facts(lambda: inbox.imports, inbox.bus, inbox.watch).checks
    assert checks is not None
    for _ in range(3):
        await inbox.watch.poll()
        await asyncio.sleep(0.11)
    problem = f"folder {inbox.folder} does not exist"
    assert inbox.notices() == [f"import readings: {problem}"]
    (source, *_) = await checks(conn)
    assert (source.name, source.status, source.value) == ("import_readings_source", "degraded", problem)
    inbox.folder.mkdir()
    inbox.put("a.csv", "id\n1\n")
    await poll_until(inbox, conn, ["a.csv"])
    assert inbox.notices()[-1] == f"import readings: no longer: {problem}"
    assert [check.status for check in await checks(conn)] == ["healthy"] * 3


async def test_one_bad_source_does_not_keep_the_others_from_their_turn(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare("broken", source=f"{inbox.root}/nowhere/*.csv")
    inbox.declare("good")
    inbox.put("a.csv", "id\n1\n")
    await poll_until(inbox, conn, ["a.csv"])


async def test_each_import_is_looked_at_at_its_own_pace_and_off_means_never(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare("off", poll="off")
    inbox.declare("rare", poll="1h")
    inbox.declare("often", poll="100ms")
    await inbox.watch.poll()
    inbox.put("a.csv", "id\n1\n")
    await poll_until(inbox, conn, ["a.csv"])
    assert [row["import"] for row in await conn.fetch(LOADS)] == ["often"]


async def test_an_import_taken_out_of_the_configuration_is_not_looked_at_any_more(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare()
    await inbox.watch.poll()
    del inbox.imports["readings"]
    inbox.put("a.csv", "id\n1\n")
    assert await inbox.watch.poll() > 0.1
    assert await names(conn) == []


async def test_a_visit_takes_old_files_at_once_and_waits_a_little_for_fresh_ones(inbox: Inbox, conn: asyncpg.Connection) -> None:
    settings = inbox.declare(poll="off", settle="200ms")
    inbox.put("old.csv", "id\n1\n", minutes_ago=1)
    (inbox.folder / "fresh.csv").write_text("id\n2\n")
    visit = await inbox.watch.visit("readings", settings, Cause("workflow"))
    assert len(visit.loads) == 2
    assert await names(conn) == ["old.csv", "fresh.csv"]
    assert (await inbox.watch.visit("readings", settings, Cause("workflow"))).loads == []


async def test_a_file_that_cannot_be_read_is_told_once_and_taken_when_it_can_be(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare()
    checks = facts(lambda: inbox.imports, inbox.bus, inbox.watch).checks
    assert checks is not None
    closed = inbox.put("closed.csv", "id\n1\n", minutes_ago=2)
    closed.chmod(0)
    inbox.put("open.csv", "id\n2\n")
    problem = f"cannot read {closed}: Permission denied"
    with permissions_matter():
        await poll_until(inbox, conn, ["open.csv"])
        for _ in range(3):
            await asyncio.sleep(0.11)
            await inbox.watch.poll()
        assert inbox.notices() == [f"import readings: {problem}"]
        (source, *_) = await checks(conn)
        assert (source.status, source.value) == ("degraded", problem)
        closed.chmod(0o600)
        await poll_until(inbox, conn, ["open.csv", "closed.csv"])
        assert inbox.notices()[1:] == [f"import readings: no longer: {problem}"]


async def test_a_folder_that_cannot_be_read_is_told_once_and_read_when_it_can_be(inbox: Inbox, conn: asyncpg.Connection) -> None:
    inbox.declare()
    checks = facts(lambda: inbox.imports, inbox.bus, inbox.watch).checks
    assert checks is not None
    inbox.put("a.csv", "id\n1\n")
    inbox.folder.chmod(0)
    problem = f"cannot read folder {inbox.folder}: Permission denied"
    with permissions_matter():
        for _ in range(3):
            await inbox.watch.poll()
            await asyncio.sleep(0.11)
        assert inbox.notices() == [f"import readings: {problem}"]
        (source, *_) = await checks(conn)
        assert (source.status, source.value) == ("degraded", problem)
        inbox.folder.chmod(0o700)
        await poll_until(inbox, conn, ["a.csv"])
