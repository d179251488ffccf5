"""What a source's glob means."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingestd.imports.sources.pattern import Pattern, ignored


@pytest.mark.parametrize(
    ("glob", "meant", "not_meant"),
    [
        ("/in/*.csv", ["a.csv", ".b.csv"], ["a.CSV", "a.csv.gz", "x/a.csv"]),
        ("/in/data_?.csv", ["data_1.csv"], ["data_.csv", "data_12.csv"]),
        ("/in/[ab].csv", ["a.csv"], ["c.csv", "ab.csv"]),
        ("/in/[!a].csv", ["b.csv"], ["a.csv"]),
        ("/in/**/*.csv", ["a.csv", "x/a.csv", "x/y/a.csv"], ["x/a.txt"]),
        ("/in/*/a.csv", ["x/a.csv"], ["a.csv", "x/y/a.csv"]),
        ("/in/**/x/*.csv", ["x/a.csv", "y/x/a.csv", "x/x/a.csv"], ["y/a.csv", "a.csv"]),
        ("/in/**/**/a.csv", ["a.csv", "x/y/a.csv"], ["b.csv"]),
    ],
)
def test_a_glob_means_these_files_and_no_others(glob: str, meant: list[str], not_meant: list[str]) -> None:
    pattern = Pattern.parse(glob)
    assert pattern.base == Path("/in")
    assert [name for name in meant if not pattern.matches(name.split("/"))] == []
    assert [name for name in not_meant if pattern.matches(name.split("/"))] == []


def test_a_path_without_wildcards_is_one_file_of_its_folder() -> None:
    pattern = Pattern.parse("/in/x/a.csv")
    assert (pattern.base, pattern.parts, pattern.name) == (Path("/in/x"), ("a.csv",), "a.csv")


def test_wildcard_characters_in_a_folder_name_can_be_written_as_themselves() -> None:
    pattern = Pattern.parse("/in/[[]old]/*.csv")
    assert pattern.base == Path("/in/[old]")


def test_only_folders_that_can_hold_something_are_entered() -> None:
    assert not Pattern.parse("/in/*.csv").may_hold(["x"])
    assert Pattern.parse("/in/*/*.csv").may_hold(["x"])
    assert not Pattern.parse("/in/*/*.csv").may_hold(["x", "y"])
    assert Pattern.parse("/in/**/*.csv").may_hold(["x", "y", "z"])


def test_a_folder_inside_the_source_is_recognised() -> None:
    assert Pattern.parse("/in/*.csv").covers(Path("/in"))
    assert not Pattern.parse("/in/*.csv").covers(Path("/in/done"))
    assert Pattern.parse("/in/**/*.csv").covers(Path("/in/done"))
    assert Pattern.parse("/in/**/*.csv").covers(Path("/in"))
    assert not Pattern.parse("/in/*/*.csv").covers(Path("/in"))
    assert Pattern.parse("/in/*/*.csv").covers(Path("/in/done"))
    assert not Pattern.parse("/in/**/*.csv").covers(Path("/done"))


@pytest.mark.parametrize("name", [".hidden.csv", "a.csv.part", "a.csv.TMP", "a.crdownload", "a.filepart", "a.csv~"])
def test_hidden_and_unfinished_names_are_left_alone(name: str) -> None:
    assert ignored(name)


def test_ordinary_names_are_not_left_alone() -> None:
    assert not ignored("part.csv")
    assert not ignored("tmp.csv")
