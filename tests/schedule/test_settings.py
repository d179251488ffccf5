"""The configuration of schedules: what is refused, and in which words."""

from __future__ import annotations

from datetime import UTC, datetime
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
        ({"cron": "@daily", "command": "cleanpu"}, 'not a command: cleanup or health, did you mean "cleanup"'),
        ({"cron": "@daily", "job": "x", "overlap": "skp"}, 'skip, queue or allow, did you mean "skip"'),
        ({"cron": "@daily", "job": "x", "catch_up": True}, "none, latest or all"),
        ({"cron": "@daily", "job": "x", "start_within": "0s"}, "longer than 0s"),
        ({"cron": "@daily", "job": "x", "max_catch_up": 100000}, "max_catch_up"),
        ({"cron": "@daily", "job": "x", "overlapp": "skip"}, 'unknown key "overlapp".*did you mean "overlap"'),
        ({"cron": "@daily", "impotr": "x"}, 'unknown key "impotr".*did you mean "import"'),
    ],
)
def test_a_mistake_is_named_with_its_place(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        read(**keys)
