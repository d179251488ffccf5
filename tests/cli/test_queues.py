"""`queues`, `nodes`, and the options of `run` that choose what a node does."""

from __future__ import annotations

import uuid

import pytest

from tests.cli.kit import Cli, ask, fetchval
from tests.jobs.limit_lab import register


@pytest.fixture(autouse=True)
def declared(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two kinds of jobs in a folder."""
    monkeypatch.chdir(cli.folder)
    cli.configure('[daemon]\nhandlers = ["myjobs"]\n')


def add_node(dsn: str, name: str) -> uuid.UUID:
    found: uuid.UUID = ask(dsn, lambda conn: register(conn, name=name))
    return found


def test_queues_are_listed_with_depth_limits_and_what_is_left(cli: Cli, dsn: str) -> None:
    cli("migrate")
    ask(dsn, lambda conn: conn.execute("update ingestd.queue set rate_count = 5, rate_period = '1m', global_concurrency = 2 where id = 2"))
    ask(dsn, lambda conn: conn.fetch("select ingestd.enqueue('k', '{}', '{\"queue\": \"imports\"}') from generate_series(1, 3)"))
    found = {queue["name"]: queue for queue in cli("queues", "list", "--json").json["items"]}
    assert set(found) == {"default", "imports", "rollups", "maintenance", "alerts"}
    assert {"rate": "5/1m", "global_concurrency": 2, "depth": 3, "running": 0, "paused": False}.items() <= found["imports"].items()
    assert found["imports"]["left"] == {"running": 2, "starts": 5, "wait_seconds": 0}
    assert found["default"]["left"] is None
    assert "2 at once, 5/1m" in cli("queues", "list").out


def test_a_queue_is_paused_and_resumed_with_who_did_it(cli: Cli, dsn: str) -> None:
    assert cli("queues", "pause", "default").out == "default is paused\n"
    assert "paused by" in cli("queues", "list").out
    assert cli("queues", "resume", "default", "--json").json == {"name": "default", "state": "open"}
    assert fetchval(dsn, "select string_agg(action, ' ' order by id) from ingestd.audit where object_id = 'default'") == "pause resume"
    assert 'there is no queue "defalt", did you mean "default"?' in cli("queues", "pause", "defalt").problem


def test_a_node_is_asked_to_drain_once_by_whatever_names_it(cli: Cli, dsn: str) -> None:
    cli("migrate")
    node = add_node(dsn, "here:1")
    assert cli("nodes", "drain", str(node)[:8]).out == "node here:1 is asked to drain and end\n"
    assert cli("nodes", "drain", "here:1").out == "node here:1 was asked before\n"
    assert fetchval(dsn, "select count(*) from ingestd.audit where action = 'drain' and object_id = $1", str(node)) == 1
    assert "asked to drain by" in cli("nodes", "list").out
    (shown,) = cli("nodes", "list", "--json").json["items"]
    assert shown["drain_asked_by"]


def test_a_node_that_has_ended_shows_no_slots_at_work(cli: Cli, dsn: str) -> None:
    cli("migrate")
    node = add_node(dsn, "here:1")
    ask(
        dsn,
        lambda conn: conn.execute("update ingestd.node set lanes = $1", {"default": {"running": 3, "slots": 4, "reason": "for a test"}}),
    )
    alive = cli("nodes", "list").out
    ask(dsn, lambda conn: conn.execute("update ingestd.node set state = 'dead', ended_at = now() where id = $1", node))
    dead = cli("nodes", "list").out
    assert [(shown in alive, shown in dead) for shown in ("default 3/4", "for a test")] == [(True, False)] * 2


def test_a_node_that_cannot_be_meant_is_refused_with_a_reason(cli: Cli, dsn: str) -> None:
    cli("migrate")
    node = add_node(dsn, "here:1")
    add_node(dsn, "twice:1")
    add_node(dsn, "twice:1")
    ask(dsn, lambda conn: conn.execute("update ingestd.node set state = 'dead', ended_at = now() where id = $1", node))
    unknown, dead, twice = cli("nodes", "drain", "twic:1"), cli("nodes", "drain", "here:1"), cli("nodes", "drain", "twice:1")
    assert (unknown.code, dead.code, twice.code) == (66, 75, 75)
    assert 'did you mean "twice:1"?' in unknown.problem
    assert "node here:1 is dead" in dead.problem
    assert "may be one of 2 nodes" in twice.problem
    assert fetchval(dsn, "select count(*) from ingestd.node where drain_asked_at is not null") == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--queues", "defalt"], 78, '--queues: there is no queue "defalt", did you mean "default"?'),
        (["--duties", "wrk"], 78, '--duties: entry 1: "wrk" is not work, schedule or serve, did you mean "work"?'),
        (["--queues", ","], 64, "--queues names nothing"),
        (["--duties", ""], 64, "--duties names nothing"),
        (["--duties", "serve", "--queues", "default"], 64, "with these --duties it runs none"),
    ],
)
def test_what_a_node_is_told_to_do_must_make_sense(cli: Cli, words: list[str], code: int, said: str) -> None:
    refused = cli("run", *words)
    assert refused.code == code
    assert said in refused.problem
