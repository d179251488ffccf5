"""What is said to whoever asks for help or gets it wrong; no command here needs a database."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import typer

from ingestd import __version__
from ingestd.cli.entry import COMMANDS, build
from tests.cli.kit import Cli

GROUPS = ("jobs", "imports", "loads", "rollups", "schedules", "workflows", "token")


@pytest.mark.parametrize("words", [[], ["-v"], ["--json"], *[[group] for group in GROUPS]])
def test_a_command_without_its_verb_shows_the_help_and_is_a_usage_error(bare: Cli, words: list[str]) -> None:
    ran = bare(*words)
    assert ran.code == 64
    assert ran.out == ""
    assert ran.err.startswith("Usage: ingestd")


@pytest.mark.parametrize("words", [["-h"], ["--help"], *[[command, "--help"] for command in COMMANDS]])
def test_help_is_an_answer(bare: Cli, words: list[str]) -> None:
    ran = bare(*words)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("Usage: ingestd")
    assert all(len(line) <= 80 for line in ran.out.splitlines())
    assert "..." not in ran.out.replace("[ARGS]...", ""), "a line of the help was cut off"


def test_the_overview_says_of_each_command_what_its_own_help_says(bare: Cli) -> None:
    for name, command in COMMANDS.items():
        click = typer.main.get_command(build(name, {}))
        own = click.commands[name]  # type: ignore[attr-defined]
        assert own.get_short_help_str(limit=200) == command.line


def test_every_command_group_and_verb_says_what_it_is_for() -> None:
    app = typer.Typer()
    for module in {command.module for command in COMMANDS.values()}:
        importlib.import_module(f"ingestd.cli.{module}").add_to(app)
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    verbs = [verb for group in GROUPS for verb in commands[group].commands.values()]
    assert all(one.help for one in [*commands.values(), *verbs])


def test_the_version_is_printed(bare: Cli) -> None:
    assert bare("--version").out == f"{__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["jbos"], 'there is no command "jbos", did you mean "jobs"?'),
        (["jobs", "lst"], 'there is no command "lst", did you mean "list"?'),
        (["run", "--confg", "c.toml"], 'there is no option --confg, did you mean "--config"?'),
        (["schedules", "create", "x", "--disabld"], 'there is no option --disabld, did you mean "--disabled"?'),
        (["jobs", "list", "--limt", "3"], 'there is no option --limt, did you mean "--limit'),
        (["jobs", "list", "--limit", "0"], "--limit: must be at least 1"),
        (["jobs", "list", "--limit", "many"], "--limit: must be a whole number"),
        (["jobs", "list", "--state", "suceeded"], 'did you mean "succeeded"?'),
        (["jobs", "list", "more"], 'too many arguments: "more"'),
        (["jobs", "show"], "JOB_ID is missing\n  Usage: ingestd jobs show [OPTIONS] JOB_ID"),
        (["jobs", "show", "abc"], "JOB_ID: must be a whole number"),
        (["jobs", "show", "0"], "JOB_ID: must be at least 1"),
        (["jobs", "cancel", "99999999999999999999"], "JOB_ID: must be at most 9223372036854775807"),
        (["loads", "list", "--status", "lost"], '--status: "lost" is none of pending'),
        (["import", "readings"], "FILE is missing"),
        (["enqueue", "greet", '{"a": 1}'], "with --args\n  ingestd enqueue greet --args '{\"a\": 1}'\n"),
        (["enqueue", "greet", "a=1", "b=it's"], """--args '{"a": 1, "b": "it'"'"'s"}'"""),
        (["enqueue", "my job", "{a:", "1}"], """ingestd enqueue 'my job' --args '{"supplier": "acme"}'"""),
        (["enqueue", "greet", "--args", "x"], "--args is not JSON"),
        (["enqueue", "greet", "--args", "[]"], "--args must be a JSON object"),
        (["enqueue", "greet", "--args", '{"x": NaN}'], "NaN is not a JSON value"),
        (["enqueue", "greet", "--args", '{"x": "\\ud800"}'], "--args holds half a character"),
        (["enqueue", "greet", "--args", "[" * 100_000], "--args is nested too deeply"),
        (["enqueue", "greet", "--priority", "101"], '--priority: "101" is not a priority'),
        (["enqueue", "greet", "--run-at", "soon"], '--run-at: "soon" is neither an ISO time'),
        (["enqueue", "greet", "--run-at", "9" * 30 + "d"], "is neither an ISO time"),
        (["enqueue", "greet", "--run-at", "0001-01-01T00:00+14:00"], "is neither an ISO time"),
        (["import", "readings", "f", "--metadata", "[1]"], "--metadata must be a JSON object"),
        (["migrate", "--status", "--sql"], "--status and --sql exclude each other"),
        (["check", "--config"], "--config needs a FILE"),
        (["check", "--config", ""], "--config needs a FILE"),
        (["--config", "--json", "check"], "--config needs a FILE"),
        (["jobs", "list", "--kind", "\udcff"], "is not UTF-8 text"),
    ],
)
def test_a_wrong_word_is_named_in_one_line(bare: Cli, words: list[str], said: str) -> None:
    ran = bare(*words)
    assert said in ran.problem
    assert (ran.code, ran.out) == (64, "")


def test_global_options_may_stand_anywhere(bare: Cli, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[admin]\nport = 1\n")
    for words in (["--config", f"{tmp_path}/c.toml", "--json", "check"], ["check", "--json", f"--config={tmp_path}/c.toml"]):
        assert bare(*words).json == {"ok": True, "problems": [], "warnings": []}


def test_a_configuration_file_may_be_named_like_a_command(bare: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").write_text("")
    assert bare("--config", "jobs", "check").code == 0


def test_data_cannot_move_the_cursor_or_colour_a_complaint(bare: Cli) -> None:
    assert "\x1b" not in bare("enqueue", "greet", "--priority", "\x1b[31m\u202e").problem


# check


def test_check_tells_every_mistake_with_its_place(bare: Cli) -> None:
    bare.configure('[admn]\n[daemon]\ndrain_timeout = "soon"\nstat_dir = "x"\n[logs]\nlevel = "loud"\n[imports.a]\nsource = "upload"\n')
    ran = bare("check")
    assert (ran.code, ran.out) == (78, "")
    lines = ran.err.splitlines()
    assert [line.split(": ")[1].rpartition(":")[2] for line in lines] == ["1", "3", "4", "6", "7"]
    assert all(line.startswith(f"ingestd: {bare.folder}/config.toml:") for line in lines)
    told = bare("check", "--json")
    assert told.code == 78
    assert told.json["ok"] is False
    assert [f"ingestd: {problem}" for problem in told.json["problems"]] == lines


def test_run_refuses_a_configuration_with_mistakes_as_check_does(bare: Cli) -> None:
    bare.configure("[admn]\n")
    assert (bare("run").code, bare("run").err) == (78, bare("check").err)


def test_check_warns_of_what_is_probably_not_meant_and_passes(bare: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bare.folder)
    bare.configure('[daemon]\nhandlers = ["myjobs"]\n[schedules.s]\nevery = "1h"\njob = "gret"\n')
    try:
        ran = bare("check", "--json")
    finally:
        sys.modules.pop("myjobs", None)
    assert ran.code == 0
    (warning,) = ran.json["warnings"]
    assert warning == '"job" in [schedules.s]: none of [daemon] handlers declares the kind "gret", did you mean "greet"?'
    assert f"ingestd: warning: {warning}" in ran.err


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise RuntimeError('on import')", 'cannot import "broken": RuntimeError: on import'),
        ("x = 1", 'module "broken" declares no @job function'),
        ("from ingestd import job\n@job('Bad Name')\ndef f(ctx): ...", '"Bad Name" is not a name'),
        ("from ingestd import job\n@job('x')\ndef f(): ...", "a handler takes the context first"),
        ("from ingestd import job\n@job('x')\ndef add(a: int, b: int): ...", "takes the context first: def add(ctx, a, …), at {folder}/"),
        ("from ingestd import job\n@job('x')\ndef f(ctx): ...\n@job('y', aliases=['x'])\ndef g(ctx): ...", 'two handlers for kind "x"'),
        ("import sys\nsys.exit(3)", 'cannot import "broken": SystemExit: 3, at {folder}/broken.py:2'),
        ("x = 1\nimport requsets", "cannot import \"broken\": ModuleNotFoundError: No module named 'requsets', at {folder}/broken.py:2"),
        ("import json\njson.loads('{')", "property name enclosed in double quotes: line 1 column 2 (char 1), at {folder}/broken.py:2"),
        ("def f(:\n    ...", 'cannot import "broken": SyntaxError: invalid syntax, at {folder}/broken.py:1'),
    ],
)
def test_check_names_a_handler_module_that_cannot_be_used(bare: Cli, code: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bare.folder)
    (bare.folder / "broken.py").write_text(code)
    bare.environ["INGESTD_DAEMON__HANDLERS"] = "broken"
    try:
        ran = bare("check")
    finally:
        sys.modules.pop("broken", None)
    assert ran.code == 78
    assert '"handlers" in [daemon]: ' in ran.problem
    assert said.replace("{folder}", str(bare.folder)) in ran.problem


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("myjbos", 'cannot import "myjbos": there is no module "myjbos", did you mean "myjobs"?'),
        ("pckage_of_mine.jobs", 'there is no module "pckage_of_mine", did you mean "package_of_mine"?'),
        ("package_of_mine.jbos", 'there is no module "package_of_mine.jbos", did you mean "jobs"?'),
        ("package_of_mine/jobs.py", '"package_of_mine/jobs.py" is not the name of a module: write "package_of_mine.jobs"'),
        ("./myjobs.py", '"./myjobs.py" is not the name of a module: write "myjobs"'),
        ("package_of_mine.jobs.py", '"package_of_mine.jobs.py" is not the name of a module: write "package_of_mine.jobs"'),
        ("package_of_mine.jobs:greet", '"package_of_mine.jobs:greet" is not the name of a module: write "package_of_mine.jobs"'),
        ("package_of_mine.jobs.greet", '"package_of_mine.jobs" is a file, and has no module "greet" in it: write "package_of_mine.jobs"'),
        (".package_of_mine", '".package_of_mine" is not the name of a module: write "package_of_mine"'),
        ("", '"" is not the name of a module: write one such as "myapp.jobs"'),
        ("far-away", 'there is no module "far-away"; looked in {folder} and what is installed for '),
        ("nothing_like_it", 'there is no module "nothing_like_it"; looked in {folder} and what is installed for '),
    ],
)
def test_a_handler_module_that_is_not_there_is_told_with_what_was_meant(
    bare: Cli, name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bare.folder)
    bare.configure("")
    (bare.folder / "package_of_mine").mkdir()
    (bare.folder / "package_of_mine" / "jobs.py").touch()
    bare.environ["INGESTD_DAEMON__HANDLERS"] = json.dumps([name])
    ran = bare("check")
    assert ran.code == 78
    assert said.replace("{folder}", str(bare.folder)) in ran.problem


def test_handler_modules_are_found_beside_the_configuration_wherever_the_command_is_given(
    bare: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    (bare.folder / "beside.py").write_text("from ingestd import job\n@job('beside')\ndef f(ctx): ...\n")
    bare.configure('[daemon]\nhandlers = ["beside"]\n')
    try:
        ran = bare("check")
    finally:
        sys.modules.pop("beside", None)
    assert (ran.code, ran.out) == (0, "configuration is valid\n"), ran.err


def test_a_missing_and_an_unreadable_configuration_have_their_exit_codes(bare: Cli) -> None:
    missing, folder = bare("check", "--config", "/nowhere/c.toml"), bare("check", "--config", str(bare.folder))
    assert (missing.code, folder.code) == (66, 77)
    assert missing.problem == "ingestd: there is no configuration file /nowhere/c.toml\n"
    assert folder.problem == f"ingestd: cannot read {bare.folder}: Is a directory\n"


def test_the_variable_INGESTD_CONFIG_names_the_files(bare: Cli) -> None:  # noqa: N802
    bare.environ["INGESTD_CONFIG"] = "/nowhere/a.toml"
    assert "/nowhere/a.toml" in bare("check").problem


# what needs no database, and what it says without one


def test_the_slots_of_a_declared_schedule_are_told_without_a_database(bare: Cli) -> None:
    bare.configure('[schedules.n]\ncron = "30 1 * * *"\ntimezone = "Europe/London"\ncommand = "cleanup"\n')
    ran = bare("schedules", "next", "n", "--count", "2", "--from", "2027-03-27T12:00", "--json")
    assert [slot["at"] for slot in ran.json] == ["2027-03-28T02:00:00+01:00", "2027-03-29T01:30:00+01:00"]
    assert ran.json[0]["note"]
    assert bare("schedules", "next", "n", "--from", "soon").code == 64
    assert bare("schedules", "next", "n", "--from", "9999-12-31T23:59").code in (0, 64)


@pytest.mark.parametrize(
    "words", [["jobs", "list"], ["import", "a", "f"], ["migrate"], ["psql", "-c", "select 1"], ["run"], ["rollups", "list", "--json"]]
)
def test_an_unreachable_database_is_one_line(bare: Cli, words: list[str]) -> None:
    ran = bare(*words)
    assert (ran.code, ran.out) == (69, "")
    assert "Postgres is not reachable at" in ran.problem
    assert "No such file or directory (waited 0 s)\n  is it running, and is [database] url right?" in ran.problem


def test_health_without_a_daemon_is_unreachable(bare: Cli) -> None:
    ran = bare("health", "--json")
    assert ran.code == 3
    assert ran.json["status"] == "unreachable"
    assert "no daemon is running with the state folder" in ran.problem
