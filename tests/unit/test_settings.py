"""Reading a configuration: values, layers, places, and that every mistake is told at once."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from ingestd.app.settings import Settings, build, default_state_dir, load, warnings
from ingestd.errors import ConfigurationError, FileMissing, Refused
from ingestd.settings import (
    Layers,
    read_layers,
)
from ingestd.settings.layers import key_lines

IMPORT = {"source": "upload", "table": "t"}


def read(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> Settings:
    """The settings of one file."""
    file = tmp_path / "config.toml"
    file.write_text(text, encoding="utf-8")
    return load([file], environ or {})


def refusal(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> list[str]:
    """What is wrong with one file, without its folder."""
    with pytest.raises(ConfigurationError) as refused:
        read(tmp_path, text, environ)
    return [problem.replace(f"{tmp_path}/", "") for problem in refused.value.problems]


# layers


_TREES = st.recursive(
    st.integers() | st.booleans() | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=10,
)
_TABLES = st.dictionaries(st.sampled_from("abc"), _TREES, max_size=3)


def merged(below: Any, above: Any) -> Any:
    """What the rule says: tables merge, everything else replaces."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return {key: merged(below[key], above[key]) if key in below and key in above else {**below, **above}[key] for key in {**below, **above}}


def emptied(tree: Any) -> Any:
    """A deep copy."""
    return {key: emptied(value) for key, value in tree.items()} if isinstance(tree, dict) else tree


@hypothesis.settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_TABLES, _TABLES, _TABLES)
def test_layers_merge_deeply_and_later_ones_win(first: dict[str, Any], second: dict[str, Any], third: dict[str, Any]) -> None:
    layers = Layers()
    before = [emptied(tree) for tree in (first, second, third)]
    for number, tree in enumerate((first, second, third)):
        layers.merge(tree, f"layer {number}")
    assert layers.data == merged(merged(before[0], before[1]), before[2])
    assert [first, second, third] == before, "merging changed what was merged"


def test_a_later_file_wins_key_by_key_and_the_environment_over_both(tmp_path: Path) -> None:
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text('[admin]\nport = 1\nhost = "::1"\n[daemon]\nenvironment = "one"\n')
    two.write_text('[admin]\nport = 2\n[daemon]\nenvironment = "two"\n')
    settings = load([one, two], {"INGESTD_DAEMON__ENVIRONMENT": "three"})
    assert (settings.admin.port, settings.admin.host, settings.daemon.environment) == (2, "::1", "three")


def test_relative_paths_are_relative_to_the_file_they_stand_in(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    one, two = tmp_path / "one.toml", tmp_path / "conf.d" / "two.toml"
    one.write_text('[daemon]\nstate_dir = "state"\n[imports.a]\nsource = "in/*.csv"\ntable = "a"\n')
    two.write_text('[imports.b]\nsource = "in/*.csv"\ntable = "b"\nafter_load = "move:done"\n')
    settings = load([one, two], {})
    assert settings.daemon.state_dir == tmp_path / "state"
    assert settings.imports["a"].source == f"{tmp_path}/in/*.csv"
    assert settings.imports["b"].source == f"{tmp_path}/conf.d/in/*.csv"
    assert settings.imports["b"].move_to == tmp_path / "conf.d" / "done"


def test_a_relative_path_in_the_environment_is_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load([], {"INGESTD_DAEMON__STATE_DIR": "here"}).daemon.state_dir == tmp_path / "here"


def test_the_environment_reaches_nested_names_and_lists() -> None:
    settings = load(
        [],
        {
            "INGESTD_IMPORTS__READINGS__SOURCE": "upload",
            "INGESTD_IMPORTS__READINGS__TABLE": "t",
            "INGESTD_IMPORTS__READINGS__TAGS": "a, b",
            "INGESTD_IMPORTS__READINGS__NULL": '["", "NA"]',
            "INGESTD_IMPORTS__READINGS__COLUMNS": '{"kwh": "numeric"}',
            "INGESTD_IMPORTS__OTHER": '{"source": "upload", "table": "o"}',
            "INGESTD_WORKFLOWS__W__STEPS__ONE__IMPORT": "readings",
            "INGESTD_SCHEDULES__S__EVERY": "1h",
            "INGESTD_SCHEDULES__S__IMPORT": "readings",
            "INGESTD_SCHEDULES__S__END": "2990-12-31",
            "INGESTD_SCHEDULES__S__AFTER": '[{"workflow": "w", "on_failure": "wait"}]',
            "INGESTD_DAEMON__DUTIES": "work,serve",
            "INGESTD_CONFIG": "ignored here",
            "PATH": "/bin",
        },
    )
    assert settings.imports["readings"].tags == ["a", "b"]
    assert settings.imports["readings"].null == ["", "NA"]
    assert settings.imports["readings"].columns == {"kwh": "numeric"}
    assert settings.imports["other"].table == "public.o"
    assert settings.workflows["w"].steps["one"].target == ("import", "readings")
    assert settings.schedules["s"].end == date(2990, 12, 31)
    assert settings.schedules["s"].after[0].thing == ("workflow", "w")
    assert settings.daemon.duties == ["work", "serve"]


def test_the_environment_changes_one_key_of_an_import_in_a_file(tmp_path: Path) -> None:
    text = '[imports.readings]\nsource = "upload"\ntable = "t"\npoll = "9s"\n'
    settings = read(tmp_path, text, {"INGESTD_IMPORTS__READINGS__POLL": "off"})
    assert settings.imports["readings"].poll is None
    assert settings.imports["readings"].table == "public.t"


# secrets


def test_secrets_come_from_a_file_beside_the_configuration_the_environment_or_systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "url").write_text("postgresql://u:geheim@h/d\n")
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "token").write_text("sixteen-characters-of-it")
    monkeypatch.setenv("DIRECT", "postgresql://u:direct@h/d")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    settings = read(
        tmp_path, '[database]\nurl = { file = "url" }\ndirect_url = { env = "DIRECT" }\n[admin]\ntoken = { credential = "token" }\n'
    )
    assert settings.database.url.get_secret_value() == "postgresql://u:geheim@h/d"
    assert settings.database.direct_url.get_secret_value() == "postgresql://u:direct@h/d"
    assert settings.admin.token.get_secret_value() == "sixteen-characters-of-it"
    assert "geheim" not in repr(settings) + str(settings.model_dump())


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        ('{ file = "nowhere" }', "cannot read the secret from config/nowhere: No such file or directory"),
        ('{ file = "empty" }', "config/empty is empty"),
        ('{ file = "." }', "Is a directory"),
        ('{ file = "binary" }', "it is not UTF-8 text"),
        ("{ file = 3 }", "a secret is a string"),
        ('{ env = "NOT_SET_ANYWHERE" }', "environment variable NOT_SET_ANYWHERE is not set"),
        ('{ credential = "x" }', "$CREDENTIALS_DIRECTORY is not set"),
        ('{ path = "x" }', "a secret is a string"),
        ("{ }", "a secret is a string"),
    ],
)
def test_a_secret_that_cannot_be_had_is_refused_and_never_taken_for_none(
    tmp_path: Path, secret: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (problem,) = refusal(tmp_path, f"[database]\nurl = {secret}\n")
    assert problem.startswith('config.toml:2: "url" in [database]: ')
    assert said.replace("config/", f"{tmp_path}/") in problem or said.replace("config/", "") in problem


@pytest.mark.parametrize(
    "url",
    [
        "geheim",
        "mysql://u:geheim@h/d",
        "postgresql:geheim",
        "postgresql://u:ge@heim@h/d",
        "postgresql://u:ge/heim@h/d",
        "postgresql://u:ge#heim@h/d",
        "postgresql://u:ge?heim@h/d",
        "postgresql://u:geheim@h:99999/d",
        "postgresql://u:geheim@[::1/d",
        "host=h password=geheim",
    ],
)
def test_a_malformed_url_is_refused_without_showing_what_may_be_a_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load([], {"INGESTD_DATABASE__URL": url})
    (problem,) = refused.value.problems
    assert problem.startswith('INGESTD_DATABASE__URL: "url" in [database]: not a PostgreSQL URL: write postgresql://')
    assert "heim" not in problem


@pytest.mark.parametrize(
    "url",
    ["", "postgresql:///d", "postgres://u@h/d", "postgresql://u:p%40@h:1,i:2/d?target_session_attrs=any", "postgresql://u@/d?host=/run"],
)
def test_urls_of_servers_and_sockets_are_accepted(url: str) -> None:
    assert load([], {"INGESTD_DATABASE__URL": f" {url} "}).database.url.get_secret_value() == url


# mistakes


def test_five_different_mistakes_are_all_named_with_line_and_suggestion(tmp_path: Path) -> None:
    text = """\
[daemn]
environment = "x"
[imports.readings]
source = "inbox/*.csv"
table = "readings"
priorty = "high"
mode = "upsrt"
[schedules.nightly]
timezone = "Europe/Londn"
import = "redings"
[schedules.hourly]
every = "1h"
import = "redings"
[workflows.w.steps]
one = { import = "readings", after = ["tow"] }
two = { rollup = "nowhere" }
"""
    assert refusal(tmp_path, text) == [
        'config.toml:1: unknown section "daemn", did you mean "daemon"?',
        'config.toml:6: unknown key "priorty" in [imports.readings], did you mean "priority"?',
        'config.toml:7: "mode" in [imports.readings]: "upsrt" is not append, upsert or replace, did you mean "upsert"?',
        'config.toml:9: "timezone" in [schedules.nightly]: "Europe/Londn" is not a time zone, did you mean "Europe/London"?',
        'config.toml:13: "import" in [schedules.hourly]: there is no import "redings", did you mean "readings"?',
        'config.toml:15: "after" in [workflows.w.steps.one]: there is no step "tow", did you mean "two"?',
        'config.toml:16: "rollup" in [workflows.w.steps.two]: there is no rollup "nowhere"',
    ]


def test_an_object_with_a_mistake_of_its_own_is_still_known_to_those_that_name_it(tmp_path: Path) -> None:
    text = '[imports.a]\nsource = "upload"\n[schedules.s]\nevery = "1h"\nimport = "a"\n'
    assert refusal(tmp_path, text) == ['config.toml:1: missing key "table" in [imports.a]']


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("daemon = 3", "config.toml:1: [daemon]: must be a section with keys of its own"),
        ("[imports]\na = 3", "config.toml:2: [imports.a]: must be a section with keys of its own"),
        ("[[imports]]\nsource = 'upload'", "[imports]: must be a section with keys of its own"),
        ('[imports.A]\nsource = "upload"\ntable = "t"', 'config.toml:1: [imports.A]: "A" is not a name'),
        ("[admin]\nport = 99999", 'config.toml:2: "port" in [admin]: must be 65535 or less'),
        ('[admin]\nport = "http"', 'config.toml:2: "port" in [admin]: must be a whole number'),
        ('[logs]\nlevel = "INFO"', '"level" in [logs]: "INFO" is not debug, info, warning or error, did you mean "info"?'),
        (
            '[daemon]\nduties = ["work", "serv"]',
            '"duties" in [daemon]: entry 2: "serv" is not work, schedule or serve, did you mean "serve"?',
        ),
        ("[daemon]\nhandlers = [1]", '"handlers" in [daemon]: entry 1: must be a text in quotes'),
        ("[daemon]\nhandlers = 1", '"handlers" in [daemon]: must be a list'),
        ('[daemon]\nstate_dir = ""', '"state_dir" in [daemon]: a path must not be empty'),
        ('[daemon]\nstate_dir = "~nobody-of-that-name/x"', "there is no home folder"),
        ('[database]\nstart_timeout = "5s"', 'unknown key "start_timeout" in [database], it belongs in [daemon]'),
        ('[daemon]\nqueues = ["defualt"]', 'there is no queue "defualt", did you mean "default"?'),
        ("[database]\npool_max = 14\n[queues.imports]\nconcurrency = 9", "these queues need at least 31 connections"),
        ("[queues.default]\nconcurrency = -1", '"concurrency" in [queues.default]: must be 0 or more'),
        (
            '[schedules.s]\nevery = "1h"\njob = "x"\nafter = [{ import = "redings" }]\n[imports.readings]\nsource = "upload"\ntable = "t"',
            'config.toml:4: "after" in [schedules.s]: there is no import "redings", did you mean "readings"?',
        ),
        (
            '[schedules.s]\nevery = "1h"\njob = "x"\n[[schedules.s.after]]\nworkflow = "market"',
            '"after" in [schedules.s]: there is no workflow "market"',
        ),
        (
            '[schedules.s]\nevery = "1h"\njob = "x"\n[[schedules.s.after]]\njob = "y"\nok_withn = "1h"',
            '"after" in [schedules.s]: entry 1: unknown key "ok_withn", did you mean "ok_within"?',
        ),
        (
            '[schedules.s]\nevery = "1h"\nmatview = "m"',
            'config.toml:1: [schedules.s]: "matview" cannot be scheduled: this version refreshes no',
        ),
        ("[workflows.w]\nsteps = {}", "[workflows.w.steps]: must not be empty"),
        ("[workflows.w.steps]\na = {}", "[workflows.w.steps.a]: a step names nothing to run"),
        ('[workflows.w.steps]\na = { job = "x", rollup = "y" }', "a step names job and rollup"),
        ("a = [1,", "config.toml: not valid TOML"),
        ("[daemon]\nx = = 1", "config.toml:2: not valid TOML: Invalid value, column 5"),
        ("a = " + "[" * 5000, "not valid TOML: brackets are nested too deeply"),
    ],
)
def test_each_mistake_is_one_clear_line(tmp_path: Path, text: str, said: str) -> None:
    (problem,) = refusal(tmp_path, text)
    assert said in problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("INGESTD_ADMIN__PORTT", "1", 'unknown key "portt" in [admin], did you mean "port"?'),
        ("INGESTD_ADMIM__PORT", "1", 'unknown section "admim", did you mean "admin"?'),
        ("INGESTD_ADMIN__PORT", "many", '"port" in [admin]: must be a whole number'),
        ("INGESTD_ADMIN____PORT", "1", "not a key: write INGESTD_SECTION__KEY"),
        ("INGESTD_DAEMON__DUTIES", '["work"', '"duties" in [daemon]: not a JSON list'),
        ("INGESTD_IMPORTS__A", '{"source": ', "[imports.a]: not valid JSON"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(name: str, value: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load([], {name: value})
    (problem,) = refused.value.problems
    assert problem.startswith(f"{name}: ")
    assert said in problem


def test_a_file_that_is_not_there_or_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileMissing, match=r"there is no configuration file .*nowhere\.toml"):
        load([tmp_path / "nowhere.toml"], {})
    with pytest.raises(Refused, match="Is a directory"):
        load([tmp_path], {})
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(Refused, match="not UTF-8"):
        load([tmp_path / "binary.toml"], {})


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(b"\xef\xbb\xbf[admin]\nport = 7\n")
    assert load([tmp_path / "c.toml"], {}).admin.port == 7


def test_the_line_of_a_key_is_found_in_every_way_to_write_it() -> None:
    text = '# [no]\n[a.b]\nc = 1\n"d e" = 2\nf.g = 3\n\n[ "x-y" . z ]\nh = """\n[fake]\n"""\n'
    lines = key_lines(text)
    assert lines["a", "b", "c"] == 3
    assert lines["a", "b", "d e"] == 4
    assert lines["a", "b", "f", "g"] == 5
    assert lines["x-y", "z"] == 7
    assert lines["x-y", "z", "h"] == 8


def test_an_empty_configuration_is_valid_and_without_warnings() -> None:
    assert warnings(build(Layers()), {}) == []


def test_what_is_probably_not_meant_is_warned_of() -> None:
    environ = {
        "INGESTD_DAEMON_STATE_DIR": "/x",
        "INGESTD_IMPORTS__A__SOURCE": "in/*.csv",
        "INGESTD_IMPORTS__A__TABLE": "t",
        "INGESTD_IMPORTS__A__POLL": "off",
        "INGESTD_DAEMON__DRAIN_TIMEOUT": "2h",
        "INGESTD_QUEUES__DEFAULT__CONCURRENCY": "500",
    }
    found = "\n".join(warnings(load([], environ), environ))
    assert "INGESTD_DAEMON_STATE_DIR is not read: two underscores" in found
    assert '[imports.a] has poll = "off"' in found
    assert "drain_timeout is over an hour" in found
    assert "job slots share" in found


def test_the_state_folder_has_a_place_for_services_users_and_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/run/a:/run/b")
    assert default_state_dir() == Path("/run/a")
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_state_dir() == tmp_path / "ingestd"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_state_dir() == Path("/var/lib/ingestd")


@given(st.dictionaries(st.from_regex(r"INGESTD_[A-Z_]{0,12}__[A-Z_]{0,12}", fullmatch=True), st.text(max_size=12), max_size=3))
def test_no_environment_makes_the_reader_fall_over(environ: dict[str, str]) -> None:
    with suppress(ConfigurationError):
        build(read_layers([], environ))
