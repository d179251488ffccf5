"""What may be changed about a job that waits. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from ingestd.errors import InvalidInput
from ingestd.settings import did_you_mean

CHANGEABLE = ("args", "queue", "priority", "run_at", "max_attempts", "timeout", "hard_timeout", "tags", "notes")
MOST_ATTEMPTS = 32767
LONGEST = timedelta(days=365)


def changes_of(**given: Any) -> dict[str, Any]:
    """Changes as the queue stores them: moments as text, timeouts in seconds."""
    return {name: _stored(value) for name, value in given.items()}


def _stored(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return list(value) if isinstance(value, tuple) else value


def check_changes(changes: Mapping[str, Any]) -> None:
    """Refuse what the queue could not hold.

    Raises:
        InvalidInput: a name is not known, or a value makes no sense.
    """
    for name, value in changes.items():
        if name not in CHANGEABLE:
            raise InvalidInput(f'"{name[:100]}" cannot be changed{did_you_mean(name, CHANGEABLE)}', pointer=f"/{name}")
        if value is None and name not in ("timeout", "hard_timeout", "notes"):
            raise InvalidInput(f"{name} cannot be nothing", pointer=f"/{name}")
    tries = changes.get("max_attempts", 1)
    if not 1 <= tries <= MOST_ATTEMPTS:
        raise InvalidInput(f"max_attempts must be 1 to {MOST_ATTEMPTS}", pointer="/max_attempts")
    if not -100 <= changes.get("priority", 0) <= 100:
        raise InvalidInput("priority must be low, normal, high or -100..100", pointer="/priority")
    if not isinstance(changes.get("args", {}), Mapping):
        raise InvalidInput("args of a job must be a JSON object", pointer="/args")
    for name in ("timeout", "hard_timeout"):
        seconds = changes.get(name)
        if seconds is not None and not 0 < seconds <= LONGEST.total_seconds():
            raise InvalidInput(f"{name} must be more than 0 and at most {LONGEST.days} days", pointer=f"/{name}")
