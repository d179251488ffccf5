"""A cursor is worth what its signature says, and only for the list that it came from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.admin.cursors import Cursors
from ingestd.errors import UsageError

KEY = b"a key of the database"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
FILTERS = st.dictionaries(st.sampled_from(["kind", "state", "queue"]), st.text(max_size=20))


def written(last: int | str, place: str = "/api/v1/jobs", query: dict[str, str] | None = None, key: bytes = KEY) -> str:
    return Cursors(key, place, query or {}).write(last)


def read(cursor: str, place: str = "/api/v1/jobs", query: dict[str, str] | None = None) -> int | None:
    return Cursors(KEY, place, (query or {}) | {"cursor": cursor, "limit": "3"}).read_id()


@given(st.integers(1, 2**63 - 1), FILTERS)
def test_a_cursor_comes_back_as_it_went(last: int, query: dict[str, str]) -> None:
    assert read(written(last, query=query), query=query) == last


@given(st.text(min_size=1, max_size=40, alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_name_comes_back_as_it_went(name: str) -> None:
    assert Cursors(KEY, "/s", {"cursor": written(name, "/s")}).read_name() == name


@given(FILTERS, FILTERS)
def test_a_cursor_fits_no_other_filter(one: dict[str, str], other: dict[str, str]) -> None:
    if one != other:
        with pytest.raises(UsageError, match="another list or filter"):
            read(written(5, query=one), query=other)


def test_a_cursor_fits_no_other_list() -> None:
    with pytest.raises(UsageError, match="another list or filter"):
        read(written(5, "/api/v1/loads"))


@given(st.data())
def test_no_letter_of_a_cursor_can_be_changed(data: st.DataObject) -> None:
    cursor = written(123456)
    place = data.draw(st.integers(0, len(cursor) - 1))
    letter = data.draw(st.sampled_from([letter for letter in LETTERS if letter != cursor[place]]))
    with pytest.raises(UsageError, match="not valid"):
        read(cursor[:place] + letter + cursor[place + 1 :])


@given(st.text(max_size=60))
def test_what_is_not_a_cursor_is_told_so(text: str) -> None:
    with pytest.raises(UsageError, match="not valid"):
        read(text)


def test_a_cursor_of_another_database_is_refused() -> None:
    with pytest.raises(UsageError, match="not valid"):
        read(written(5, key=b"another key"))


def test_a_place_in_a_list_of_ids_is_none_in_a_list_of_names() -> None:
    with pytest.raises(UsageError, match="not valid"):
        read(written("name"))
    with pytest.raises(UsageError, match="not valid"):
        Cursors(KEY, "/s", {"cursor": written(7, "/s")}).read_name()
