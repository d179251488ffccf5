"""`token` and `audit`."""

from __future__ import annotations

import pytest

from ingestd.access import tokens
from tests.cli.kit import Cli, fetchval


@pytest.fixture(autouse=True)
def declared(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty configuration."""
    monkeypatch.chdir(cli.folder)
    cli.configure("")


def test_a_token_is_shown_once_and_only_its_hash_is_kept(cli: Cli, dsn: str) -> None:
    made = cli("token", "create", "grafana", "--scope", "metrics,health", "--scope", "jobs:read", "--expires", "2d")
    text = made.out.strip()
    assert tokens.parse(text).role == "viewer"
    assert 'token "grafana" (viewer) is valid until' in made.err
    assert "from now on acting over HTTP takes a token" in made.err
    listed = cli("token", "list")
    assert text not in listed.out
    assert tokens.parse(text).prefix in listed.out
    assert "health, jobs:read, metrics" in listed.out
    assert fetchval(dsn, "select count(*) from ingestd.token t where strpos(t::text, $1) > 0", text[12:40]) == 0
    (row,) = cli("token", "list", "--json").json["items"]
    assert {
        "name": "grafana",
        "role": "viewer",
        "state": "in force",
        "last_used_at": None,
        "scopes": ["health", "jobs:read", "metrics"],
    }.items() <= row.items()
    assert row["created_by"]
    assert "from now on" not in cli("token", "create", "second", "--expires", "never").err


@pytest.mark.parametrize("how", ["name", "id", "begins", "token"])
def test_a_token_is_revoked_by_whatever_names_it(cli: Cli, how: str) -> None:
    made = cli("token", "create", "ci", "--role", "operator", "--json").json
    assert cli("token", "revoke", made[how]).out.startswith("token ci (igd_operator_")
    assert "no token is in force" in cli("token", "list").out
    assert "revoked by" in cli("token", "list", "--all").out
    again = cli("token", "revoke", made["id"])
    assert again.code == 75
    assert "was revoked before" in again.problem
    assert [row["action"] for row in cli("audit", "--on", "token", "--json").json["items"]] == ["revoke", "create"]


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        (["create", "x y"], '"x y" is not a name for a token', 64),
        (["create", "admin"], "choose another name", 64),
        (["create", "ci", "--role", "amdin"], 'did you mean "admin"?', 64),
        (["create", "ci", "--scope", "job"], 'there is no area "job", did you mean "jobs"?', 64),
        (["create", "ci", "--scope", ""], "a scope is empty", 64),
        (["create", "ci", "--scope", "jobs:write"], 'write "jobs", or "jobs:read"', 64),
        (["create", "ci", "--expires", "soon"], "or write never", 64),
        (["create", "ci", "--expires", "1s"], "expires after 1m to", 64),
        (["revoke", "grafna"], 'there is no token "grafna", did you mean "grafana"?', 66),
    ],
)
def test_what_is_wrong_with_a_token_is_said_in_one_line(cli: Cli, words: list[str], said: str, code: int) -> None:
    cli("token", "create", "grafana")
    ran = cli("token", *words)
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.problem


def test_a_name_is_free_again_once_its_token_is_revoked(cli: Cli) -> None:
    cli("token", "create", "ci")
    assert 'a token "ci" is in force' in cli("token", "create", "ci").problem
    cli("token", "revoke", "ci")
    assert cli("token", "create", "ci").code == 0


def test_the_audit_log_is_searched(cli: Cli) -> None:
    cli("token", "create", "ci")
    cli("queues", "pause", "default")
    assert "pause" in cli("audit", "--since", "1h").out
    assert [row["object_id"] for row in cli("audit", "--on", "queue:default", "--json").json["items"]] == ["default"]
    assert cli("audit", "--denied").out == "nothing of the kind\n"
    assert cli("audit", "--since", "yesterday").code == 64
