"""What is known about schedules and slots, worded for the page. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ingestd.admin.job_rows import Fact
from ingestd.admin.rows import OPEN
from ingestd.admin.words import arguments, compact, duration, number, tone
from ingestd.schedule.dependencies import Question
from ingestd.schedule.rules import Upcoming
from ingestd.schedule.words import rule_in_words
from ingestd.settings import parse_duration

STRIP = 30
# In the order of the legend: how a mark looks, and what that means.
LOOKS = {
    "succeeded": "succeeded",
    "partial": "partial: with rejects",
    "failed": "failed",
    "running": "running",
    "waiting": "waiting",
    "late": "late: the cap on any mark",
    "skipped": "skipped or cancelled",
    "missed": "missed: never ran",
}
_LOOK_OF = {"retrying": "waiting", "cancelled": "skipped"}
_OVERLAP = {
    "skip": "a slot is skipped while the last job is open",
    "queue": "jobs wait for one another",
    "allow": "jobs may run side by side",
}
_ON_FAILURE = {"skip": "else the slot is skipped", "run": "else it runs all the same", "wait": "else the slot waits for it"}
_JOBS_OF = {"job": "kind", "workflow": "workflow"}


def zone_of(name: str) -> ZoneInfo:
    """The time zone of that name; UTC where this machine does not know it any more."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return ZoneInfo("UTC")


def local(moment: datetime, zone: ZoneInfo, now: datetime) -> str:
    """A moment on a wall clock: `Mon 23 Nov 02:00`; seconds and the year only where they say something."""
    shown = moment.astimezone(zone)
    year = f" {shown.year}" if shown.year != now.astimezone(zone).year else ""
    return f"{shown:%a} {shown.day} {shown:%b}{year} {shown:%H:%M}" + (f":{shown:%S}" if shown.second else "")


def schedule_row(schedule: Mapping[str, Any], slots: Sequence[Mapping[str, Any]], now: datetime) -> dict[str, Any]:
    """One schedule of a list.

    Args:
        slots: its latest, newest first.
    """
    target, paused = schedule["target"], bool(schedule["paused"])
    last = slots[0] if slots else None
    return {
        "name": schedule["name"],
        "words": rule_in_words(schedule["rule"], schedule["timezone"]),
        "rule": str(schedule["rule"]).removeprefix("cron "),
        "zone": schedule["timezone"],
        "target": f"{target.get('type')} {target.get('name')}",
        "enabled": schedule["enabled"],
        "paused": paused,
        "next_at": schedule["next_due_at"] if schedule["enabled"] else None,
        "last_at": last["due_at"] if last else None,
        "last_word": slot_mark(last, now)["word"] if last else "",
        "trouble": compact(schedule["problem"], 200) if schedule["problem"] else "",
        "hold": hold_of(schedule, now),
        "skip": skip_of(schedule, now),
        "strip": strip_of(slots, now, schedule["timezone"]),
    }


def hold_of(schedule: Mapping[str, Any], now: datetime) -> dict[str, Any] | None:
    """Until when it is paused, by whom and why; None where it is not."""
    if not schedule["paused"]:
        return None
    until = schedule["paused_until"]
    return {
        "until": until,
        "until_text": local(until, zone_of(schedule["timezone"]), now) if until else "",
        "by": schedule["paused_by"],
        "reason": compact(schedule["pause_reason"], 200),
    }


def skip_of(schedule: Mapping[str, Any], now: datetime) -> dict[str, Any] | None:
    """Which slot will be passed over, who wants it and why; None where none will be."""
    if schedule["skip_at"] is None:
        return None
    return {
        "at": schedule["skip_at"],
        "at_text": local(schedule["skip_at"], zone_of(schedule["timezone"]), now),
        "by": schedule["skip_by"],
        "reason": compact(schedule["skip_reason"], 200),
    }


def strip_of(slots: Sequence[Mapping[str, Any]], now: datetime, timezone: str = "UTC") -> dict[str, Any]:
    """The strip of the latest slots, oldest first, with what it says in words.

    Args:
        slots: newest first.
    """
    marks = [slot_mark(slot, now, zone_of(timezone)) for slot in reversed(slots)]
    counted: dict[str, int] = {}
    for mark in marks:
        counted[mark["word"]] = counted.get(mark["word"], 0) + mark["slots"]
    told = [f"{number(count)} {word}" for word, count in counted.items()]
    late = sum(mark["late"] for mark in marks)
    if late:
        told.append(f"{late} of them late")
    shown = sum(counted.values())
    return {
        "marks": marks,
        "blanks": max(STRIP - len(marks), 0),
        "text": f"Last {number(shown)} slot{'s' if shown != 1 else ''}: {', '.join(told)}" if marks else "No slots yet",
    }


def slot_mark(slot: Mapping[str, Any], now: datetime, zone: ZoneInfo | None = None) -> dict[str, Any]:
    """One slot of a strip: what became of its job where it has one, else its own state."""
    word = outcome_of(slot)
    late = slot["state"] == "late" and word != "late"
    many = int(slot.get("slots") or 1)
    parts = [f"{number(many)} slots {word}" if many > 1 else word]
    if late:
        parts.append("late")
    if slot.get("job_duration_ms") is not None and word not in OPEN:
        parts.append(f"took {duration(slot['job_duration_ms'])}")
    if slot.get("slow_at") is not None:
        parts.append("slow")
    text = ", ".join(parts) + (f": {compact(slot['reason'], 300)}" if slot["reason"] else "")
    return {
        "due_at": slot["due_at"],
        "word": word,
        "look": _LOOK_OF.get(word, word if word in LOOKS else "fired"),
        "tone": {"waiting": "active", "running": "active"}.get(word) or tone(word),
        "late": late,
        "slots": many,
        "text": f"{local(slot['due_at'], zone or ZoneInfo('UTC'), now)}: {text}",
    }


def outcome_of(slot: Mapping[str, Any]) -> str:
    """What became of a slot, in one word."""
    state = str(slot["state"])
    if state not in ("fired", "late") or not slot["job_state"]:
        return state
    if slot["job_partial"]:
        return "partial"
    job = str(slot["job_state"])
    return "waiting" if job in OPEN - {"running", "retrying"} else job


def slot_row(slot: Mapping[str, Any], now: datetime, zone: ZoneInfo) -> dict[str, Any]:
    """One slot of the table."""
    mark = slot_mark(slot, now, zone)
    told = [compact(slot["reason"], 400)] if slot["reason"] else []
    if slot["overdue"]:
        told.append(_overdue(slot, now, zone))
    if slot["slow_at"] is not None:
        told.append("took longer than its target runtime" if slot["ended_at"] else "has run longer than its target runtime")
    since = slot["first_due_at"]
    lag = (slot["started_at"] - slot["due_at"]).total_seconds() * 1000 if slot["started_at"] else None
    return {
        "key": f"{slot['due_at'].astimezone(UTC):%Y%m%dT%H%M%S%f}",
        "due_at": slot["due_at"],
        "due_text": local(slot["due_at"], zone, now),
        "since_text": local(since, zone, now) if since is not None else "",
        "slots": mark["slots"],
        "pill": mark["word"],
        "late": mark["late"],
        "told": "; ".join(told),
        "by": "" if slot["triggered_by"] == "schedule" else str(slot["triggered_by"]).replace("_", "-"),
        "job_id": slot["job_id"],
        "lag_ms": max(lag, 0.0) if lag is not None else None,
        "duration_ms": slot["job_duration_ms"],
    }


def _overdue(slot: Mapping[str, Any], now: datetime, zone: ZoneInfo) -> str:
    start = slot["overdue"] == "start"
    limit: datetime | None = slot["start_by"] if start else slot["finish_by"]
    return f"had not {'started' if start else 'ended'}" + (f" by {local(limit, zone, now)}" if limit else " in time")


def next_rows(schedule: Mapping[str, Any], upcoming: Sequence[Upcoming], now: datetime) -> list[dict[str, Any]]:
    """The slots to come, with what the clock does around them and whether they will be passed over."""
    held, until = bool(schedule["paused"]), schedule["paused_until"]
    zone = zone_of(schedule["timezone"])
    rows = []
    for slot in upcoming:
        at = slot.at.astimezone(UTC)
        fate = ""
        if schedule["skip_at"] == at:
            fate = "skipped once"
        elif held and (until is None or at < until):
            fate = "paused"
        rows.append({"at": at, "text": local(at, zone, now), "offset": f"{at.astimezone(zone):%Z}", "note": slot.note or "", "fate": fate})
    return rows


def schedule_facts(schedule: Mapping[str, Any], now: datetime) -> list[Fact]:
    """Everything that is declared and has a value, in the order in which one asks for it."""
    zone = zone_of(schedule["timezone"])
    target = schedule["target"]
    word = _JOBS_OF.get(str(target.get("type")))
    facts = [
        Fact("Starts", f"{target.get('type')} {target.get('name')}", f"/jobs?{urlencode({word: target.get('name')})}" if word else ""),
        Fact("Arguments", arguments(schedule["args"])),
        Fact("Rule", schedule["rule"]),
        Fact("Time zone", schedule["timezone"]),
        Fact("First", local(schedule["start"], zone, now) if schedule["start"] else ""),
        Fact("Last", local(schedule["end"], zone, now) if schedule["end"] else ""),
        Fact("Jitter", f"up to {schedule['jitter']}" if schedule["jitter"] else ""),
        Fact("Start within", schedule["start_within"] or ""),
        Fact("Finish within", schedule["finish_within"] or ""),
        Fact("Target runtime", schedule["target_runtime"] or ""),
        Fact("Overlap", f"{schedule['overlap']}: {_OVERLAP[schedule['overlap']]}"),
        Fact("After downtime", _catch_up(schedule)),
        Fact("Queue", schedule["queue"]),
        Fact("Priority", str(schedule["priority"])),
        Fact("Tags", ", ".join(schedule["tags"])),
        Fact("Owner", "configuration file" if schedule["owner"] == "file" else "API: edited there or by ingestd schedules"),
        Fact("Since", moment=schedule["since"]),
    ]
    return [fact for fact in facts if fact.text or fact.moment is not None]


def _catch_up(schedule: Mapping[str, Any]) -> str:
    return {
        "none": "missed slots stay missed",
        "latest": "the latest missed slot is run",
        "all": f"up to {schedule['max_catch_up']} missed slots are run",
    }[schedule["catch_up"]]


def questions_of(schedule: Mapping[str, Any], now: datetime) -> list[Question]:
    """What has to be known about the dependencies of the next slot; of now where there is none."""
    due_at = schedule["next_due_at"] or now
    return [Question(*_thing(one), due_at - parse_duration(one["ok_within"])) for one in schedule["after"]]


def dependency_rows(schedule: Mapping[str, Any], met: Set[tuple[str, str]] | None) -> list[dict[str, str]]:
    """What must have succeeded before a slot runs.

    Args:
        met: types and names of those that have, for the next slot; None: nobody knows.
    """
    rows = []
    for one in schedule["after"]:
        kind, name = _thing(one)
        stands = "" if met is None else "met" if (kind, name) in met else "not yet met"
        otherwise = _ON_FAILURE.get(one["on_failure"], "")
        rows.append({"thing": f"{kind} {name}", "within": str(one["ok_within"]), "else": otherwise, "met": stands})
    return rows


def _thing(dependency: Mapping[str, Any]) -> tuple[str, str]:
    kind = next(word for word in ("import", "job", "workflow") if word in dependency)
    return kind, str(dependency[kind])


def downtime_rows(downtimes: Sequence[Mapping[str, Any]], now: datetime) -> list[dict[str, Any]]:
    """Times in which nothing fired slots."""
    rows = []
    for one in downtimes:
        lasted: timedelta = one["ended_at"] - one["began_at"]
        cost = [f"{number(one[word])} {word}" for word in ("missed", "late") if one[word]]
        told = (
            f"{', '.join(cost)} of {number(one['schedules'])} schedule{'s' if one['schedules'] != 1 else ''}" if cost else "no slot was due"
        )
        rows.append(
            {
                "began": local(one["began_at"], ZoneInfo("UTC"), now),
                "ended_at": one["ended_at"],
                "lasted": duration(lasted.total_seconds() * 1000),
                "told": told,
                "bad": bool(one["missed"]),
            }
        )
    return rows
