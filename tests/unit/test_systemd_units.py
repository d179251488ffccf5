"""The units that are shipped: what they start is there, what they give time for fits, and both are closed alike."""

from __future__ import annotations

import shlex
from collections import defaultdict
from pathlib import Path

import pytest

from ingestd.app.service_status import CLOSING_S
from ingestd.app.settings import Settings
from ingestd.cli.entry import run
from ingestd.settings import parse_duration

FOLDER = Path(__file__).parents[2] / "systemd"
UNITS = ("ingestd.service", "ingestd@.service")


def service(unit: str) -> dict[str, list[str]]:
    """The keys of [Service], each with its values in order."""
    found: dict[str, list[str]] = defaultdict(list)
    section = ""
    for line in (FOLDER / unit).read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = line
        elif "=" in line and not line.startswith("#") and section == "[Service]":
            key, value = line.split("=", 1)
            found[key].append(value)
    return found


@pytest.mark.parametrize("unit", UNITS)
def test_what_a_unit_starts_is_a_command_that_is_there(unit: str, capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = service(unit)["ExecStart"]
    _, *words = shlex.split(command)
    assert run(["run", "--help"], {}) == 0
    known = capsys.readouterr().out + "--config"
    assert "run" in words
    assert [word for word in words if word.startswith("--") and word not in known] == []


@pytest.mark.parametrize("unit", UNITS)
def test_a_stop_gives_as_long_as_a_drain_takes_by_default(unit: str) -> None:
    assert int(service(unit)["TimeoutStopSec"][0]) >= Settings().drain_timeout_s + CLOSING_S


@pytest.mark.parametrize("unit", UNITS)
def test_errors_of_the_administrator_are_not_tried_again_and_those_of_the_moment_are(unit: str) -> None:
    codes = {int(code) for code in service(unit)["RestartPreventExitStatus"][0].split()}
    assert codes == {64, 66, 77, 78}


@pytest.mark.parametrize("unit", UNITS)
def test_the_watchdog_is_more_patient_than_a_beat_is_long_and_its_signal_shows_stacks(unit: str) -> None:
    there = service(unit)
    assert parse_duration(there["WatchdogSec"][0].replace("min", "m")).total_seconds() >= 60
    assert there["WatchdogSignal"] == ["SIGABRT"]
    assert there["Type"] == ["notify"], "notify-reload is unknown to systemd before 253, which then takes it for a simple service"


def test_proc_is_not_cut_down_to_processes_for_metrics_need_the_rest() -> None:
    assert [unit for unit in UNITS if "ProcSubset" in service(unit)] == []


def test_workers_are_closed_as_the_daemon_is_and_share_its_user_and_store() -> None:
    own = {"ExecStart", "RuntimeDirectory", "RuntimeDirectoryMode", "CacheDirectory", "LogsDirectory"}
    own |= {"ConfigurationDirectory", "ConfigurationDirectoryMode"}
    daemon, worker = (service(unit) for unit in UNITS)
    assert {key: value for key, value in daemon.items() if key not in own} == {key: v for key, v in worker.items() if key not in own}


def test_the_drop_in_turns_the_reload_into_one_that_is_waited_for() -> None:
    assert service("50-notify-reload.conf") == {"Type": ["notify-reload"], "ReloadSignal": ["SIGHUP"], "ExecReload": [""]}
