"""`enqueue` and `jobs`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from ingestd.jobs.store import rescue
from tests.cli.kit import Cli, ask, fetchval, finish


@pytest.fixture(autouse=True)
def declared(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The jobs of `myjobs` are declared, and known because their code is at hand."""
    monkeypatch.chdir(cli.folder)
    cli.configure('[daemon]\nhandlers = ["myjobs"]\n')
    yield
    sys.modules.pop("myjobs", None)


def test_a_job_is_enqueued_with_its_options(cli: Cli, dsn: str) -> None:
    words = ["--args", '{"name": "ann"}', "--priority", "high", "--run-at", "1h", "--unique-key", "k", "--tag", "a", "--tag", "b"]
    first = cli("enqueue", "greet", *words, "--json").json
    assert cli("enqueue", "greet", *words).out == f"job {first['id']} was there already\n", "the unique key is open: that job is answered"
    row = ask(dsn, lambda conn: conn.fetchrow("select *, run_at - created_at as wait from ingestd.job"))
    assert (row["id"], row["kind"], row["args"], row["rank"], row["tags"]) == (int(first["id"]), "greet", {"name": "ann"}, -10, ["a", "b"])
    assert 3500 < row["wait"].total_seconds() < 3700
    assert fetchval(dsn, "select count(*) from ingestd.audit where action = 'enqueue' and via = 'cli'") == 2


def test_a_job_takes_every_option(cli: Cli, dsn: str) -> None:
    options = {
        "--queue": "imports", "--delay": "90m", "--unique-key": "k", "--unique-until": "start", "--unique-for": "2h", "--timeout": "10m",
        "--hard-timeout": "20m", "--max-attempts": "7", "--key": "c7", "--notes": "n", "--correlation-id": "c", "--parent-id": "12",
    }  # fmt: skip
    words = [word for option in options.items() for word in option] + ["--key-strict"]
    made = cli("enqueue", "greet", *words, "--backoff", '{"base": "5s"}', "--metadata", '{"m": 1}', "--json").json
    assert made == {"id": made["id"], "existing": False, "changed": False}
    row = ask(dsn, lambda conn: conn.fetchrow("select *, run_at - created_at as wait from ingestd.job"))
    assert (row["wait"], row["timeout"], row["hard_timeout"]) == (timedelta(minutes=90), timedelta(minutes=10), timedelta(minutes=20))
    assert (row["unique_key"], row["unique_until"], row["key"], row["key_strict"], row["max_attempts"]) == ("k", "start", "c7", True, 7)
    assert (row["notes"], row["correlation_id"], row["parent_id"], row["metadata"], row["backoff"]["base_s"]) == ("n", "c", 12, {"m": 1}, 5)
    again = cli("enqueue", "greet", "--unique-key", "k", "--unique-mode", "replace", "--args", '{"name": "bob"}')
    assert again.out == f"job {made['id']} was there already, and was changed\n"
    assert fetchval(dsn, "select args ->> 'name' from ingestd.job") == "bob"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--args", '{"name": 5}'], '"name" must be a string'),
        (["--args", '{"nme": "x"}'], 'unexpected "nme", did you mean "name"'),
        (["--args", '{"name": "a\\u0000b"}'], "/args/name holds a NUL character"),
        (["--args", '{"name": "\\ud800"}'], "half a character"),
        (["--args", '{"name": NaN}'], "NaN is not a JSON value"),
        (["--args", "[" * 100_000], "nested too deeply"),
        (["--args", "[1]"], "--args must be a JSON object"),
        (["--priority", "urgent"], '--priority: "urgent" is not a priority'),
        (["--delay=-5s"], '--delay: "-5s" is negative'),
        (["--delay", "5m", "--run-at", "10m"], "--run-at or --delay, not both"),
        (["--run-at", "2031-01-01T00:00:00 Mars/Olympus"], "--run-at"),
        (["--run-at", "9999-06-01"], "run_at must be in the years 2 to 9998"),
        (["--unique-mode", "replace"], "need a unique_key"),
        (["--unique-key", "k", "--unique-mode", "merge"], '--unique-mode: "merge" is none of skip, replace, reschedule'),
        (["--max-attempts", "0"], "max_attempts must be 1 to 32767"),
        (["--timeout", "soon"], '--timeout: "soon" is not a duration'),
        (["--backoff", '{"colour": 1}'], "--backoff"),
        (["--tag", "x" * 101], "a tag is 101 characters long"),
        (["--notes", "x" * 10_001], "notes is 10001 characters long"),
        (["--parent-id", "x"], '--parent-id: "x" is not the id of a job'),
        (["--wait-timeout", "soon"], '--wait-timeout: "soon" is not a duration'),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value)[:40],
)
def test_what_makes_no_sense_is_refused_in_one_line(cli: Cli, dsn: str, words: list[str], said: str) -> None:
    ran = cli("enqueue", "greet", *words)
    assert ran.code == 64
    assert said in ran.problem


def test_waiting_has_a_limit_and_says_how_far_the_job_is(cli: Cli) -> None:
    ran = cli("enqueue", "greet", "--wait-timeout", "100ms", "-q")
    assert (ran.code, ran.out) == (75, "job 1 is still available\n")


def test_nobody_working_is_told_unless_quiet_was_asked_for(cli: Cli) -> None:
    assert "no daemon works on this database now" in cli("enqueue", "greet").problem
    assert cli("enqueue", "greet", "-q").err == ""


def test_a_queue_that_is_only_declared_takes_jobs_before_any_node_has_run(cli: Cli, dsn: str) -> None:
    cli.configure('[daemon]\nhandlers = ["myjobs"]\n[queues.calls]\nconcurrency = 3\n')
    assert cli("enqueue", "greet", "--queue", "calls").code == 0
    assert fetchval(dsn, "select concurrency from ingestd.queue where name = 'calls'") == 3


def test_an_unknown_kind_or_queue_is_refused_with_those_there_are(cli: Cli, dsn: str) -> None:
    ran = cli("enqueue", "gret")
    assert ran.code == 64
    assert 'no node knows the kind "gret", did you mean "greet"?' in ran.problem
    assert 'there is no queue "fast"' in cli("enqueue", "greet", "--queue", "fast").problem
    assert "a job needs a kind" in cli("enqueue", "", "--allow-unknown").problem
    assert fetchval(dsn, "select count(*) from ingestd.job") == 0
    assert cli("enqueue", "gret", "--allow-unknown").code == 0


def test_args_may_hold_whatever_json_holds(cli: Cli) -> None:
    number = 2**80
    cli("enqueue", "anything", "--args", f'{{"id": 5, "big": {number}, "text": "\\u001b[31mö"}}')
    (job,) = cli("jobs", "list", "--json").json["items"]
    assert job["args"] == {"id": 5, "big": number, "text": "\x1b[31mö"}
    assert isinstance(job["id"], str)


def test_jobs_are_listed_shown_cancelled_and_brought_back(cli: Cli, dsn: str) -> None:
    assert cli("jobs", "list").out == "no jobs\n"
    number = cli("enqueue", "anything", "--args", '{"x": "\\u001b[31m"}', "--json").json["id"]
    table = cli("jobs", "list")
    assert table.out.splitlines()[0].split() == ["id", "kind", "queue", "state", "attempt", "created", "took", "why"]
    assert all(line == line.rstrip() for line in table.out.splitlines())
    shown = cli("jobs", "show", number).out
    assert "available" in shown
    assert "\x1b" not in shown
    assert cli("jobs", "cancel", number).out == f"job {number}: cancelled\n"
    again = cli("jobs", "cancel", number)
    assert again.code == 75
    assert f"job {number} is cancelled: there is nothing to cancel" in again.problem
    assert [job["state"] for job in cli("jobs", "list", "--state", "cancelled", "--json").json["items"]] == ["cancelled"]
    assert cli("jobs", "retry", number).code == 0
    assert fetchval(dsn, "select count(*) from ingestd.job where id = $1", int(number)) == 1
    assert cli("jobs", "retry", number).code == 75


@pytest.mark.parametrize("verb", ["show", "retry", "cancel"])
def test_a_job_that_is_not_there_is_one_line(cli: Cli, verb: str) -> None:
    ran = cli("jobs", verb, "424242")
    assert ran.code == 66
    assert ran.problem == "ingestd: there is no job 424242\n"


def test_jobs_of_a_queue_that_does_not_exist_are_not_an_empty_list(cli: Cli) -> None:
    ran = cli("jobs", "list", "--queue", "defualt")
    assert ran.code == 66
    assert 'there is no queue "defualt", did you mean "default"?' in ran.problem


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_whoever_stops_waiting_leaves_the_job_in_the_queue(cli: Cli, dsn: str, number: signal.Signals, code: int) -> None:
    process = cli.start("enqueue", "greet", "--wait")
    assert process.stderr is not None
    assert "no daemon works" in process.stderr.readline()
    process.send_signal(number)
    ran = finish(process)
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.startswith("ingestd: no longer waiting; job ")
    assert fetchval(dsn, "select count(*) from ingestd.job") == 1


def test_a_wait_outlives_the_loss_of_its_connection(cli: Cli, dsn: str) -> None:
    process = cli.start("enqueue", "greet", "--wait", "--wait-timeout", "60s")
    assert process.stderr is not None
    assert "no daemon works" in process.stderr.readline()
    (job_id,) = [job["id"] for job in cli("jobs", "list", "--json").json["items"]]
    ours = "application_name = 'ingestd:cli' and datname = current_database()"
    ended = fetchval(dsn, f"select count(pg_terminate_backend(pid)) from pg_stat_activity where {ours}")
    assert ended >= 1
    assert cli("jobs", "cancel", job_id).code == 0
    ran = finish(process)
    assert (ran.code, ran.out.startswith(f"job {job_id} cancelled")) == (1, True)


@pytest.mark.parametrize("words", [["jobs", "list"], ["--help"]])
def test_the_reader_of_the_output_may_go_away(cli: Cli, words: list[str]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        ran = cli.process(*words, capture_output=False, stdout=write_end, stderr=subprocess.PIPE)
    finally:
        os.close(write_end)
    assert (ran.code, ran.err) == (0, "")


def test_output_that_cannot_be_written_is_told(cli: Cli) -> None:
    with Path("/dev/full").open("w") as full:
        ran = cli.process("jobs", "list", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert ran.code == 74
    assert ran.problem == "ingestd: cannot write: No space left on device\n"


@pytest.mark.parametrize("streams", [">&-", ">&- 2>&- <&-"])
def test_closed_streams_do_no_harm(cli: Cli, streams: str) -> None:
    command = " ".join(cli.command("jobs", "list"))
    done = subprocess.run(["/bin/sh", "-c", f"{command} {streams}"], check=False, env=cli.environment(), cwd=cli.folder, timeout=60)
    assert done.returncode == 0


def enqueue(cli: Cli, count: int, *words: str) -> list[str]:
    return [cli("enqueue", "greet", *words, "--json").json["id"] for _ in range(count)]


def test_many_jobs_are_looked_at_first_and_then_done_at_once(cli: Cli, dsn: str) -> None:
    enqueue(cli, 3, "--tag", "a")
    enqueue(cli, 2)
    looked = cli("jobs", "cancel", "--tag", "a", "--dry-run").out
    assert looked.startswith("cancel would go through 3 jobs\nby state: 3 available\n")
    assert fetchval(dsn, "select count(*) from ingestd.job") == 5
    refused = cli("jobs", "cancel", "--tag", "a")
    assert refused.code == 64
    assert "this would cancel 3 jobs (3 available): say --yes to do it, or --dry-run to look first" in refused.problem
    assert cli("jobs", "cancel", "--tag", "a", "--yes").out == "cancel: 3 jobs\n"
    assert cli("jobs", "cancel", "--tag", "a", "--yes").out == "no jobs match\n"
    assert cli("jobs", "retry", "--state", "cancelled", "--yes", "--json", "-q").json == {
        "action": "retry", "jobs": 3, "changed": 3, "skipped": 0,
    }  # fmt: skip
    assert "say which jobs to delete" in cli("jobs", "delete", "--yes").problem
    assert "jobs that are running cannot be edited" in cli("jobs", "edit", "--state", "running", "--priority", "low").problem
    assert fetchval(dsn, "select count(*) from ingestd.audit where object_type = 'bulk'") == 3


def test_one_job_is_edited_snoozed_run_again_and_deleted(cli: Cli, dsn: str) -> None:
    (number,) = enqueue(cli, 1)
    words = ["--args", '{"name": "bob"}', "--priority", "high", "--new-queue", "alerts", "--max-attempts", "9", "--timeout", "90s"]
    assert cli("jobs", "edit", number, *words, "--new-tag", "x", "--notes", "hm").out == (
        f"job {number}: args, max_attempts, notes, priority, queue, tags, timeout changed\n"
    )
    shown = cli("jobs", "show", number, "--json").json
    assert [shown[name] for name in ("args", "priority", "queue", "max_attempts", "tags", "notes", "timeout")] == [
        {"name": "bob"}, "high", "alerts", 9, ["x"], "hm", "1m30s",
    ]  # fmt: skip
    assert "say what to change" in cli("jobs", "edit", number).problem
    assert "the arguments do not fit" in cli("jobs", "edit", number, "--args", '{"nam": 1}').problem
    assert cli("jobs", "snooze", number, "--in", "1h").code == 0
    assert cli("jobs", "show", number, "--json").json["state"] == "scheduled"
    assert "only a finished job can be run again" in cli("jobs", "again", number).problem
    cli("jobs", "cancel", number)
    made = cli("jobs", "again", number, "-q", "--json").json
    assert made["parent_id"] == number
    assert [child["id"] for child in cli("jobs", "show", number, "--json").json["children"]] == [made["id"]]
    assert "say --yes to do it" in cli("jobs", "delete", number).problem
    assert cli("jobs", "delete", number, "--yes").out == f"job {number}, which was cancelled, is deleted\n"
    assert cli("jobs", "show", number).code == 66


def test_lists_go_on_where_the_last_one_ended(cli: Cli) -> None:
    ids = enqueue(cli, 3)
    page = cli("jobs", "list", "--limit", "2", "--json").json
    assert ([job["id"] for job in page["items"]], page["next_before"]) == ([ids[2], ids[1]], ids[1])
    page = cli("jobs", "list", "--limit", "2", "--before", ids[1], "--json").json
    assert ([job["id"] for job in page["items"]], page["next_before"]) == ([ids[0]], None)
    assert len(cli("jobs", "list", "--state", "waiting", "--from", "1h", "--json").json["items"]) == 3
    assert cli("jobs", "list", "--to", "1h", "--json").json["items"] == []
    assert '"--state" cannot be "waitin", did you mean "waiting"?' in cli("jobs", "list", "--state", "waitin").problem
    assert cli("jobs", "dead").out == "no job has failed for good\n"


def test_each_death_of_a_process_under_a_job_is_shown_and_what_to_do_at_the_last(cli: Cli, dsn: str) -> None:
    """A crash spends no attempt: all bear the number of the first."""
    number = cli("enqueue", "anything", "--json").json["id"]
    claim = "update ingestd.job set claim = gen_random_uuid(), node = $1, claimed_at = now(), attempt = 1 where id = $2"

    async def die(conn: asyncpg.Connection) -> list[int]:
        node = uuid.uuid4()
        await conn.execute(claim, node, int(number))
        return (await rescue.rescue(conn, node, "its process has ended", [int(number)])).quarantined

    for _ in range(4):
        assert ask(dsn, die) == []
    assert ask(dsn, die) == [int(number)]
    shown = cli("jobs", "show", number).out
    assert shown.count("crashed NodeDied: its process has ended") == 5
    assert "\nattempt 1, again (4) " in shown
    assert "Quarantined: its process died 5 times while running it; repair the cause, then retry it" in shown
