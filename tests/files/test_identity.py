"""File names that are not text survive the way into the database and back."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from ingestd.files.identity import actual, shown


@given(st.binary(min_size=1, max_size=60).filter(lambda raw: b"\0" not in raw))
def test_every_file_name_is_shown_as_text_and_found_again(raw: bytes) -> None:
    name = os.fsdecode(raw)
    text = shown(name)
    assert text.encode()  # valid UTF-8: no lone surrogate is left
    assert all(ord(character) >= 32 and ord(character) != 127 for character in text)
    assert actual(text) == name


def test_ordinary_names_are_shown_as_they_are() -> None:
    assert shown("inbox/čitanja 2026 (final).csv") == "inbox/čitanja 2026 (final).csv"


def test_no_two_names_are_shown_alike() -> None:
    assert len({shown(os.fsdecode(raw)) for raw in (b"a\xff.csv", b"a\\xff.csv", b"a\\\\xff.csv")}) == 3
