"""What nobody means as a schedule is answered in milliseconds with one line, whatever it is."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from ingestd.errors import InvalidInput
from ingestd.schedule.cron import LONGEST, parse, read_expression
from ingestd.schedule.definitions import read_definition
from ingestd.settings import did_you_mean, parse_duration

MEGABYTE = 1_000_000
# Each of these takes microseconds; a machine that does something else beside may take a while longer.
SOON = 0.25


class Clock:
    """Measures what is done within."""

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        assert time.perf_counter() - self.began < SOON


def short(value: object) -> str:
    return repr(value)[:40]


BAD = [
    "0 0 1--100000000 * *",
    "*" * MEGABYTE,
    " " * MEGABYTE,
    "0 0 * * " + "1," * (MEGABYTE // 2),
    "9" * MEGABYTE + " * * * *",
    "@" + "a" * MEGABYTE,
    "*\n" * MEGABYTE,
    "\0" * MEGABYTE,
    "0 0 * * *\0",
    "@daily\0",
    "٣ 2 * * *",
    "² 2 * * *",
    "\uff10 \uff10 * * *",
    "0\u00a00 * * *",
    "0\v0 * * *",
    "🙂 * * * *",
    "\ud800 * * * *",
    "0 0 * * " + "," * 100,
    "*" + "/*" * 90 + " * * * *",
    "0" + "-" * 100 + "1 * * * *",
    "0 0 * * " + "#" * 100,
    "0 0 * * 1#99999",
    "0 0 LLLL * *",
    "0 0 L/2 * *",
    "0 0 LW/2 * *",
    "0 0 * * 5L/2",
    "0 0 L-3 * *",
    "0 0 1-L * *",
    "0 0 * * *L",
    "0 0 * * *#2",
    "/5 * * * *",
    "0/ * * * *",
    "*/ * * * *",
    "*/-1 * * * *",
    "-0/3 * * * *",
    "+1 * * * *",
    "1_0 * * * *",
    "1e3 * * * *",
    "1.5 * * * *",
    "H H * * *",
    "%(x)s {0} * * *",
]


@pytest.mark.parametrize("text", BAD, ids=short)
def test_a_hostile_expression_is_refused_with_a_short_line(text: str) -> None:
    with Clock(), pytest.raises(ValueError) as caught:
        read_expression(text)
    said = str(caught.value)
    assert len(said) < 4 * LONGEST
    assert "cron" in said or "bad " in said or "step" in said or "not known here" in said or "fields" in said


@pytest.mark.parametrize("text", BAD, ids=short)
def test_the_settings_refuse_it_as_quickly(text: str) -> None:
    with Clock(), pytest.raises(InvalidInput):
        read_definition("nightly", {"cron": text, "command": "health"})


@pytest.mark.parametrize(
    "text", ["0-59/1," * 25 + "0 * * * *", "*/9999 * * * *", "0 0 29 2 */7", "*/7 */5 29 2 */7", "0 0 * * " + "1L," * 40 + "5#5"]
)
@pytest.mark.parametrize("zone", ["UTC", "Africa/Casablanca", "Australia/Lord_Howe"])
def test_a_valid_one_that_looks_far_ahead_is_as_quick(text: str, zone: str) -> None:
    with Clock():
        assert parse(text, zone).next_after(datetime(2026, 1, 1, tzinfo=UTC)) is not None


def nested(depth: int) -> list[Any]:
    deep: list[Any] = []
    for _ in range(depth):
        deep = [deep]
    return deep


@pytest.mark.parametrize(
    "keys",
    [
        {"cron": ["0 0 * * *"]},
        {"cron": nested(900)},
        {"cron": {"minute": 5}},
        {"cron": 5},
        {"cron": True},
        {"cron": ["x" * MEGABYTE]},
        {"timezone": "x" * MEGABYTE},
        {"timezone": "../../etc/passwd"},
        {"timezone": "Europe/Berlin\0"},
        {"timezone": nested(900)},
        {"x" * MEGABYTE: 1},
        {f"key{number}": 1 for number in range(20_000)},
        {"cron": None, "every": "9" * MEGABYTE},
        {"cron": None, "every": "1s" * (MEGABYTE // 2)},
        {"cron": None, "every": "٣s"},
        {"cron": None, "every": float("inf")},
        {"cron": None, "every": float("nan")},
        {"cron": None, "every": "0.000001s"},
        {"cron": None, "at": "9" * MEGABYTE},
        {"cron": None, "at": "٢٠٢٧-01-01"},
        {"start": "x" * MEGABYTE},
        {"end": "0000-00-00"},
        {"jitter": "9" * 4000 + "s"},
        {"start_within": "-1s"},
        {"after": nested(900)},
        {"after": [{"y" * MEGABYTE: 1}]},
        {"after": [{"job": "x"}] * 20_000},
        {"overlap": "o" * MEGABYTE},
        {"priority": "9" * MEGABYTE},
        {"max_catch_up": 10**4000},
        {"command": "c" * MEGABYTE},
    ],
    ids=short,
)
def test_no_key_of_a_schedule_can_keep_the_daemon_busy(keys: dict[str, Any]) -> None:
    given = {"cron": "0 0 * * *", "command": "health"} | keys
    with Clock(), pytest.raises(InvalidInput) as caught:
        read_definition("nightly", {key: value for key, value in given.items() if value is not None})
    assert len(str(caught.value)) < 1000


def test_a_duration_and_a_guess_take_no_longer_for_a_megabyte() -> None:
    with Clock(), pytest.raises(ValueError, match="too long for a duration"):
        parse_duration("9" * MEGABYTE)
    with Clock():
        assert did_you_mean("cron" * MEGABYTE, ["cron", "every"]) == ""
