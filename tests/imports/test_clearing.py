"""Originals are moved or deleted only after their load, and only while they are what was loaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ingestd.files.identity import Stamp
from ingestd.imports.clearing import clear
from ingestd.imports.settings import ImportSettings


def settings(folder: Path, **keys: Any) -> ImportSettings:
    return ImportSettings.model_validate({"source": f"{folder}/inbox/**/*.csv", "table": "t"} | keys)


@pytest.fixture
def loaded(tmp_path: Path) -> Path:
    path = tmp_path / "inbox" / "sub" / "a.csv"
    path.parent.mkdir(parents=True)
    path.write_text("id\n1\n")
    return path


def test_keep_leaves_the_original(tmp_path: Path, loaded: Path) -> None:
    assert clear(settings(tmp_path), str(loaded), Stamp.of(loaded.stat())) is None
    assert loaded.exists()


def test_delete_deletes_it(tmp_path: Path, loaded: Path) -> None:
    assert clear(settings(tmp_path, after_load="delete"), str(loaded), Stamp.of(loaded.stat())) is None
    assert not loaded.exists()


def test_move_makes_the_folder_and_never_overwrites(tmp_path: Path, loaded: Path) -> None:
    done = tmp_path / "done"
    for text in ("first", "second", "third"):
        loaded.write_text(text)
        assert clear(settings(tmp_path, after_load=f"move:{done}"), str(loaded), Stamp.of(loaded.stat())) is None
    assert {path.name: path.read_text() for path in done.iterdir()} == {"a.csv": "first", "a.2.csv": "second", "a.3.csv": "third"}
    assert not loaded.exists()


def test_a_file_that_changed_since_it_arrived_is_a_new_arrival_and_stays(tmp_path: Path, loaded: Path) -> None:
    stamp = Stamp.of(loaded.stat())
    loaded.write_text("id\n1\n2\n")
    assert clear(settings(tmp_path, after_load="delete"), str(loaded), stamp) is None
    assert loaded.exists()


def test_a_file_that_is_gone_or_became_a_link_is_nobodys_problem(tmp_path: Path, loaded: Path) -> None:
    stamp = Stamp.of(loaded.stat())
    outside = tmp_path / "outside"
    loaded.rename(outside)
    assert clear(settings(tmp_path, after_load="delete"), str(loaded), stamp) is None
    loaded.symlink_to(outside)
    assert clear(settings(tmp_path, after_load="delete"), str(loaded), stamp) is None
    loaded.unlink()
    loaded.parent.rmdir()
    loaded.parent.symlink_to(tmp_path)
    outside.rename(tmp_path / "a.csv")
    assert clear(settings(tmp_path, after_load="delete"), str(loaded), stamp) is None
    assert (tmp_path / "a.csv").exists()


def test_a_file_outside_the_source_is_left_alone(tmp_path: Path, loaded: Path) -> None:
    elsewhere = loaded.rename(tmp_path / "a.csv")
    assert clear(settings(tmp_path, after_load="delete"), str(elsewhere), Stamp.of(elsewhere.stat())) is None
    assert elsewhere.exists()


def test_what_cannot_be_moved_is_said_and_stays(tmp_path: Path, loaded: Path) -> None:
    (tmp_path / "done").touch()
    problem = clear(settings(tmp_path, after_load=f"move:{tmp_path}/done"), str(loaded), Stamp.of(loaded.stat()))
    assert problem == f"{loaded} has been loaded but cannot be moved to {tmp_path}/done: File exists"
    assert loaded.exists()


@pytest.mark.skipif(
    not os.access("/dev/shm", os.W_OK) or Path("/dev/shm").stat().st_dev == Path("/tmp").stat().st_dev,
    reason="needs a second file system",
)
def test_a_move_to_another_file_system_is_whole_and_keeps_the_time(tmp_path: Path, loaded: Path) -> None:
    done = Path("/dev/shm") / tmp_path.parent.name / tmp_path.name
    before = loaded.stat()
    try:
        assert clear(settings(tmp_path, after_load=f"move:{done}"), str(loaded), Stamp.of(before)) is None
        assert not loaded.exists()
        (moved,) = done.iterdir()
        assert moved.read_text() == "id\n1\n"
        assert moved.stat().st_mtime_ns == before.st_mtime_ns
    finally:
        for left in done.glob("*"):
            left.unlink()
        done.rmdir()
        done.parent.rmdir()
