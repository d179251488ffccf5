"""A folder as a source: what is found, what is left alone, and when a file is complete."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from ingestd.files.identity import Stamp
from ingestd.imports.sources.folder import Seen, Settling, in_order, scan
from ingestd.imports.sources.pattern import Pattern


def found(glob: Path | str) -> list[str]:
    return sorted(file.name for file in scan(Pattern.parse(str(glob))).files)


def seen(name: str, size: int = 1, mtime_ns: int = 1) -> Seen:
    return Seen(name, f"/in/{name}", Stamp(size, mtime_ns))


def test_only_regular_visible_finished_files_are_found(tmp_path: Path) -> None:
    for name in ("a.csv", ".b.csv", "c.csv.part", "d.csv~", "e.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "link.csv").symlink_to("/etc/hostname")
    (tmp_path / "dangling.csv").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.csv")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.csv"))
        look = scan(Pattern.parse(f"{tmp_path}/*.csv"))
    assert [file.name for file in look.files] == ["a.csv"]
    assert look.problems == {}
    assert sorted(look.remarks) == [f"{tmp_path}/dangling.csv", f"{tmp_path}/link.csv"]


def test_folders_are_entered_as_deep_as_the_glob_says_and_linked_ones_never(tmp_path: Path) -> None:
    (tmp_path / "in/x/y").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "in/.git").mkdir()
    for place in ("in/a.csv", "in/x/b.csv", "in/x/y/c.csv", "in/.git/d.csv", "out/e.csv"):
        (tmp_path / place).touch()
    (tmp_path / "in/linked").symlink_to(tmp_path / "out")
    assert found(tmp_path / "in/*.csv") == ["a.csv"]
    assert found(tmp_path / "in/*/*.csv") == ["x/b.csv"]
    assert found(tmp_path / "in/**/*.csv") == ["a.csv", "x/b.csv", "x/y/c.csv"]


def test_a_source_folder_that_is_itself_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a.csv").touch()
    (tmp_path / "inbox").symlink_to(tmp_path / "real")
    assert found(tmp_path / "inbox/*.csv") == ["a.csv"]


def test_a_missing_folder_and_a_file_in_its_place_are_said(tmp_path: Path) -> None:
    assert list(scan(Pattern.parse(f"{tmp_path}/inbox/*.csv")).problems.values()) == [f"folder {tmp_path}/inbox does not exist"]
    (tmp_path / "inbox").touch()
    assert list(scan(Pattern.parse(f"{tmp_path}/inbox/*.csv")).problems.values()) == [f"{tmp_path}/inbox is not a folder"]


def test_a_source_that_names_a_folder_says_what_to_write(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    (problem,) = scan(Pattern.parse(f"{tmp_path}/inbox")).problems.values()
    assert problem == f'{tmp_path}/inbox is a folder: write source = "{tmp_path}/inbox/*"'


def test_names_that_are_not_text_are_found(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.csv")
    (tmp_path / name).touch()
    assert found(tmp_path / "*.csv") == [name]


def test_a_file_is_complete_only_when_two_looks_far_enough_apart_agree() -> None:
    settling = Settling(1.0)
    assert settling.complete([seen("a", 1)], 0.0) == []
    assert settling.wait_s(0.0) == 1.0
    assert settling.complete([seen("a", 2)], 1.0) == []
    assert settling.complete([seen("a", 2)], 1.5) == []
    assert settling.complete([seen("a", 2, mtime_ns=2)], 2.1) == []
    assert settling.complete([seen("a", 2, mtime_ns=2)], 3.1) == [seen("a", 2, mtime_ns=2)]
    assert settling.wait_s(3.1) is None


def test_a_file_that_went_and_came_back_starts_over() -> None:
    settling = Settling(1.0)
    settling.complete([seen("a")], 0.0)
    settling.complete([], 0.5)
    assert settling.complete([seen("a")], 1.2) == []


def test_arrival_order_is_modification_time_then_name() -> None:
    files = [seen("b", mtime_ns=2), seen("c", mtime_ns=1), seen("a", mtime_ns=2)]
    assert [file.name for file in in_order(files)] == ["c", "a", "b"]
