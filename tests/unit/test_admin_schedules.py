"""The numbers and words of the schedule pages."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from ingestd.admin import toml
from ingestd.admin.schedule_pages import declaration_of
from ingestd.admin.schedule_rows import LOOKS, local, next_rows, slot_mark, strip_of
from ingestd.admin.schedule_stats import HEIGHT, LAYERS, tiles_of, timeline_of
from ingestd.admin.words import NONE
from ingestd.jobs.records import Counted, DayCount, Spread, Streak, statistics, window
from ingestd.schedule.rules import Upcoming
from ingestd.schedule.settings import ScheduleSettings

NOW = datetime(2026, 11, 22, 19, 30, tzinfo=UTC)


def totals(*counts: DayCount, spread: Spread | None = None, failures: int = 0) -> dict[str, Any]:
    return statistics(window(NOW, 30, ZoneInfo("UTC")), Counted(counts, spread or Spread()), Streak(failures))


def shown(*counts: DayCount, **more: Any) -> dict[str, Any]:
    return {tile.label: tile for tile in tiles_of(totals(*counts, **more), 3)}


def test_a_schedule_that_never_ran_has_no_numbers_and_no_picture() -> None:
    tiles = shown()
    assert [tile.value for tile in tiles.values()] == [NONE, NONE, "0", "0"]
    assert {tile.tone for tile in tiles.values()} == {""}
    drawn = timeline_of(totals())
    assert drawn["empty"]
    assert drawn["words"] == "No slots in 30 days."


def test_one_failure_among_many_is_never_rounded_away() -> None:
    many = (DayCount(29, "succeeded", 100_000, 5), DayCount(29, "failed", 1, 5))
    assert shown(*many)["Success rate"].value == "99.9 %"
    assert shown(*many)["Success rate"].tone == "warn"
    (column,) = [column for column in timeline_of(totals(*many))["columns"] if column["bars"]]
    assert [bar.look for bar in column["bars"]] == ["succeeded", "failed"]
    assert column["bars"][1].height > 2, "can be seen"
    assert shown(many[0])["Success rate"].value == "100 %"


@pytest.mark.parametrize(("failures", "tone"), [(0, ""), (1, "warn"), (2, "warn"), (3, "bad")])
def test_failures_in_a_row_are_an_alarm_from_the_threshold_on(failures: int, tone: str) -> None:
    assert shown(DayCount(0, "failed", 5, 1), failures=failures)["Failures in a row"].tone == tone


def test_the_bars_of_a_day_stand_on_one_another_and_within_the_picture() -> None:
    counts = [
        DayCount(3, state, number, number * 1000)
        for state, number in (("failed", 1), ("succeeded", 40), ("missed", 2), ("cancelled", 1), ("skipped", 1))
    ]
    drawn = timeline_of(totals(*counts, DayCount(7, "succeeded", 90), DayCount(8, "partial", 1)))
    for column in drawn["columns"]:
        ground = float(HEIGHT)
        for bar in column["bars"]:
            assert bar.y + bar.height == pytest.approx(ground, abs=0.05)
            assert column["x"] <= bar.x < bar.x + bar.width <= column["x"] + drawn["column_width"]
            ground = bar.y
        assert ground >= -0.05
    (mixed,) = [column for column in drawn["columns"] if len(column["bars"]) > 1]
    assert [bar.look for bar in mixed["bars"]] == ["succeeded", "failed", "missed", "skipped"]
    assert mixed["title"] == "Tue 27 Oct: 40 succeeded, 1 failed, 2 missed, 2 skipped, mean 1.0 s"
    assert drawn["words"] == "Slots on 3 of 30 days; failed or missed on 1, last on Tue 27 Oct."
    assert len(drawn["columns"]) == 30
    assert all(bar.look in LAYERS for column in drawn["columns"] for bar in column["bars"])


def test_a_moment_says_no_more_than_is_needed() -> None:
    zone = ZoneInfo("Europe/Berlin")
    assert local(NOW, zone, NOW) == "Sun 22 Nov 20:30"
    assert local(NOW + timedelta(seconds=5), zone, NOW) == "Sun 22 Nov 20:30:05"
    assert local(NOW + timedelta(days=60), zone, NOW) == "Thu 21 Jan 2027 20:30"
    assert local(NOW.replace(month=12, day=31, hour=23), zone, NOW) == "Fri 1 Jan 2027 00:30", "a year is the zone's"


def mark(state: str, job: str | None = None, **more: Any) -> dict[str, Any]:
    slot = {"due_at": NOW, "state": state, "job_state": job, "job_partial": False, "reason": None, "slots": 1}
    return slot_mark(slot | {"job_duration_ms": None, "slow_at": None} | more, NOW)


def test_every_mark_has_a_look_that_the_sheet_draws_and_the_legend_tells() -> None:
    states = [("skipped", None), ("missed", None), ("waiting", None), ("late", None), ("fired", None)]
    states += [
        ("fired", job)
        for job in ("succeeded", "failed", "cancelled", "skipped", "running", "retrying", "available", "scheduled", "blocked")
    ]
    for state, job in states:
        assert mark(state, job)["look"] in {*LOOKS, "fired"}, (state, job)
    assert (mark("late", "failed")["look"], mark("late", "failed")["late"]) == ("failed", True)
    assert mark("fired", "succeeded", job_partial=True)["look"] == "partial"
    assert mark("fired", None)["word"] == "fired", "its job is gone from history"


def test_a_strip_counts_in_words() -> None:
    slot = {"state": "fired", "job_state": "succeeded", "job_partial": False, "reason": None, "slots": 1, "due_at": NOW}
    missed = slot | {"state": "missed", "job_state": None, "slots": 1200}
    assert strip_of([slot, slot | {"state": "late"}, missed], NOW)["text"] == "Last 1,202 slots: 1,200 missed, 2 succeeded, 1 of them late"
    assert strip_of([slot], NOW)["text"] == "Last 1 slot: 1 succeeded"
    assert strip_of([], NOW) == {"marks": [], "blanks": 30, "text": "No slots yet"}


def test_slots_to_come_know_their_fate() -> None:
    ahead = [Upcoming(NOW + timedelta(hours=n), None) for n in range(1, 5)]
    schedule = {"timezone": "UTC", "paused": True, "paused_until": NOW + timedelta(hours=3), "skip_at": NOW + timedelta(hours=3)}
    fates = [row["fate"] for row in next_rows(schedule, ahead, NOW)]
    assert fates == ["paused", "paused", "skipped once", ""], "one due as the pause ends runs, unless it is skipped"
    fates = [row["fate"] for row in next_rows(schedule | {"paused_until": None, "skip_at": None}, ahead, NOW)]
    assert fates == ["paused"] * 4


def test_a_declaration_is_shown_as_one_would_write_it() -> None:
    keys = {
        "cron": "0 2 * * *", "job": "sync", "args": {"a b": 'say "hi"\n\x7f', "n": [1, 2.5, True], "deep": {"x": {}}},
        "after": [{"import": "readings"}], "start_within": "10m", "tags": ["a"],
    }  # fmt: skip
    settings = ScheduleSettings.model_validate(keys)
    stored = settings.model_dump(mode="json", by_alias=True, exclude_none=True)
    text = declaration_of({"name": "nightly", "spec": stored})
    read = tomllib.loads(text)["schedules"]["nightly"]
    assert ScheduleSettings.model_validate(read) == settings
    assert "overlap" not in text, "what is at its default needs no words"
    assert "hunter2" not in declaration_of({"name": "x", "spec": stored | {"args": {"password": "hunter2"}}})
    assert tomllib.loads(declaration_of({"name": "x", "spec": {"cron": 5, "unknown": None}})) == {"schedules": {"x": {"cron": 5}}}


def test_toml_leaves_out_what_it_cannot_say() -> None:
    assert tomllib.loads(toml.section("a", {"b": [1, None], "c": {"d": None}})) == {"a": {"b": [1], "c": {}}}
