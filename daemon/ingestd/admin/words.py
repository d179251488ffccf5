"""How numbers, moments and values read on the page."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson

from ingestd.admin.shapes import masked

NONE = "\u2013"
_STEPS = ((60, "s"), (3600, "m"), (86400, "h"))
_TONES = {
    "running": "active",
    "building": "active",
    "scheduled": "calm",
    "blocked": "calm",
    "available": "calm",
    "pending": "calm",
    "waiting": "calm",
    "retrying": "warn",
    "compensating": "warn",
    "partial": "warn",
    "late": "warn",
    "degraded": "warn",
    "dirty": "warn",
    "draining": "warn",
    "succeeded": "good",
    "fired": "good",
    "healthy": "good",
    "current": "good",
    "failed": "bad",
    "missed": "bad",
    "critical": "bad",
    "dead": "bad",
    "paused": "quiet",
    "disabled": "quiet",
    "skipped": "quiet",
    "cancelled": "quiet",
}


def number(value: float | Decimal | None) -> str:
    """A number with thousands separators, at most two decimals."""
    if value is None:
        return NONE
    if isinstance(value, int) or value == int(value):
        return f"{int(value):,}"
    return f"{value:,.2f}"


def short_number(value: float | None) -> str:
    """A number for a tight place: 1,234 in full, then 12.3k, 4.56M."""
    if value is None:
        return NONE
    if abs(value) < 1e4:
        return number(value)
    scaled = float(value)
    for unit in "kMGT":
        scaled /= 1000
        if abs(scaled) < 999.5:
            return f"{scaled:.3g}{unit}"
    return f"{scaled:.0f}T"


def size(value: float | None) -> str:
    """A number of bytes in binary units."""
    if value is None:
        return NONE
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def duration(milliseconds: float | None) -> str:
    """How long something took."""
    if milliseconds is None:
        return NONE
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, secs = divmod(rest, 60)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} m" if hours else f"{minutes} m {secs} s"


def age(seconds: float | None) -> str:
    """A span in one unit: 8 s, 5 m, 3 h, 2 d."""
    if seconds is None:
        return NONE
    seconds = max(seconds, 0)
    below = 1
    for limit, unit in _STEPS:
        if seconds < limit:
            return f"{int(seconds // below)} {unit}"
        below = limit
    return f"{int(seconds // 86400)} d"


def ago(moment: datetime | None, now: datetime) -> str:
    """A moment as seen from now: `just now`, `5 m ago`, `in 40 s`."""
    if moment is None:
        return "never"
    seconds = (now - moment).total_seconds()
    if seconds <= -1:
        return f"in {age(-seconds)}"
    return "just now" if seconds < 2 else f"{age(seconds)} ago"


def iso(moment: datetime | None) -> str:
    """A moment for `<time datetime>`."""
    if moment is None:
        return ""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def full(moment: datetime | None) -> str:
    """A moment in full, for a tooltip."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if moment else ""


def compact(value: Any, limit: int = 160) -> str:
    """A JSON value on one line, secrets masked, cut where it gets long."""
    if value in (None, {}, [], ""):
        return ""
    text = value if isinstance(value, str) else orjson.dumps(masked(value), default=str).decode()
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def pretty(value: Any, limit: int = 20_000) -> str:
    """A JSON value over several lines, secrets masked, cut where nobody reads on."""
    text = value if isinstance(value, str) else orjson.dumps(masked(value), default=str, option=orjson.OPT_INDENT_2).decode()
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def arguments(args: Mapping[str, Any] | None, limit: int = 160) -> str:
    """A job's arguments as `name=value` pairs, secrets masked."""
    pairs = []
    for name, value in masked(args or {}).items():
        pairs.append(f"{name}={value if isinstance(value, str) else compact(value) or orjson.dumps(value, default=str).decode()}")
    return compact(", ".join(pairs), limit)


def fault(error: Any) -> str:
    """An attempt's error in one line."""
    if not error:
        return ""
    if isinstance(error, dict):
        kind, message = error.get("class"), error.get("message")
        text = ": ".join(str(part) for part in (kind, message) if part) or compact(error)
    else:
        text = str(error)
    return compact(" ".join(str(masked(text)).split()), 240)


def tone(state: str) -> str:
    """Which of the page's tones a state has: good, warn, bad, active, calm or quiet."""
    return _TONES.get(state, "quiet")
