"""`--url --token`: a daemon elsewhere, in the same words as the database here."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import asyncpg
import pytest

from ingestd.jobs.promoter import promote_once
from ingestd.jobs.registry import HandlerSpec
from ingestd.jobs.store.queues import publish_kinds
from tests.admin.runs import three_of_everything
from tests.cli.kit import Cli, Ran, ask, fetchval, finish, until_started

CONFIG = """
[daemon]
handlers = ["myjobs"]
duties = ["serve"]
[admin]
token = "a-token-of-more-than-sixteen-characters"
socket = "admin.sock"
[imports.readings]
source = "inbox/*.csv"
table = "readings"
poll = "off"
[workflows.market.steps]
fetch = { command = "health" }
merge = { job = "greet", after = ["fetch"] }
"""
TOKEN = "a-token-of-more-than-sixteen-characters"
READS = """
jobs list --limit 2 --before 3
jobs list --state failed --kind sync_prices --from 1h
jobs list --queue nowhere
jobs dead
jobs show 3
jobs show 999
jobs retry --kind sync_prices --dry-run
queues list
nodes list
kinds list
kinds history sync_prices --state failed
kinds statistics sync_prices
kinds status sync_price
schedules list
schedules show nightly
schedules next nightly --count 3 --from 2027-03-27T00:00:00
schedules slots nightly --limit 2
schedules slots nightly --before 5m
schedules downtimes
schedules history nightly --limit 1
schedules status nightly
workflows list
workflows show 1
workflows show 99
workflows start market --dry-run
workflows last market
imports list
imports statistics readings
loads list --import readings --status failed
loads list --import reading
loads show 1
loads rejects 1
rollups list
rollups status nothing
stats
stats --window 30s
token list --all
token revoke nobody
audit --limit 5
health
"""
# What answers tells more of itself, and lists over HTTP leave the attempts to `jobs show`.
ONE_SIDED = {"self", "here", "attempts"}
MOVING = {"to", "silent_s", "loop_lag_ms", "at", "value"}


@dataclass
class Pair:
    """The same installation, asked through its database and through its daemon."""

    here: Cli
    url: str

    def there(self, *words: str, token: str = TOKEN) -> Ran:
        """Ask the daemon, with a configuration that knows nothing."""
        with self._bare():
            return self.here(*words, "--url", self.url, *(["--token", token] if token else []))

    @contextmanager
    def _bare(self) -> Iterator[None]:
        known = dict(self.here.environ)
        self.here.environ.clear()
        self.here.environ["INGESTD_DATABASE__URL"] = "postgresql://nobody@/nothing?host=/nowhere"
        try:
            yield
        finally:
            self.here.environ |= known


async def filled(conn: asyncpg.Connection) -> None:
    async def handle(ctx: object) -> None: ...

    await publish_kinds(conn, [HandlerSpec("sync_prices", handle)], await conn.fetchval("select gen_random_uuid()"))
    await three_of_everything(conn)


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def pair(cli: Cli, dsn: str) -> Iterator[Pair]:
    """A daemon that only serves, so that nothing moves while both are asked."""
    cli.configure(CONFIG)
    assert cli("migrate").code == 0
    ask(dsn, filled)
    process = cli.start("run")
    try:
        yield Pair(cli, until_started(process)["admin_url"])
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        ran = finish(process)
    assert ran.code == 0, ran.err


def test_a_daemon_elsewhere_is_told_of_as_the_database_is(pair: Pair) -> None:
    different = []
    for number, words in enumerate(filter(None, READS.splitlines())):
        # people's tables and programs' documents by turns: each command is asked in one of the ways
        more = ["--json"] if number % 2 else []
        here, there = pair.here(*words.split(), *more), pair.there(*words.split(), *more)
        if (here.code, _still(here.out), here.err) != (there.code, _still(there.out), there.err):
            different.append(f"{words}\n{here.code} {here.out}{here.err}---\n{there.code} {there.out}{there.err}")
    assert not different, "\n\n".join(different)


def _still(text: str) -> object:
    """An answer without what moves from one look to the next."""
    if text.startswith("{"):
        return _without(json.loads(text))
    return re.sub(r"\d+ ms  2|to +2.*|healthy .*", "", text)


def _without(document: object) -> object:
    if isinstance(document, list):
        return [_without(item) for item in document]
    if not isinstance(document, dict):
        return document
    return {key: _without(value) for key, value in document.items() if key not in ONE_SIDED | MOVING}


def test_a_daemon_elsewhere_is_acted_on_as_the_database_is(pair: Pair, dsn: str) -> None:
    def job() -> str:
        ran = pair.there("enqueue", "greet", "--args", '{"name": "ann"}', "--tag", "remote", "--json")
        assert "no daemon works" in ran.err
        return str(ran.json["id"])

    one, two = job(), job()
    assert pair.there("jobs", "edit", one, "--priority", "high", "--timeout", "90s").out == f"job {one}: priority, timeout changed\n"
    assert f"job {one} waits until" in pair.there("jobs", "snooze", one, "--in", "2h").out
    assert pair.there("jobs", "cancel", one).out == f"job {one}: cancelled\n"
    assert pair.there("jobs", "retry", one).out == f"job {one} is back in its queue\n"
    assert pair.there("jobs", "cancel", "--tag", "remote", "--state", "waiting", "--yes").out == "cancel: 2 jobs\n"
    assert pair.there("jobs", "again", two).out.startswith(f"job {two} runs again as job ")
    assert pair.there("jobs", "delete", two, "--yes").out == f"job {two}, which was cancelled, is deleted\n"
    assert pair.there("queues", "pause", "default").out == "default is paused\n"
    assert pair.there("queues", "resume", "default").out == "default is open\n"
    assert pair.there("schedules", "create", "nap", "--every", "1h", "--job", "greet").out == "nap is in service\n"
    assert pair.there("schedules", "edit", "nap", "--every", "2h").out == "nap is changed\n"
    assert pair.there("schedules", "edit", "nap", "--every", "2h").out == "nap is like that already\n"
    assert pair.there("schedules", "pause", "nap", "--for", "2h", "--reason", "tired").out.startswith("nap is paused until ")
    assert pair.there("schedules", "resume", "nap").out == "nap is on\n"
    assert pair.there("schedules", "resume", "nap").out == "nap is on already\n"
    assert pair.there("schedules", "skip-next", "nap").out.startswith("nap skips its slot of ")
    assert pair.there("schedules", "skip-next", "nap", "--undo").out == "nap skips nothing\n"
    assert pair.there("schedules", "trigger", "nap").out.startswith("job ")
    assert pair.there("schedules", "delete", "nap").out == "nap is deleted; its slots stay\n"
    run = pair.there("workflows", "start", "market", "--json").json["run"]
    assert pair.there("workflows", "cancel", run).out == f"run {run} is being cancelled\n"
    ask(dsn, promote_once)
    assert pair.there("workflows", "retry", run, "--json").json == {"run": run, "state": "running", "steps": ["fetch", "merge"]}
    assert pair.there("imports", "trigger", "readings").out.startswith("job ")
    assert "load 3 " in pair.there("loads", "retry", "3").out
    assert pair.there("loads", "skip", "1").out == "load 1 is skipped; the ones behind it go on\n"
    made = pair.there("token", "create", "mine", "--role", "operator", "--expires", "1h", "-q").out.strip()
    assert pair.there("queues", "pause", "default", token=made).code == 0
    refused = pair.there("nodes", "drain", "x", token=made)
    assert (refused.code, "operator" in refused.problem) == (77, True)
    assert "lets nobody in any more" in pair.there("token", "revoke", "mine").out
    assert pair.there("queues", "resume", "default", token=made).code == 77
    by = fetchval(dsn, "select array_agg(distinct actor || ' ' || via) from ingestd.audit where outcome = 'done' and actor like 'token:%'")
    assert sorted(by) == ["token:admin api", "token:mine api"]


def test_errors_are_the_command_lines_own(pair: Pair, free_port: int) -> None:
    assert pair.there("jobs", "cancel", "1", token="").code == 77
    assert pair.there("jobs", "list", token="not-the-right-token-at-all").code == 77
    final = pair.there("jobs", "cancel", pair.here("jobs", "list", "--state", "failed", "--json").json["items"][0]["id"])
    assert (final.code, "nothing to cancel" in final.problem) == (75, True)
    pair.url = f"http://127.0.0.1:{free_port}"
    silent = pair.there("jobs", "list")
    assert (silent.code, "no daemon answers at http://127.0.0.1" in silent.problem) == (69, True)
    assert pair.there("health").code == 3


def test_the_socket_of_a_daemon_and_any_request(pair: Pair) -> None:
    pair.url = f"unix:{pair.here.folder / 'admin.sock'}"
    assert "greet" in pair.there("kinds", "list").out
    found = json.loads(pair.there("api", "get", "jobs?limit=1&state=failed").out)
    assert len(found["items"]) == 1
    assert json.loads(pair.there("api", "POST", "queues/default/pause").out)["paused"] is True
    assert "ingestd_" in pair.there("api", "GET", "metrics").out
    wrong = pair.there("api", "GET", "jobs?stat=failed")
    assert (wrong.code, wrong.out, 'did you mean "state"' in wrong.problem) == (64, "", True)
    assert pair.there("api", "GET", "jobs/999", "--json").json["status"] == 404
    made = pair.there("api", "POST", "jobs", "--data", '{"kind": "greet"}', "--idempotency-key", "k1")
    assert pair.there("api", "POST", "jobs", "--data", '{"kind": "greet"}', "--idempotency-key", "k1").out == made.out
    assert json.loads(pair.here("api", "GET", "kinds").out) == json.loads(pair.there("api", "GET", "kinds").out)
