"""The store keeps whole files only, once each, whatever happens while it reads them."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import asyncpg
import pytest

from ingestd.errors import FileMissing, IngestdError, Refused
from ingestd.files import spool
from ingestd.files.identity import Stamp
from ingestd.files.spool import NotAFile, NotComplete, StorageFull, Store
from ingestd.files.store import remember
from tests.support import eventually


@pytest.fixture
def store(tmp_path: Path) -> Store:
    opened = Store(tmp_path / "state")
    opened.open()
    return opened


def stored(store: Store) -> list[Path]:
    return sorted(path for path in store.folder.rglob("*") if path.is_file())


async def test_bytes_are_kept_under_their_hash_and_readable_by_the_owner_only(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "a.csv"
    content = os.urandom(3 * spool.PIECE + 17)
    source.write_bytes(content)
    received = await store.copy_in(source)
    kept = store.locate(received.path)
    assert kept.read_bytes() == content
    assert received.sha256 == hashlib.sha256(content).digest()
    assert received.size == len(content)
    assert received.stamp == Stamp.of(source.stat())
    assert stored(store) == [kept]
    assert kept.stat().st_mode & 0o077 == 0
    assert kept.parent.stat().st_mode & 0o077 == 0


async def test_identical_content_is_kept_once(store: Store, tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("x,y\n1,2\n")
    first, second = [await store.copy_in(tmp_path / name) for name in ("a.csv", "b.csv")]
    assert first.path == second.path
    assert len(stored(store)) == 1


async def test_a_kept_file_of_the_wrong_size_is_replaced(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "a.csv"
    source.write_text("x,y\n1,2\n")
    received = await store.copy_in(source)
    store.locate(received.path).write_text("x")
    again = await store.copy_in(source)
    assert store.locate(again.path).read_text() == "x,y\n1,2\n"


async def test_an_empty_file_is_a_file(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch()
    assert (await store.copy_in(tmp_path / "a.csv")).size == 0


async def test_a_file_that_changed_since_the_look_is_not_taken(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "a.csv"
    source.write_text("x\n1\n")
    stamp = Stamp.of(source.stat())
    source.write_text("x\n1\n2\n")
    with pytest.raises(NotComplete):
        await store.copy_in(source, expected=stamp)
    assert stored(store) == []


@pytest.mark.parametrize("change", ["grow", "shrink", "touch"])
async def test_a_file_that_changes_during_the_copy_is_not_taken(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    source = tmp_path / "a.csv"
    source.write_bytes(b"x" * 100)
    whole = spool._copy

    def change_after(fd: int, part: Path, stop: threading.Event) -> bytes:
        digest = whole(fd, part, stop)
        if change == "touch":
            os.utime(source, ns=(1, 1))
        else:
            os.truncate(source, 200 if change == "grow" else 50)
        return digest

    monkeypatch.setattr(spool, "_copy", change_after)
    with pytest.raises(NotComplete):
        await store.copy_in(source)
    assert stored(store) == []


async def test_a_file_replaced_during_the_copy_gives_the_old_content_whole(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "a.csv"
    source.write_bytes(b"old" * 1000)
    whole = spool._copy

    def replace_before(fd: int, part: Path, stop: threading.Event) -> bytes:
        (tmp_path / "new").write_bytes(b"new" * 1000)
        (tmp_path / "new").rename(source)
        return whole(fd, part, stop)

    monkeypatch.setattr(spool, "_copy", replace_before)
    received = await store.copy_in(source)
    assert store.locate(received.path).read_bytes() == b"old" * 1000


async def test_links_pipes_sockets_and_folders_are_refused_without_waiting(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "secret"
    outside.write_text("s3cret")
    (tmp_path / "link.csv").symlink_to(outside)
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.csv"))
        for name in ("link.csv", "pipe.csv", "folder.csv", "socket.csv"):
            async with asyncio.timeout(60):
                with pytest.raises(NotAFile):
                    await store.copy_in(tmp_path / name)
    with pytest.raises(FileMissing):
        await store.copy_in(tmp_path / "missing.csv")
    assert stored(store) == []


async def test_a_folder_swapped_for_a_link_below_the_source_is_not_followed(store: Store, tmp_path: Path) -> None:
    inbox, outside = tmp_path / "inbox", tmp_path / "outside"
    (inbox / "sub").mkdir(parents=True)
    outside.mkdir()
    (outside / "a.csv").write_text("secret")
    (inbox / "sub" / "a.csv").write_text("secret")
    assert (await store.copy_in(inbox / "sub" / "a.csv", beneath=inbox)).size == 6
    (inbox / "sub" / "a.csv").unlink()
    (inbox / "sub").rmdir()
    (inbox / "sub").symlink_to(outside)
    with pytest.raises(NotAFile):
        await store.copy_in(inbox / "sub" / "a.csv", beneath=inbox)


async def test_a_descriptor_is_copied_from_its_start_and_stays_the_callers(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("abcdef")
    with (tmp_path / "a.csv").open("rb") as file:
        file.read(3)
        received = await store.copy_in(file.fileno())
        assert store.locate(received.path).read_text() == "abcdef"
        assert file.read() == b"def"


async def test_a_full_disk_is_one_clear_error_and_leaves_nothing_behind(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a.csv").write_text("abcdef")
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageFull, match=r"no room for .*a\.csv"):
        await store.copy_in(tmp_path / "a.csv")
    assert stored(store) == []


async def test_a_write_that_the_system_refuses_midway_is_survived(tmp_path: Path) -> None:
    (tmp_path / "big.csv").write_bytes(os.urandom(3 << 20))
    (tmp_path / "little.csv").write_text("x\n1\n")
    script = """
import asyncio, resource, sys
from pathlib import Path
from ingestd.files.spool import StorageFull, Store
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
here = Path(sys.argv[1])
store = Store(here / "state")
store.open()
try:
    asyncio.run(store.copy_in(here / "big.csv"))
except StorageFull:
    print(asyncio.run(store.copy_in(here / "little.csv")).size)
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(tmp_path), stdout=subprocess.PIPE)
    said, _ = await process.communicate()
    assert said.strip() == b"4"
    assert [path.stat().st_size for path in (tmp_path / "state" / "files").rglob("*") if path.is_file()] == [4]


async def test_a_cancelled_copy_leaves_nothing_behind(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "big.csv").open("wb") as file:
        file.truncate(1 << 30)
    reading = threading.Event()
    real = os.preadv

    def noticed(*args: object) -> int:
        reading.set()
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "preadv", noticed)
    task = asyncio.create_task(store.copy_in(tmp_path / "big.csv"))
    await eventually(reading.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: stored(store) == [])


async def test_parts_of_dead_processes_are_swept_and_those_of_living_ones_are_not(store: Store) -> None:
    spool_folder = store.folder / "spool"
    for name in ("dead", "living", "fresh"):
        (spool_folder / f"{name}.part").write_text("x")
        if name != "fresh":
            os.utime(spool_folder / f"{name}.part", (time.time() - 60, time.time() - 60))
    with (spool_folder / "living.part").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        store.open()
    assert [path.name for path in stored(store)] == ["fresh.part", "living.part"]


async def test_a_copier_killed_midway_leaves_a_part_that_the_next_start_sweeps(tmp_path: Path) -> None:
    with (tmp_path / "big.csv").open("wb") as file:
        file.truncate(8 << 30)
    script = (
        "import asyncio, sys; from pathlib import Path; from ingestd.files.spool import Store\n"
        "store = Store(Path(sys.argv[1])); store.open(); asyncio.run(store.copy_in(Path(sys.argv[2])))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(tmp_path / "state"), str(tmp_path / "big.csv"))
    parts = tmp_path / "state" / "files" / "spool"
    await eventually(lambda: list(parts.glob("*.part")))
    process.send_signal(signal.SIGKILL)
    await process.wait()
    (part,) = parts.glob("*.part")
    os.utime(part, (time.time() - 60, time.time() - 60))
    Store(tmp_path / "state").open()
    assert list(parts.glob("*.part")) == []


def test_a_store_keeps_its_identity_and_processes_starting_at_once_agree_on_it(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from ingestd.files.spool import Store; print(Store(Path(sys.argv[1])).open())"
    started = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "state")], stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    said = {process.communicate()[0].strip() for process in started}
    assert len(said) == 1
    assert str(Store(tmp_path / "state").open()) in said
    assert [path.name for path in (tmp_path / "state").glob("store.id*")] == ["store.id"]


def test_a_damaged_identity_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "store.id").write_text("hello")
    with pytest.raises(Refused, match="does not hold a UUID") as refused:
        Store(tmp_path).open()
    assert "put back" in (refused.value.hint or "")


def test_a_state_folder_that_cannot_be_used_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(IngestdError, match="cannot use the folder"):
        Store(tmp_path / "state").open()


async def test_a_file_row_is_unique_by_content_size_and_store(store: Store, tmp_path: Path, conn: asyncpg.Connection) -> None:
    for name, text in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / name).write_text(text)
    other = Store(tmp_path / "other")
    other.open()
    a, b, c = [await remember(conn, await store.copy_in(tmp_path / name), store.id) for name in "abc"]
    elsewhere = await remember(conn, await other.copy_in(tmp_path / "a"), other.id)
    assert a == b
    assert len({a, c, elsewhere}) == 3
