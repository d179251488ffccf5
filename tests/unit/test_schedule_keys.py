"""Whatever is sent as a schedule is either refused in a line, or can be computed, kept and read back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestd.errors import InvalidInput
from ingestd.schedule.definitions import merge_patch, read_definition
from ingestd.schedule.settings import ScheduleSettings

NOW = datetime(2026, 6, 1, tzinfo=UTC)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
DURATIONS = st.sampled_from(["0s", "1s", "30s", "1m", "90m", "25h", "3660d", "3661d", "99999999w", "1ms", "-5s", "0.5s"])
MOMENTS = st.sampled_from(
    ["2026-01-01", "2030-12-31", "1970-01-01", "0001-01-01", "9999-12-31", "8999-12-31", "2026-03-29T02:30:00", "2026-01-01T00:00:00+23:59",
     "9999-12-31T23:59:59-12:00", "2026-W01-1", "2026-02-30", "now", ""]
)  # fmt: skip
ZONES = st.sampled_from(["UTC", "Pacific/Apia", "Asia/Kathmandu", "Etc/GMT+12", "Mars/Base", "", "../etc/passwd"])
NAMES = st.sampled_from(["x", "", "a" * 300, "with space", "ü", "x\0"])
LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "cron": st.sampled_from(["0 2 * * *", "@daily", "0 0 30 2 *", "* * * * *", "0 0 29 2 *", "61 * * * *", "@reboot"]),
    "every": DURATIONS, "at": MOMENTS, "start": MOMENTS, "end": MOMENTS, "timezone": ZONES, "jitter": DURATIONS,
    "start_within": DURATIONS, "finish_within": DURATIONS, "target_runtime": DURATIONS,
    "job": NAMES, "import": NAMES, "workflow": NAMES, "rollup": NAMES, "command": st.sampled_from(["cleanup", "health", "format"]),
    "after": st.lists(
        st.dictionaries(st.sampled_from(["job", "import", "workflow", "ok_within", "on_failure"]), NAMES | DURATIONS, max_size=3),
        max_size=2,
    ),
    "args": st.dictionaries(st.sampled_from(["days", "x"]), JSON, max_size=2), "priority": st.integers(-101, 101) | NAMES,
    "tags": st.lists(NAMES, max_size=3), "enabled": st.booleans(), "overlap": st.sampled_from(["skip", "queue", "allow", "never"]),
    "catch_up": st.sampled_from(["none", "latest", "all", 1]), "max_catch_up": st.integers(-1, 2000),
    "matview": NAMES, "backfill": NAMES, "unknown": NAMES,
}  # fmt: skip


@st.composite
def keys(draw: st.DrawFn) -> dict[str, Any]:
    """Keys that begin as a schedule and end as anything."""
    found: dict[str, Any] = {
        draw(st.sampled_from(["cron", "every", "at"])): None,
        draw(st.sampled_from(["job", "import", "command"])): None,
    }
    found |= dict.fromkeys(draw(st.lists(st.sampled_from(sorted(LIKELY)), max_size=4)))
    return {key: draw(LIKELY[key] if draw(st.integers(0, 9)) else JSON) for key in found}


def read(sent: dict[str, Any]) -> ScheduleSettings | None:
    """The schedule, or None where it is refused as it should be."""
    refusals: list[InvalidInput] = []
    try:
        return read_definition("mine", sent)
    except InvalidInput as refused:
        refusals.append(refused)
    assert "\n" not in refusals[0].message
    assert 0 < len(refusals[0].message) < 2200
    return None


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(keys())
def test_what_is_accepted_can_be_computed_kept_and_read_back(sent: dict[str, Any]) -> None:
    found = read(sent)
    if found is None:
        return
    assert found.target.name
    upcoming = found.parsed_rule().next_after(NOW)
    assert upcoming is None or upcoming > NOW
    list(found.oddities(NOW))
    for dependency in found.after:
        assert dependency.stored()["ok_within_s"] > 0
    kept = found.model_dump(mode="json", by_alias=True, exclude_none=True)
    if not any(isinstance(value, float) for value in found.args.values()):
        assert read_definition("mine", kept) == found
        assert read_definition("mine", merge_patch(kept, {"tags": ["more"]})).tags == ["more"]


@settings(max_examples=200, deadline=None)
@given(JSON, st.dictionaries(st.text(max_size=8), JSON, max_size=4))
def test_no_patch_makes_more_than_a_refusal(spec: Any, patch: dict[str, Any]) -> None:
    base = {"every": "1h", "job": "x"} | (spec if isinstance(spec, dict) else {})
    read(merge_patch(base, patch))
