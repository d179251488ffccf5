"""Only a job that had started can have killed its process: the others are claimed again as if nothing had been."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from ingestd.jobs.store import rescue as rescue_store
from ingestd.work import presence as presence_module
from ingestd.work.presence import CELLS, SIZE, Notes, Presence
from tests.daemon.harness import Site
from tests.faults import processes
from tests.support import eventually

NODE = """
insert into ingestd.node (id, store, name, host, pid, version, duties, lock_key, heartbeat_at)
values ($1, gen_random_uuid(), 'n', 'h', 1, '0', '{work}', 1, now() - $2::interval)"""
CLAIM = """
update ingestd.job set claim = gen_random_uuid(), node = $1, claimed_at = now() - $2::interval, attempt = 1 where id = any ($3)"""
REPORT = "insert into ingestd.node_progress (node, at, started) values ($1, now() - $2::interval, $3)"
TAKES_NOTES = """
import sys, uuid
from pathlib import Path
from ingestd.work.presence import CELLS, Presence
notes = Presence(Path(sys.argv[1])).enter(uuid.UUID(sys.argv[2]))
for _ in range(CELLS):
    notes.cells[notes.take()] = 1
print("lives", flush=True)
sys.stdin.read()
"""
CRASHED = "select array_agg(id order by id) from ingestd.job where crashes = 1 and claim is null"


def seconds(value: float) -> timedelta:
    return timedelta(seconds=value)


@pytest.fixture
async def held(conn: asyncpg.Connection) -> tuple[UUID, list[int]]:
    """A node that last beat a second ago, and three jobs that it claimed ten seconds ago."""
    node = uuid.uuid4()
    await conn.execute(NODE, node, seconds(1))
    ids = await enqueue(conn, [NewJob("some") for _ in range(3)])
    await conn.execute(CLAIM, node, seconds(10), ids)
    return node, ids


async def crashed(conn: asyncpg.Connection, node: UUID, started: list[int] | None = None) -> list[int]:
    rescued = await rescue_store.rescue(conn, node, "it died", started)
    assert len(rescued.claimable) == 3
    return await conn.fetchval(CRASHED) or []


async def test_where_the_notes_can_be_read_they_alone_count(conn: asyncpg.Connection, held: tuple[UUID, list[int]]) -> None:
    node, ids = held
    await conn.execute(REPORT, node, seconds(2), [ids[0]])
    assert await crashed(conn, node, [ids[1], 12345]) == [ids[1]]
    rows = await conn.fetch("select id, attempt, jsonb_array_length(attempts) as tries from ingestd.job order by id")
    assert [(row["attempt"], row["tries"]) for row in rows] == [(0, 0), (0, 1), (0, 0)]


async def test_elsewhere_a_fresh_report_tells_who_had_started(conn: asyncpg.Connection, held: tuple[UUID, list[int]]) -> None:
    node, ids = held
    await conn.execute(REPORT, node, seconds(2), [ids[0]])
    assert await crashed(conn, node) == [ids[0]]


async def test_who_was_claimed_after_the_report_may_have_started(conn: asyncpg.Connection, held: tuple[UUID, list[int]]) -> None:
    node, ids = held
    await conn.execute(REPORT, node, seconds(2), [])
    await conn.execute(CLAIM, node, seconds(1), [ids[2]])
    assert await crashed(conn, node) == [ids[2]]


@pytest.mark.parametrize("report_s", [None, 9.0])
async def test_without_a_report_or_with_an_old_one_everybody_may_have_started(
    conn: asyncpg.Connection, held: tuple[UUID, list[int]], report_s: float | None
) -> None:
    node, ids = held
    if report_s is not None:
        await conn.execute(REPORT, node, seconds(report_s), [])
    assert await crashed(conn, node) == ids


def test_notes_outlive_their_process_and_not_their_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node, presence = uuid.uuid4(), Presence(tmp_path)
    notes = presence.enter(node)
    cell = notes.take()
    assert presence.started(node) == set()
    notes.cells[cell] = 42
    assert Presence(tmp_path).started(node) == {42}
    notes.give_back(cell)
    assert presence.started(node) == set()
    assert presence.started(uuid.uuid4()) is None
    monkeypatch.setattr(presence_module, "BOOT_ID", tmp_path / "another")
    assert presence.started(node) is None


def test_more_slots_than_cells_make_the_notes_void(tmp_path: Path) -> None:
    node, presence = uuid.uuid4(), Presence(tmp_path)
    notes = presence.enter(node)
    for _ in range(CELLS):
        notes.take()
    assert presence.started(node) == set()
    notes.take()
    assert presence.started(node) is None
    Notes()  # without a file, for whoever has no machine to tell


def test_on_a_full_disk_a_node_lives_holds_its_lock_and_takes_no_notes(tmp_path: Path) -> None:
    node = uuid.uuid4()
    with disk(tmp_path, SIZE // 2):
        # In a process of its own: what finds no room for a mapped page is ended by the kernel.
        live = [sys.executable, "-c", TAKES_NOTES, str(tmp_path), str(node)]
        with subprocess.Popen(live, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"lives\n"
            assert Presence(tmp_path).is_dead(node) is False
            assert Presence(tmp_path).started(node) is None
            processes.kill(process.pid)
        assert Presence(tmp_path).is_dead(node) is True


async def test_a_node_that_starts_on_a_full_disk_does_its_jobs(site: Site, conn: asyncpg.Connection) -> None:
    site.configure(daemon='handlers = ["tests.daemon.jobs"]')
    site.state.mkdir()
    with disk(site.state, 2 << 20):
        assert await (await site.start()).stop() == 0
        with (site.state / "others").open("wb", buffering=0) as others, suppress(OSError):
            while others.write(bytes(4096)):
                pass
        daemon = await site.start()
        (job,) = await enqueue(conn, [NewJob("nothing")])
        await eventually(lambda: conn.fetchval("select state = 'succeeded' from ingestd.history where id = $1", job))
        assert await daemon.stop() == 0


@contextmanager
def disk(folder: Path, size: int) -> Iterator[None]:
    """Make a folder a disk of so many bytes."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("only root can make a disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_after_a_kill_only_what_ran_is_suspect(site: Site, conn: asyncpg.Connection) -> None:
    """A queue of short jobs is claimed ahead; then all of its slots are taken by long ones, and the rest never start."""
    site.configure(daemon='handlers = ["tests.daemon.jobs"]', text="[queues.default]\nconcurrency = 2")
    doomed = await site.start("--duties", "work")
    node = await site.node_of(doomed)
    await conn.execute("create schema if not exists faults")
    await enqueue(conn, [NewJob("nothing") for _ in range(2000)])
    await eventually(lambda: conn.fetchval("select count(*) = 2000 from ingestd.history"))
    go = site.folder / "go"
    # More urgent than the rest: they come first in what is claimed in one go.
    async with conn.transaction():
        long = await enqueue(conn, [NewJob("until_file", {"path": str(go)}, priority=10) for _ in range(2)])
        short = await enqueue(conn, [NewJob("nothing") for _ in range(50)])
    await eventually(lambda: conn.fetchval("select count(*) > 2 from ingestd.job where node = $1", node))
    await eventually(lambda: Presence(site.state / "nodes").started(node) == set(long))
    held = await conn.fetchval("select count(*) from ingestd.job where node = $1", node)
    processes.kill(doomed.pid)
    await site.start("--duties", "schedule")
    await eventually(lambda: conn.fetchval("select count(*) = 52 from ingestd.job where claim is null"))
    assert held > 2
    assert await conn.fetchval(CRASHED) == sorted(long)
    assert await conn.fetchval("select max(crashes) from ingestd.job where id = any ($1)", short) == 0
