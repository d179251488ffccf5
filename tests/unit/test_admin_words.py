"""How numbers, moments and values read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.admin import rows, schedule_rows, words
from ingestd.admin.charts import Drawn, rollup_chart
from ingestd.admin.shapes import MASK, masked

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, words.NONE), (0, "0"), (26115, "26,115"), (12.5, "12.50"), (3.0, "3"), (Decimal("1.005"), "1.00"), (-4, "-4")],
)
def test_numbers(value: float | Decimal | None, shown: str) -> None:
    assert words.number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (999, "999"),
        (9999, "9,999"),
        (12345, "12.3k"),
        (999_499, "999k"),
        (999_999, "1M"),
        (5e15, "5000T"),
        (4_560_000, "4.56M"),
        (None, words.NONE),
    ],
)
def test_short_numbers(value: float | None, shown: str) -> None:
    assert words.short_number(value) == shown


@pytest.mark.parametrize(
    ("ms", "shown"),
    [
        (0, "0 ms"),
        (999, "999 ms"),
        (1000, "1.0 s"),
        (59_900, "59.9 s"),
        (61_000, "1 m 1 s"),
        (3_600_000, "1 h 0 m"),
        (90_000_000, "1 d 1 h"),
    ],
)
def test_durations(ms: float, shown: str) -> None:
    assert words.duration(ms) == shown


@pytest.mark.parametrize(
    ("delta", "shown"),
    [
        (0, "just now"),
        (1, "just now"),
        (2, "2 s ago"),
        (61, "1 m ago"),
        (7200, "2 h ago"),
        (200_000, "2 d ago"),
        (-40, "in 40 s"),
        (-0.5, "just now"),
    ],
)
def test_moments_as_seen_from_now(delta: float, shown: str) -> None:
    assert words.ago(NOW - timedelta(seconds=delta), NOW) == shown


def test_a_clock_that_runs_ahead_makes_no_negative_ages() -> None:
    assert words.age(-5) == "0 s"


def test_values_are_cut_and_masked_on_one_line() -> None:
    assert words.compact({"password": "x", "a": 1}) == f'{{"password":"{MASK}","a":1}}'
    assert words.compact("x" * 500, 10) == "x" * 9 + "…"
    assert words.compact({}) == ""
    assert words.arguments({"name": "daily", "n": 0, "deep": {"token": "t"}}) == f'name=daily, n=0, deep={{"token":"{MASK}"}}'
    assert words.fault({"class": "ValueError", "message": "a\n  b", "traceback": "…"}) == "ValueError: a b"
    assert words.fault(None) == ""


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_masking_keeps_everything_that_is_no_secret(value: object) -> None:
    """The shape stays; only values under telling names and passwords in URLs change."""

    def same(before: object, after: object) -> bool:
        if after == MASK:
            return True
        if isinstance(before, dict) and isinstance(after, dict):
            return before.keys() == after.keys() and all(same(before[key], after[key]) for key in before)
        if isinstance(before, list) and isinstance(after, list):
            return len(before) == len(after) and all(map(same, before, after))
        return before == after or (isinstance(before, str) and "://" in before)

    assert same(value, masked(value))


@pytest.mark.parametrize(
    "name",
    ["password", "DB_PASSWORD", "api_key", "api-key", "apiKey", "token", "access_token", "clientSecret", "Authorization", "private_key"],
)
def test_names_that_tell_of_secrets(name: str) -> None:
    assert masked({name: "x"}) == {name: MASK}


@pytest.mark.parametrize("name", ["monkey", "key", "tokens_used", "compass", "passenger", "secretary", "keyboard"])
def test_names_that_do_not(name: str) -> None:
    assert masked({name: "x"}) == {name: "x"}


def test_a_password_in_a_url_is_masked() -> None:
    assert masked("see postgres://me:hunter2@host/db now") == f"see postgres://me:{MASK}@host/db now"
    assert masked("https://host/a:b@c") == "https://host/a:b@c"


def test_steps_stand_after_what_they_wait_for() -> None:
    def step(name: str, *after: str) -> dict[str, object]:
        return {"step": name, "after": list(after), "state": "succeeded", "partial": False, "reason": None}

    run = {
        "id": 1,
        "finished_at": None,
        "created_at": NOW,
        "state": "running",
        "steps": [step("a"), step("b"), step("c", "a"), step("d", "a", "c")],
    }
    shown = rows.workflow_row("w", run)
    assert [[item["name"] for item in stage] for stage in shown["stages"]] == [["a", "b"], ["c"], ["d"]]


def test_a_slot_shows_what_became_of_its_job() -> None:
    def slot(state: str, job: str | None = None, partial: bool = False) -> str:
        mark = schedule_rows.slot_mark({"state": state, "job_state": job, "job_partial": partial, "reason": None, "due_at": NOW}, NOW)
        return f"{mark['word']}/{mark['tone']}"

    assert slot("fired", "succeeded") == "succeeded/good"
    assert slot("fired", "failed") == "failed/bad"
    assert slot("fired", "succeeded", partial=True) == "partial/warn"
    assert slot("fired", "available") == "waiting/active"
    assert slot("late", None) == "late/warn"
    assert slot("missed") == "missed/bad"
    assert slot("skipped") == "skipped/quiet"


def test_a_day_of_23_hours_is_still_one_label() -> None:
    """Labels are read in the rollup's zone, whatever UTC says."""
    drawn = Drawn("daily", "n", "public.x", 86400.0, "America/New_York", [])
    days = [datetime(2026, 3, 8, 5, tzinfo=UTC), datetime(2026, 3, 9, 4, tzinfo=UTC)]
    chart = rollup_chart(drawn, [(day, 1.0, "") for day in days], "")
    assert [row.label for row in chart.rows] == ["Sun 8 Mar 2026", "Mon 9 Mar 2026"]
    assert chart.series == ("N",)
    assert rollup_chart(drawn, [], "waits").rows == ()


@given(
    st.lists(st.tuples(st.datetimes(timezones=st.just(UTC)), st.none() | st.floats(-1e9, 1e9), st.sampled_from(["a", "b", "", "x" * 50])))
)
def test_any_points_make_a_chart(points: list[tuple[datetime, float | None, str]]) -> None:
    """As many columns as series in every row, times growing."""
    chart = rollup_chart(Drawn("r", "m", "s", 3600.0, "No/Where", ["g"]), points, "none")
    assert all(len(row.numbers) == len(chart.series) for row in chart.rows)
    assert [row.at for row in chart.rows] == sorted({row.at for row in chart.rows})
