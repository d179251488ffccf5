"""`schedules`: looked at, started, paused, skipped, made and changed from the command line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ingestd.access.store import latest_audit
from ingestd.cli.schedule_definitions import _KEYS
from ingestd.schedule.settings import ScheduleSettings
from tests.cli.kit import Cli, ask, fetchval
from tests.schedule.conftest import declare

CONFIGURATION = """
[daemon]
handlers = ["myjobs"]
[imports.products]
source = "inbox/*.csv"
table = "public.products"
[schedules.nightly]
cron = "30 2 * * *"
timezone = "Europe/Berlin"
job = "greet"
[schedules.young]
every = "1h"
job = "greet"
"""


@pytest.fixture(autouse=True)
def declared(cli: Cli, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two schedules in a file, of which one, `nightly`, has been put in service."""
    monkeypatch.chdir(cli.folder)
    cli.configure(CONFIGURATION)
    assert cli("migrate", "-q").code == 0
    ask(dsn, lambda conn: declare(conn, {"nightly": {"cron": "30 2 * * *", "timezone": "Europe/Berlin"}}))


def test_every_key_of_a_schedule_is_an_option() -> None:
    known = {field.alias or name for name, field in ScheduleSettings.model_fields.items()}
    assert set(_KEYS) | {"enabled"} == known


def test_a_schedule_is_shown_with_who_paused_it_and_what_is_next(cli: Cli) -> None:
    cli("schedules", "pause", "nightly", "--until", "2090-01-31T06:00", "--reason", "stocktaking")
    shown = cli("schedules", "show", "nightly")
    assert "stocktaking" in shown.out
    assert "Europe/Berlin" in shown.out
    assert shown.out.count("next ") == 3
    document = cli("schedules", "show", "nightly", "--json").json
    assert (document["owner"], document["paused"], document["pause_reason"]) == ("file", True, "stocktaking")
    assert datetime.fromisoformat(document["paused_until"]) == datetime(2090, 1, 31, 5, tzinfo=UTC)
    assert "by " in cli("schedules", "list").out


def test_a_pause_says_until_when_and_may_be_said_again(cli: Cli) -> None:
    first = cli("schedules", "pause", "nightly", "--for", "2h", "--json").json
    assert timedelta(hours=1.9) < datetime.fromisoformat(first["until"]) - datetime.now(UTC) < timedelta(hours=2.1)
    again = cli("schedules", "pause", "nightly", "--until", "2090-01-31T06:00:00+01:00", "--reason", "longer")
    assert again.out.startswith("nightly is paused until 2090-01-31")
    assert cli("schedules", "pause", "nightly", "--until", "2090-01-31T06:00:00+01:00").out.endswith(" already\n")
    assert cli("schedules", "pause", "nightly").out == "nightly is paused\n"
    assert cli("schedules", "resume", "nightly").out == "nightly is on\n"
    assert cli("schedules", "resume", "nightly").out == "nightly is on already\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pause", "nightly", "--until", "soon"], '--until: "soon" is not an ISO time'),
        (["pause", "nightly", "--until", "2001-01-01"], "the pause would be over already"),
        (["pause", "nightly", "--for", "2 fortnights"], "--for: "),
        (["pause", "nightly", "--for", "0s"], "longer than 0s"),
        (["pause", "nightly", "--for", "2h", "--until", "2090-01-01"], "give --until or --for, not both"),
        (["slots", "nightly", "--state", "mised"], '--state cannot be "mised", did you mean "missed"?'),
        (["slots", "nightly", "--before", "soon"], '--before: "soon" is neither'),
        (["trigger", "nightly", "--reason", "x" * 1001], "--reason: at most 1,000 characters"),
        (["edit", "nightly"], "say what to change"),
        (["edit", "nightly", "--unset", "start_withn"], 'a schedule has no key "start_withn", did you mean "start_within"?'),
        (["edit", "nightly", "--unset", "every", "--every", "1h"], '"every" is given a value as well'),
        (["create", "mine", "--every", "1h", "--job", "greet", "--after", "products"], '--after: "products" is not KEY=VALUE'),
        (["create", "mine", "--every", "1h", "--job", "greet", "--args", "{"], "--args is not JSON"),
        (["create", "mine", "--every", "1x", "--job", "greet"], '"every" in [schedules.mine]'),
        (["create", "Mine", "--every", "1h", "--job", "greet"], '"Mine" is not a name'),
        (["create", "mine", "--every", "1h", "--job", "gret"], 'did you mean "greet"?'),
        (["create", "mine", "--every", "1h", "--import", "produts"], 'did you mean "products"?'),
        (["create", "mine", "--job", "greet"], "give it one of cron, every or at"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(cli: Cli, words: list[str], said: str) -> None:
    refused = cli("schedules", *words)
    assert refused.code == 64
    assert said in refused.problem


def test_a_busy_schedule_and_an_impatient_hand_are_told_apart(cli: Cli, dsn: str) -> None:
    job = cli("schedules", "trigger", "nightly", "--reason", "prices changed", "--json").json["job_id"]
    busy = cli("schedules", "trigger", "nightly")
    assert (busy.code, f"still busy with job {job}" in busy.problem) == (75, True)
    ask(dsn, lambda conn: declare(conn, {"nightly": {"cron": "30 2 * * *", "overlap": "allow"}}))
    for _ in range(9):
        assert cli("schedules", "trigger", "nightly").code == 0
    often = cli("schedules", "trigger", "nightly")
    assert (often.code, "10 times within a minute" in often.problem, "try again in " in often.problem) == (75, True, True)


def test_the_next_slot_is_skipped_and_that_is_taken_back(cli: Cli) -> None:
    skipped = cli("schedules", "skip-next", "nightly", "--reason", "stocktaking", "--json").json
    (listed,) = cli("schedules", "list", "--json").json["items"]
    assert listed["skip_at"] == skipped["skip_at"] == listed["next_due_at"]
    assert "on, skips " in cli("schedules", "list").out
    assert cli("schedules", "skip-next", "nightly", "--undo").out == "nightly skips nothing\n"
    assert cli("schedules", "skip-next", "nightly", "--undo").out == "nightly skips nothing, and did not before\n"


def test_slots_and_downtimes_are_listed_in_pages(cli: Cli, dsn: str) -> None:
    assert cli("schedules", "slots", "nightly").out == "no slots\n"
    assert cli("schedules", "downtimes").out == "no downtime is known\n"
    ask(
        dsn,
        lambda conn: conn.execute(
            """insert into ingestd.slot (schedule, due_at, state, reason, first_due_at, slots)
            select 'nightly', now() - make_interval(hours => n), 'missed', 'nothing was running', now() - make_interval(hours => 10), 5
            from generate_series(1, 3) n"""
        ),
    )
    ask(dsn, lambda conn: conn.execute("insert into ingestd.downtime (began_at, schedules, missed) values (now() - interval '2h', 1, 15)"))
    page = cli("schedules", "slots", "nightly", "--limit", "2", "--json").json
    rest = cli("schedules", "slots", "nightly", "--limit", "2", "--before", page["next_before"], "--json").json
    assert (len(page["items"]), len(rest["items"]), rest["next_before"]) == (2, 1, None)
    assert len({slot["due_at"] for slot in page["items"] + rest["items"]}) == 3
    told = cli("schedules", "slots", "nightly", "--state", "missed,late").out
    assert "5 slots since " in told
    assert "nothing was running" in told
    (down,) = cli("schedules", "downtimes", "--json").json["items"]
    assert (down["schedules"], down["missed"], down["late"]) == (1, 15, 0)
    assert "2h" in cli("schedules", "downtimes").out


def test_a_schedule_is_made_changed_and_taken_away(cli: Cli, dsn: str) -> None:
    made = cli(
        "schedules", "create", "mine", "--every", "1h", "--job", "greet", "--args", '{"name": "ann"}', "--jitter", "30s", "--start-within",
        "10m", "--tags", "a,b", "--priority", "high", "--max-catch-up", "5", "--after", "import=products ok_within=12h on_failure=wait",
    )  # fmt: skip
    assert (made.code, made.out) == (0, "mine is in service\n"), made.err
    shown = cli("schedules", "show", "mine", "--json").json
    assert (shown["owner"], shown["rule"], shown["args"], shown["tags"]) == ("api", "every 1h", {"name": "ann"}, ["a", "b"])
    assert (shown["jitter"], shown["start_within"], shown["priority"], shown["max_catch_up"]) == ("30s", "10m", 10, 5)
    assert shown["after"] == [{"import": "products", "ok_within": "12h", "on_failure": "wait"}]
    again = cli("schedules", "create", "mine", "--every", "1h", "--job", "greet")
    assert (again.code, 'there is a schedule "mine" already' in again.problem) == (75, True)

    edit = ("schedules", "edit", "mine", "--cron", "0 2 * * *", "--unset", "start_within", "--unset", "--after", "--disabled")
    assert cli(*edit).out == "mine is changed\n"
    assert cli(*edit, "--json").json == {"name": "mine", "changed": False}
    shown = cli("schedules", "show", "mine", "--json").json
    assert (shown["rule"], shown["start_within"], shown["after"], shown["jitter"]) == ("cron 0 2 * * *", None, [], "30s")
    assert shown["enabled"] is False

    assert cli("schedules", "delete", "mine", "--reason", "no longer").out == "mine is deleted; its slots stay\n"
    assert cli("schedules", "delete", "mine").code == 66
    assert cli("schedules", "slots", "mine").out == "no slots\n"
    audit = ask(dsn, lambda conn: latest_audit(conn, "schedule", "mine"))
    assert [row["action"] for row in audit] == ["delete", "edit", "create"]
    assert audit[0]["detail"]["reason"] == "no longer"


def test_a_schedule_of_the_file_is_not_changed_from_here(cli: Cli, dsn: str) -> None:
    for words in (["edit", "nightly", "--every", "1h"], ["delete", "nightly"], ["create", "nightly", "--every", "1h", "--job", "greet"]):
        refused = cli("schedules", *words)
        assert refused.code == 75
        assert "is declared in the configuration file: change it there and reload" in refused.problem
    assert fetchval(dsn, "select rule from ingestd.schedule where name = 'nightly'") == "cron 30 2 * * *"


def test_what_is_only_declared_is_told_from_what_is_unknown(cli: Cli) -> None:
    for words in (["show"], ["slots"], ["trigger"], ["pause"], ["resume"], ["skip-next"], ["delete"]):
        young, unknown = cli("schedules", *words, "young"), cli("schedules", *words, "nigthly")
        assert (young.code, unknown.code) == (66, 66)
        assert 'schedule "young" is declared, but not in service yet' in young.problem
        assert 'did you mean "nightly"?' in unknown.problem
