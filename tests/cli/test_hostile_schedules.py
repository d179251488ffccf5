"""Expressions and zones that nobody means: the command line refuses them in one line, and without a database."""

from __future__ import annotations

import json
import time

import pytest

from tests.cli.kit import Cli
from tests.support import CROWDED

HOSTILE = ["0 0 1--100000000 * *", "*" * 1_000_000, "٣ 2 * * *", "0 0 * * \0", "0 0 * *", "\ufeff0 0 * * *", "0 0 * * " + "#" * 100]


def declared(**keys: str) -> str:
    return "[schedules.odd]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())


@pytest.mark.parametrize("command", [("check",), ("schedules", "next", "odd")], ids=" ".join)
@pytest.mark.parametrize("expression", HOSTILE, ids=lambda text: repr(text)[:30])
def test_a_hostile_expression_in_the_file_is_one_line(bare: Cli, command: tuple[str, ...], expression: str) -> None:
    bare.configure(declared(cron=expression, command="health"))
    began = time.perf_counter()
    ran = bare(*command)
    took = time.perf_counter() - began
    assert ran.code == 78
    (line,) = [line for line in (ran.out + ran.err).splitlines() if "schedules.odd" in line]
    assert '"cron"' in line
    assert len(line) < 700
    assert took < 3 * CROWDED


@pytest.mark.parametrize(
    "zone", ["x" * 1_000_000, "../../etc/passwd", "Europe/Berlin\0", "localtime", ""], ids=lambda text: repr(text)[:30]
)
def test_so_is_a_hostile_time_zone(bare: Cli, zone: str) -> None:
    bare.configure(declared(cron="0 0 * * *", timezone=zone, command="health"))
    ran = bare("check")
    assert ran.code == 78
    (line,) = [line for line in (ran.out + ran.err).splitlines() if "schedules.odd" in line]
    assert "is not a time zone" in line
    assert len(line) < 700


@pytest.mark.parametrize("start", ["9" * 100_000, "9999-12-31T23:59:59", "0001-01-01T00:00:00", "٢٠٢٧-01-01", "2027-01-01T00:00:00+99:99"])
def test_a_preview_from_anywhere_is_an_answer_or_one_line(bare: Cli, start: str) -> None:
    bare.configure(declared(cron="30 2 * * *", timezone="Pacific/Apia", command="health"))
    ran = bare("schedules", "next", "odd", "--from", start)
    assert (ran.code == 0 and ran.out) or ran.problem
