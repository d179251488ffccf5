"""`run`, and every command beside a running daemon."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.cli.kit import Cli, Ran, fetchval, finish, until_started
from tests.support import PATIENCE_S

CONFIGURATION = """
[daemon]
handlers = ["myjobs"]
[imports.readings]
source = "inbox/*.csv"
table = "public.readings"
poll = "off"
settle = "0s"
[rollups.daily]
source = "public.readings"
time = "at"
bucket = "1 day"
measures = { n = "count(*)" }
[schedules.nightly]
cron = "0 2 * * *"
timezone = "Europe/Skopje"
job = "greet"
[workflows.both.steps]
load = { import = "readings" }
greet = { job = "greet", after = ["load"] }
"""


@contextmanager
def daemon(cli: Cli, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A running daemon, drained at the end."""
    process = cli.start("run", *options)
    try:
        until_started(process)
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        ran = finish(process)
    assert ran.code == 0, ran.err


def test_every_command_beside_a_running_daemon(cli: Cli, dsn: str) -> None:
    cli.configure(CONFIGURATION)
    inbox = cli.folder / "inbox"
    inbox.mkdir()
    for command, noun in (("rollups", "rollup"), ("schedules", "schedule")):
        assert cli(command, "list").out.startswith(f"no {noun}s are in service yet: a daemon puts the declared ones in service")
    assert cli("workflows", "list").out.split()[-7:] == ["both", "load", "→", "greet", "-", "-", "-"]
    assert 'rollup "daily" is declared, but not in service yet' in cli("rollups", "status", "daily").problem
    assert 'schedule "nightly" is declared, but not in service yet' in cli("schedules", "trigger", "nightly").problem
    with daemon(cli) as process:
        told = cli("health", "--json")
        assert (told.code, told.json["status"]) == (0, "healthy")
        assert "healthy" in cli("health").out

        (inbox / "one.csv").write_text("id,at\n1,2024-01-01T00:00:00Z\n2,2024-01-02T00:00:00Z\n")
        assert "read 2 inserted 2" in cli("import", "readings", str(inbox / "one.csv")).out
        assert fetchval(dsn, "select count(*) from ingestd.node") == 1, "the daemon did it, no node was made for the command"

        assert cli("enqueue", "greet", "--args", '{"name": "ann"}', "--wait", "--json").json["result"] == {"greeted": "ann"}
        failed = cli("enqueue", "fail", "--wait")
        assert (failed.code, failed.err) == (1, "")
        assert failed.out.endswith("failed: attempt 1 of 1: it went wrong\\x1b[31m\n")
        shown = cli("jobs", "show", failed.out.split()[1]).out
        assert "RuntimeError: it went wrong" in shown
        assert "Traceback (most recent call last):" in shown
        assert "\x1b" not in shown

        (rollup,) = cli("rollups", "list", "--json").json["items"]
        assert rollup["name"] == "daily"
        status = cli("rollups", "status", "daily", "--json").json
        assert (status["view"], status["max_staleness"]) == ("rollups.daily", "1m")
        assert "rollups.daily_stored" in cli("rollups", "status", "daily").out
        refresh = cli("rollups", "refresh", "daily")
        assert (refresh.code, refresh.err) == (0, "")
        assert 'did you mean "daily"?' in cli("rollups", "refresh", "dayly").problem

        (schedule,) = cli("schedules", "list", "--json").json["items"]
        assert (schedule["name"], schedule["paused"]) == ("nightly", False)
        job = cli("schedules", "trigger", "nightly", "--reason", "test", "--json").json["job_id"]
        assert isinstance(job, str)
        assert cli("schedules", "pause", "nightly").out == "nightly is paused\n"
        assert cli("schedules", "pause", "nightly").out == "nightly is paused already\n"
        assert "paused" in cli("schedules", "list").out
        assert cli("schedules", "resume", "nightly", "--json").json == {"name": "nightly", "state": "on"}
        assert len(cli("schedules", "next", "nightly", "--count", "3", "--json").json) == 3

        run = cli("workflows", "start", "both", "--json").json["run"]
        assert cli("workflows", "show", run, "--json").json["workflow"] == "both"
        assert "both run" in cli("workflows", "show", run).out
        assert 'did you mean "both"?' in cli("workflows", "start", "bth").problem
        assert cli("workflows", "show", "99").code == 66
        assert cli("imports", "trigger", "readings").err == ""

        cli.environ["INGESTD_ADMIN__PORT"] = (cli.folder / "state" / "admin.port").read_text().strip()
        second = finish(cli.start("run"))
        assert second.code == 73
        assert f"127.0.0.1:{cli.environ['INGESTD_ADMIN__PORT']} is in use by another process" in second.problem
        assert process.poll() is None


def test_options_of_run_win_over_the_configuration(cli: Cli, dsn: str) -> None:
    cli.configure("")
    with daemon(cli, "--duties", "work", "--queues", "imports,default"):
        assert fetchval(dsn, "select duties from ingestd.node") == ["work"]
        assert sorted(fetchval(dsn, "select queues from ingestd.node")) == ["default", "imports"]
    ran = cli("run", "--duties", "work,rest")
    assert ran.code == 78
    assert 'entry 2: "rest" is not work, schedule or serve' in ran.problem


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_whoever_stops_the_daemon_before_it_is_up_does_not_wait_for_it(bare: Cli, number: signal.Signals) -> None:
    bare.environ["INGESTD_DAEMON__START_TIMEOUT"] = "10m"
    with socket.socket(socket.AF_UNIX) as silent:
        # a server that takes connections and never answers
        silent.bind(str(bare.folder / ".s.PGSQL.5432"))
        silent.listen()
        process = bare.start("run")
        silent.settimeout(PATIENCE_S)
        connection, _ = silent.accept()
        process.send_signal(number)
        ran: Ran = finish(process)
        connection.close()
    assert (ran.code, ran.out) == (0, "")
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("taken", ["a file", *(["a foreign folder"] if os.geteuid() else [])])
def test_a_state_folder_that_cannot_be_used_is_one_line(cli: Cli, taken: str) -> None:
    target = cli.folder / "taken"
    if taken == "a file":
        target.write_text("")
    else:
        target.mkdir(mode=0o500)
        target = target / "state"
    for url in (cli.environ["INGESTD_DATABASE__URL"], ""):
        cli.environ |= {"INGESTD_DAEMON__STATE_DIR": str(target), "INGESTD_DATABASE__URL": url}
        ran = finish(cli.start("run"))
        assert ran.code == 77
        assert str(target) in ran.problem
