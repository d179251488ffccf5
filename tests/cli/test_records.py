"""`history`, `statistics`, `last` and `status` on the command line."""

from __future__ import annotations

import asyncpg
import pytest

from ingestd.jobs.registry import HandlerSpec
from ingestd.jobs.store.queues import publish_kinds
from tests.admin.runs import RUN, STATISTICS, STATUS, THINGS, new_job, three_of_everything
from tests.cli.kit import Cli, ask

CONFIG = """
[imports.readings]
source = "inbox/*.csv"
table = "readings"
[workflows.market.steps]
fetch = { command = "health" }
[schedules.declared_only]
every = "1h"
command = "health"
"""


async def handle(ctx: object) -> None:
    """A handler that is never run here."""


async def three_runs(conn: asyncpg.Connection) -> None:
    """Of everything: one that failed, one that succeeded, one that failed after it."""
    await publish_kinds(conn, [HandlerSpec("sync_prices", handle)], await conn.fetchval("select gen_random_uuid()"))
    await three_of_everything(conn)


@pytest.fixture(autouse=True)
def filled(cli: Cli, dsn: str) -> None:
    """Three runs of everything."""
    cli.configure(CONFIG)
    ask(dsn, three_runs)


@pytest.mark.parametrize(("what", "name"), THINGS)
def test_the_command_line_answers_what_the_api_answers(cli: Cli, what: str, name: str) -> None:
    group = f"{what}s"
    items = cli(group, "history", name, "--json").json["items"]
    assert [run["state"] for run in items] == ["failed", "succeeded", "failed"]
    assert all(run.keys() == RUN for run in items)
    numbers = cli(group, "statistics", name, "--days", "7", "--json").json
    assert numbers.keys() == STATISTICS
    assert (numbers["runs"], numbers["success_rate"], len(numbers["timeline"])) == (3, 1 / 3, 7)
    assert [cli(group, "last", name, "--json").json[which]["id"] for which in ("run", "last_success")] == [items[0]["id"], items[1]["id"]]
    status = cli(group, "status", name, "--json")
    assert (status.code, status.json.keys(), status.json["consecutive_failures"]) == (0, STATUS, 1)


@pytest.mark.parametrize(("what", "name"), THINGS)
def test_people_get_tables(cli: Cli, what: str, name: str) -> None:
    group = f"{what}s"
    assert cli(group, "history", name).out.count("failed") >= 2
    shown = cli(group, "statistics", name).out
    assert "33.33%" in shown
    assert "1 succeeded, 2 failed" in shown
    assert "failed" in cli(group, "last", name).out
    assert "healthy" in cli(group, "status", name).out


@pytest.mark.parametrize(("what", "name"), THINGS)
def test_a_page_goes_on_where_the_one_before_ended(cli: Cli, what: str, name: str) -> None:
    group = f"{what}s"
    first = cli(group, "history", name, "--limit", "2", "--json").json
    rest = cli(group, "history", name, "--before", first["next"], "--json").json
    assert (len(first["items"]), len(rest["items"]), rest["next"]) == (2, 1, None)
    assert rest["items"][0]["id"] < first["items"][1]["id"]
    assert len(cli(group, "history", name, "--state", "failed,partial", "--json").json["items"]) == 2
    assert "no " in cli(group, "history", name, "--state", "waiting").out


def test_a_program_learns_from_the_exit_code_that_something_is_unhealthy(cli: Cli, dsn: str) -> None:
    for _ in range(2):
        ask(dsn, lambda conn: new_job(conn, "sync_prices", "failed"))
    ran = cli("kinds", "status", "sync_prices")
    assert (ran.code, "its last 3 runs failed" in ran.out) == (1, True)
    cli.configure(CONFIG + "[daemon]\nfailures_in_a_row = 4\n")
    assert cli("kinds", "status", "sync_prices").code == 0


def test_mistakes_are_named(cli: Cli) -> None:
    assert 'did you mean "failed"' in cli("kinds", "history", "sync_prices", "--state", "faild").problem
    assert "Europe/Berlin" in cli("imports", "statistics", "readings", "--timezone", "Europe/Berln").problem
    assert 'did you mean "readings"' in cli("imports", "last", "reading").problem
    assert "not in service yet" in cli("schedules", "status", "declared_only").problem
    assert "due time" in cli("schedules", "history", "nightly", "--before", "12").problem
    assert "number of a run" in cli("kinds", "history", "sync_prices", "--before", "x").problem


def test_kinds_are_listed(cli: Cli) -> None:
    assert [one["name"] for one in cli("kinds", "list", "--json").json["items"]] == ["sync_prices"]
    assert "sync_prices" in cli("kinds", "list").out


def test_the_error_of_the_newest_run_is_a_line_and_its_traceback_lines(cli: Cli, dsn: str) -> None:
    error = {
        "class": "ValueError",
        "message": "no such price",
        "traceback": 'Traceback\n  File "prices.py", line 7\nValueError: \x1b[31mno',
    }
    ask(dsn, lambda conn: conn.execute("update ingestd.history set error = $1 where kind = 'sync_prices'", error))
    shown = cli("kinds", "last", "sync_prices").out.splitlines()
    assert [line.split() for line in shown if line.startswith("error")] == [["error", "ValueError:", "no", "such", "price"]]
    assert shown[-3:] == ["Traceback", '  File "prices.py", line 7', "ValueError: \\x1b[31mno"]
    assert cli("kinds", "last", "sync_prices", "--json").json["run"]["error"] == error
