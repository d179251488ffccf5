"""docs/systemd.md says of each section whether a reload applies it, and names the keys that wait for a restart."""

from __future__ import annotations

import re
from pathlib import Path

from ingestd.app.configuration import HOT, HOT_KEYS, RESTART_ONLY
from ingestd.app.settings import Settings

DOCUMENT = (Path(__file__).parents[2] / "docs" / "systemd.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `\[(\w+)\]` \| (at once|after a restart).*? \| (.*) \|$", re.MULTILINE)


def test_every_section_is_either_hot_or_waits_for_a_restart() -> None:
    assert sorted((*HOT, *RESTART_ONLY)) == sorted(Settings.model_fields)


def test_the_table_of_hot_and_restart_only_keys_is_what_the_daemon_does() -> None:
    rows = {section: (when, keys) for section, when, keys in ROW.findall(DOCUMENT)}
    assert {section for section, (when, _) in rows.items() if when == "at once"} == set(HOT)
    waiting = {section: set(re.findall(r"`(\w+)`", keys)) for section, (when, keys) in rows.items() if when == "after a restart"}
    every = {section: set(Settings.model_fields[section].annotation.model_fields) for section in RESTART_ONLY}  # type: ignore[union-attr]
    assert waiting == {section: keys - set(HOT_KEYS.get(section, ())) for section, keys in every.items()}
