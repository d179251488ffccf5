"""The configuration of schedules: what is refused, and in which words."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from ingestd.errors import ConfigurationError
from ingestd.schedule.settings import ScheduleSettings, ScheduleTarget
from ingestd.settings import Layers, Name, validate


class Root(BaseModel):
    schedules: dict[Name, ScheduleSettings] = {}


def read(**keys: Any) -> ScheduleSettings:
    layers = Layers()
    layers.merge({"schedules": {"nightly": keys}}, "config.toml")
    return validate(Root, layers).schedules["nightly"]


def test_the_shortest_schedule_has_stated_defaults() -> None:
    found = read(cron="0 2 * * *", job="sync_prices")
    assert found.target == ScheduleTarget("job", "sync_prices", {})
    assert (found.timezone, found.overlap, found.catch_up, found.max_catch_up) == ("UTC", "skip", "latest", 100)
    assert (found.enabled, found.start_within, found.rule) == (True, None, "cron 0 2 * * *")


@pytest.mark.parametrize("kind", ["job", "import", "rollup", "workflow"])
def test_each_kind_of_target_can_be_named(kind: str) -> None:
    assert read(every="15m", **{kind: "thing"}).target == ScheduleTarget(kind, "thing", {})  # type: ignore[arg-type]
    assert read(every="1m", command="cleanup").target.type == "command"


def test_the_same_rule_written_differently_is_the_same_rule() -> None:
    assert read(cron=" 0  2 * *  mon", job="x").rule == read(cron="0 2 * * MON", job="x").rule
    assert read(cron="@daily", job="x").rule == "cron 0 0 * * *"
    assert read(every="60s", job="x").rule == read(every="1m", job="x").rule


def test_a_moment_is_read_in_the_time_zone_unless_it_says_its_own() -> None:
    assert read(at="2027-01-01T02:00:00", timezone="Asia/Kathmandu", job="x").rule == "at 2026-12-31T20:15:00+00:00"
    assert read(at=datetime(2027, 1, 1, 2, tzinfo=UTC), timezone="Asia/Kathmandu", job="x").rule == "at 2027-01-01T02:00:00+00:00"
    assert read(at="2027-01-01", job="x").rule == "at 2027-01-01T00:00:00+00:00"


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"job": "x"}, "config.toml: .schedules.nightly.: says nothing about when it runs: give it one of cron, every or at"),
        ({"cron": "@daily", "every": "1h", "job": "x"}, "cron and every exclude each other"),
        ({"cron": "@daily"}, "says nothing about what it starts: give it one of job, import"),
        ({"cron": "@daily", "job": "x", "import": "y"}, "job and import exclude each other"),
        ({"cron": "99 * * * *", "job": "x"}, '"cron" in .schedules.nightly.: "99 . . . .": bad minute "99"; it takes 0 to 59'),
        ({"cron": "@daily", "job": "x", "timezone": "Europe/Berlni"}, 'did you mean "Europe/Berlin"'),
        ({"every": "500ms", "job": "x"}, "whole number of seconds"),
        ({"every": "often", "job": "x"}, '"often" is not a duration'),
        ({"every": "5000d", "job": "x"}, "ten years at most"),
        ({"at": "tomorrow", "job": "x"}, '"tomorrow" is not a moment'),
        ({"cron": "@daily", "command": "cleanpu"}, 'not a command: cleanup, health or maintenance, did you mean "cleanup"'),
        ({"cron": "@daily", "job": "x", "overlap": "skp"}, 'skip, queue or allow, did you mean "skip"'),
        ({"cron": "@daily", "job": "x", "catch_up": True}, "none, latest or all"),
        ({"cron": "@daily", "job": "x", "start_within": "0s"}, "longer than 0s"),
        ({"cron": "@daily", "job": "x", "max_catch_up": 100000}, "max_catch_up"),
        ({"cron": "@daily", "job": "x", "overlapp": "skip"}, 'unknown key "overlapp".*did you mean "overlap"'),
        (
            {"cron": "@daily", "matview": "x"},
            '"matview" cannot be scheduled: this version refreshes no materialized views; give it',
        ),
        ({"cron": "@daily", "report": "x"}, '"report" cannot be scheduled: this version writes no reports'),
        ({"cron": "@daily", "backfill": "x"}, '"backfill" cannot be scheduled: this version has no backfills'),
        ({"cron": "@daily", "import": "x", "args": {"a": 1}}, "args are handed to a job"),
        ({"cron": "@daily", "command": "cleanup", "args": {"days": 0}}, "args of cleanup are . days = N ., 1 to 36500"),
        ({"cron": "@daily", "command": "cleanup", "args": {"days": 1, "x": 1}}, "args of cleanup are"),
        ({"cron": "@daily", "job": "x", "start": "soon"}, '"start" in .*"soon" is not a moment'),
        ({"cron": "@daily", "job": "x", "end": "9999-12-31"}, '"end" in .*beyond the calendar of schedules: 1970 to 8999'),
        ({"at": "0001-01-01", "job": "x", "timezone": "Asia/Kathmandu"}, '"at" in .*beyond the calendar'),
        ({"at": "2027-01-01", "job": "x", "end": "2028-01-01"}, "start and end belong to cron or every"),
        ({"cron": "@daily", "job": "x", "start": "2027-01-02", "end": "2027-01-01"}, "its end lies before its start"),
        (
            {"cron": "@daily", "job": "x", "timezone": "Pacific/Apia", "start": "2011-12-30", "end": "2011-12-30"},
            "there is no 2011-12-30 in Pacific/Apia, whose clock jumps over that day",
        ),
        ({"cron": "@yearly", "job": "x", "start": "2027-01-02", "end": "2027-12-31"}, "it has no slot between its start and its end"),
        ({"cron": "@daily", "job": "x", "jitter": "2d"}, "a jitter is a day at most"),
        ({"every": "1m", "job": "x", "jitter": "1m"}, "its jitter must be shorter than its interval"),
        ({"cron": "@daily", "job": "x", "jitter": "5m", "start_within": "5m"}, "jitter must be shorter than start_within"),
        ({"cron": "@daily", "job": "x", "jitter": "5m", "finish_within": "5m"}, "jitter must be shorter than finish_within"),
        (
            {"cron": "@daily", "job": "x", "start_within": "2h", "finish_within": "1h"},
            "must not be shorter than start_within",
        ),
        ({"cron": "@daily", "job": "x", "start_within": "99999d"}, '"start_within" in .*must be ten years at most'),
        ({"cron": "@daily", "job": "x", "after": [{"job": "y", "ok_within": "999999d"}]}, "entry 1: must be ten years at most"),
        ({"cron": "@daily", "job": "x", "target_runtime": "0.1ms"}, '"target_runtime" in .*longer than 0s'),
        ({"cron": "@daily", "job": "x", "target_runtime": "0"}, '"target_runtime" in .*longer than 0s'),
        ({"cron": "@daily", "job": "x", "after": {"job": "y"}}, '"after" in .*must be a list'),
        ({"cron": "@daily", "job": ""}, '"job" in .*must be a name of 1 to 200 characters'),
        ({"cron": "@daily", "job": "x", "after": [{"job": "a\0"}]}, "entry 1: must be a name of 1 to 200 characters"),
        ({"cron": "@daily", "job": "x", "after": ["y"]}, '"after" in .*entry 1: must be a section with keys of its own'),
        ({"cron": "@daily", "job": "x", "after": [{"jbo": "y"}]}, 'entry 1: unknown key "jbo", did you mean "job"'),
        ({"cron": "@daily", "job": "x", "after": [{"job": "y"}, {}]}, "entry 2: says nothing about what it waits for: .* import, job or"),
        ({"cron": "@daily", "job": "x", "after": [{"job": "y", "import": "z"}]}, "entry 1: import and job exclude each other"),
        ({"cron": "@daily", "job": "x", "after": [{"job": "y", "ok_within": "0s"}]}, "entry 1: must be longer than 0s"),
        ({"cron": "@daily", "job": "x", "after": [{"job": "y", "on_failure": "wiat"}]}, 'skip, run or wait, did you mean "wait"'),
        ({"cron": "@daily", "job": "x", "after": [{"job": "y"}, {"job": "y"}]}, '"after" names job "y" twice'),
        ({"cron": "@daily", "impotr": "x"}, 'unknown key "impotr".*did you mean "import"'),
    ],
)
def test_a_mistake_is_named_with_its_place(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        read(**keys)


def test_what_must_have_succeeded_is_kept_as_the_database_reads_it() -> None:
    found = read(every="1h", job="x", after=[{"import": "readings"}, {"workflow": "w", "ok_within": "90m", "on_failure": "wait"}])
    assert [dependency.stored() for dependency in found.after] == [
        {"type": "import", "name": "readings", "ok_within_s": 86400.0, "on_failure": "skip"},
        {"type": "workflow", "name": "w", "ok_within_s": 5400.0, "on_failure": "wait"},
    ]


def test_start_and_end_are_read_in_the_time_zone() -> None:
    found = read(cron="@daily", job="x", timezone="Asia/Kathmandu", start="2027-01-01T06:00", end="2027-06-01T00:00:00Z")
    assert found.starts_at == datetime(2027, 1, 1, 0, 15, tzinfo=UTC)
    assert found.ends_at == datetime(2027, 6, 1, tzinfo=UTC)


def test_an_end_that_is_a_date_alone_includes_that_day() -> None:
    found = read(cron="0 */6 * * *", job="x", timezone="Asia/Kathmandu", start=date(2027, 1, 1), end=date(2027, 1, 2))
    slots = [slot.astimezone(found.parsed_rule().zone) for slot in found.parsed_rule().after(datetime(2020, 1, 1, tzinfo=UTC))]
    assert [(slot.day, slot.hour) for slot in slots] == [(day, hour) for day in (1, 2) for hour in (0, 6, 12, 18)]
    assert read(every="1h", job="x", end="2027-01-02").ends_at == datetime(2027, 1, 3, tzinfo=UTC) - timedelta(microseconds=1)
    assert read(every="1h", job="x", end=datetime(2027, 1, 2)).ends_at == datetime(2027, 1, 2, tzinfo=UTC)  # noqa: DTZ001


def test_a_schedule_reads_back_as_it_was_written() -> None:
    """What is kept of a schedule is what an edit starts from."""
    found = read(
        cron="0 2 * * *", job="x", timezone="Asia/Kathmandu", start="2027-01-01", end="2027-12-31T12:00", jitter="30s",
        after=[{"job": "y", "ok_within": "90m"}], start_within="10m", finish_within="1h30m", target_runtime="500ms",
    )  # fmt: skip
    kept = found.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert read(**kept) == found


def test_what_is_hardly_meant_is_told() -> None:
    now = datetime(2026, 6, 1, tzinfo=UTC)
    assert list(read(cron="@daily", job="x", end="2027-01-01", after=[{"job": "y"}]).oddities(now)) == []
    assert list(read(cron="@daily", job="x", end="2026-01-01").oddities(now)) == ["has no slot to come: its time is over"]
    assert list(read(at="2026-01-01", job="x", enabled=False).oddities(now)) == []
    (odd,) = read(cron="@daily", job="x", after=[{"job": "x"}]).oddities(now)
    assert odd == 'waits for a success of job "x", which it starts itself: something else must do so first'
    assert list(read(cron="@daily", job="x", after=[{"job": "x", "on_failure": "run"}]).oddities(now)) == []
    (odd,) = read(cron="0,5 2 * * *", job="x", jitter="6m").oddities(now)
    assert odd == "has a jitter of 6m, and only 5m between two slots: while a job waits its share, the next slots are skipped"
    assert list(read(cron="0,5 2 * * *", job="x", jitter="5m").oddities(now)) == []


def test_a_success_that_is_not_kept_for_so_long_is_told() -> None:
    now, kept = datetime(2026, 6, 1, tzinfo=UTC), timedelta(days=30)
    found = read(cron="@monthly", job="x", after=[{"job": "y", "ok_within": "32d"}, {"import": "z", "ok_within": "32d"}])
    assert list(found.oddities(now, kept)) == ['looks back 32d for a success of job "y", but [retention] history keeps jobs for 30d']
    assert list(found.oddities(now, timedelta(days=32))) == []
