"""Values of the configuration: durations, priorities and names."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.settings import format_duration, parse_duration, parse_name, parse_priority, priority_name


def complaint(parse: Callable[[Any], object], value: object) -> str:
    """What a value is refused with, empty if it is not."""
    try:
        parse(value)
    except ValueError as error:
        return str(error)
    return ""


# durations, priorities, names


@given(st.integers(min_value=0, max_value=10**12))
def test_a_duration_reads_back_what_was_written(milliseconds: int) -> None:
    value = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(value)) == value


@given(st.text(max_size=30))
def test_any_text_is_a_duration_or_refused_with_the_form_to_write(text: str) -> None:
    said = complaint(parse_duration, text)
    assert "duration" in said if said else parse_duration(text) >= timedelta()


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("90s", 90), ("1h30m", 5400), ("500ms", 0.5), ("2d", 172800), ("1w", 604800), (" 1.5 H ", 5400)]
)
def test_durations_are_numbers_with_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "5", "-5s", "5 apples", "s", "1h 5", "9" * 400 + "d", "1e3s", True, None])
def test_what_is_not_a_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@given(st.integers(min_value=-100, max_value=100))
def test_a_priority_reads_back_what_was_written(priority: int) -> None:
    assert parse_priority(priority_name(priority)) == priority
    assert parse_priority(str(priority)) == priority


@given(st.one_of(st.text(max_size=20), st.integers(), st.floats(), st.booleans(), st.none()))
def test_anything_else_is_no_priority(value: object) -> None:
    said = complaint(parse_priority, value)
    assert "low, normal, high" in said if said else -100 <= parse_priority(value) <= 100


@pytest.mark.parametrize("text", ["1_0", "٣", "+5", " 5", "5\n", "--5", "", "-", "3.0", 3.0, True])
def test_a_priority_is_written_in_plain_digits_as_in_sql(text: object) -> None:
    with pytest.raises(ValueError, match="is not a priority"):
        parse_priority(text)


@pytest.mark.parametrize("name", ["", "A", "1a", "a-b", "a__b", "ä", "a b", "a\n", "x" * 64])
def test_a_name_must_do_for_environment_keys_and_sql(name: str) -> None:
    with pytest.raises(ValueError, match="is not a name"):
        parse_name(name)
