"""`migrate`, `psql`, and how databases that refuse are told."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator

import pytest

from ingestd.cli.database import client_environment
from ingestd.postgres.scratch import with_database
from tests.cli.kit import Cli, ask, fetchval


@pytest.fixture
def empty(cli: Cli, server_dsn: str) -> Iterator[str]:
    """URL of a database without our schema."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    ask(server_dsn, lambda conn: conn.execute(f"create database {name}"))
    url = with_database(server_dsn, name)
    cli.environ["INGESTD_DATABASE__URL"] = url
    yield url
    ask(server_dsn, lambda conn: conn.execute(f"drop database {name} with (force)"))


def test_migrate_shows_what_is_pending_without_doing_it_then_does_it_once(cli: Cli, empty: str) -> None:
    assert all(one["applied_at"] is None for one in cli("migrate", "--status", "--json").json)
    sql = cli("migrate", "--sql")
    assert sql.out.startswith("-- 0001_queue\n")
    assert fetchval(empty, "select to_regclass('ingestd.job')") is None
    ran = cli("migrate")
    assert ran.code == 0
    assert "now" in ran.out
    assert "now" not in cli("migrate").out
    assert all(one["applied_at"] for one in cli("migrate", "--json").json)
    assert cli("migrate", "--sql").out == "-- nothing to do\n"
    assert cli("migrate", "--sql", "--json").json == []


def test_the_sql_that_is_printed_is_the_whole_migration(cli: Cli, empty: str) -> None:
    sql = cli("migrate", "--sql").out
    ask(empty, lambda conn: conn.execute(sql))
    assert fetchval(empty, "select ingestd.enqueue('any')") > 0


def test_any_command_works_on_an_empty_database(cli: Cli, empty: str) -> None:
    assert cli("jobs", "list", "--json").json == {"items": [], "next_before": None}
    assert fetchval(empty, "select count(*) from ingestd.migration") > 0


def test_only_an_upgrade_upgrades(cli: Cli, empty: str) -> None:
    cli("migrate", "-q")
    last = fetchval(empty, "select max(version) from ingestd.migration")
    ask(
        empty,
        lambda conn: conn.execute(
            "delete from ingestd.migration where version = (select max(version) from ingestd.migration);"
            "update ingestd.migration set applied_at = now() - interval '1 hour'"
        ),
    )
    ran = cli("jobs", "list")
    assert ran.code == 78
    assert f"and lacks migration {last:04d}_" in ran.problem
    assert "`ingestd migrate`" in ran.problem
    assert fetchval(empty, "select max(version) from ingestd.migration") == last - 1


def test_a_role_that_was_granted_it_may_enqueue_from_sql_and_no_more(cli: Cli, dsn: str, server_dsn: str) -> None:
    role = f"role_{uuid.uuid4().hex[:12]}"
    ask(server_dsn, lambda conn: conn.execute(f"create role {role}"))
    try:
        assert cli("migrate", "--grant", role).code == 0
        enqueue = f"set role {role}; select ingestd.enqueue('any'); reset role"
        ask(dsn, lambda conn: conn.execute(enqueue))
        assert fetchval(dsn, f"select has_table_privilege('{role}', 'ingestd.job', 'select')") is False
    finally:
        ask(dsn, lambda conn: conn.execute(f"drop owned by {role}"))
        ask(server_dsn, lambda conn: conn.execute(f"drop role {role}"))


def test_a_grant_to_nobody_is_one_line(cli: Cli) -> None:
    ran = cli("migrate", "--grant", 'x"; drop schema ingestd; --')
    assert ran.code == 64
    assert "there is no role" in ran.problem


def test_a_role_without_rights_is_told_what_it_lacks(cli: Cli, empty: str, server_dsn: str) -> None:
    role = f"role_{uuid.uuid4().hex[:12]}"
    ask(server_dsn, lambda conn: conn.execute(f"create role {role} login"))
    try:
        separator = "&" if "?" in empty else "?"
        cli.environ["INGESTD_DATABASE__URL"] = f"{empty}{separator}options=-c%20role%3D{role}"
        ran = cli("jobs", "list")
        assert ran.code == 77
        assert "Postgres refuses: permission denied" in ran.problem
        assert "ingestd needs a role that owns the schemas" in ran.problem
    finally:
        ask(server_dsn, lambda conn: conn.execute(f"drop role {role}"))


def test_a_database_or_role_that_is_not_there_is_refused(cli: Cli, server_dsn: str) -> None:
    cli.environ["INGESTD_DATABASE__URL"] = with_database(server_dsn, "nowhere")
    ran = cli("jobs", "list")
    assert ran.code == 77
    assert 'database "nowhere" does not exist' in ran.problem


def test_a_setting_that_postgres_does_not_know_is_refused(cli: Cli, dsn: str) -> None:
    cli.environ["INGESTD_DATABASE__URL"] = f"{dsn}{'&' if '?' in dsn else '?'}no_such_setting=1"
    ran = cli("jobs", "list")
    assert ran.code == 77
    assert 'unrecognized configuration parameter "no_such_setting"' in ran.problem


def test_psql_reaches_the_database_by_url_and_its_options_are_its_own(cli: Cli, dsn: str) -> None:
    ran = cli.process("psql", "-qAt", "-c", "select current_database(), 1", "-v", "x=1")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"{dsn.partition('?')[0].rpartition('/')[2]}|1\n"
    assert cli.process("psql", "-c", "select 1/0").code == 1


def test_psql_prints_the_url_on_request(cli: Cli, dsn: str) -> None:
    assert cli("psql", "--url").out == f"{dsn}\n"
    assert cli("--json", "psql", "--url").json == {"url": dsn}


def test_psql_takes_a_script_from_its_input(cli: Cli) -> None:
    ran = cli.process("psql", "-qAt", input="select 41 + 1;", stdin=None)
    assert ran.out == "42\n"


@pytest.mark.parametrize(
    ("url", "environment"),
    [
        ("postgresql://u:p%40%2F@h:1/d", {"PGUSER": "u", "PGPASSWORD": "p@/", "PGHOST": "h", "PGPORT": "1", "PGDATABASE": "d"}),
        ("postgresql://u@/d?host=/run/x&port=5", {"PGUSER": "u", "PGDATABASE": "d", "PGHOST": "/run/x", "PGPORT": "5"}),
        (
            "postgresql://h1:1,h2:2/d?target_session_attrs=any",
            {"PGHOST": "h1,h2", "PGPORT": "1,2", "PGDATABASE": "d", "PGTARGETSESSIONATTRS": "any"},
        ),
        ("postgresql://[::1]:7/d?sslmode=require", {"PGHOST": "::1", "PGPORT": "7", "PGDATABASE": "d", "PGSSLMODE": "require"}),
        ("postgresql:///d?search_path=a b&options=-c jit=off", {"PGDATABASE": "d", "PGOPTIONS": "-c jit=off -c search_path=a\\ b"}),
        ("postgresql://h/d", {"PGHOST": "h", "PGDATABASE": "d"}),
    ],
)
def test_a_url_becomes_what_libpq_reads(url: str, environment: dict[str, str]) -> None:
    assert client_environment(url) == environment


def test_psql_that_is_not_there_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingestd.cli.database.shutil.which", lambda _: None)
    monkeypatch.setattr("ingestd.postgres.binaries.importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr("ingestd.postgres.binaries.shutil.which", lambda _: None)
    ran = cli("psql")
    assert ran.code == 77
    assert "psql is not there" in ran.problem


def test_the_password_is_in_no_command_line(cli: Cli, dsn: str) -> None:
    ran = cli.process("psql", "-qAt", "-c", "\\! tr '\\\\0' ' ' < /proc/$PPID/cmdline")
    assert "postgresql://" not in ran.out
    assert json.dumps(dsn) not in ran.out
