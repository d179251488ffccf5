"""What the forms of the schedule pages say, and what is done about it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import asyncpg

from ingestd.access.roles import Actor
from ingestd.errors import InvalidInput
from ingestd.schedule import actions
from ingestd.settings import parse_duration

MOST_WORDS = 1000


async def act_on_schedule(conn: asyncpg.Connection, actor: Actor, name: str, form: Mapping[str, str]) -> str:
    """Do what a form asks for.

    Returns:
        What was done, in words.

    Raises:
        InvalidInput: it makes no sense.
    """
    reason = _reason(form)
    match form.get("action"):
        case "trigger":
            return f"Schedule {name} started job {await actions.trigger(conn, actor, name, reason)}."
        case "pause":
            changed = await actions.pause(conn, actor, name, reason, until=_until(form), lasting=_lasting(form))
            return f"Schedule {name} is paused." if changed else f"Schedule {name} was paused like that already."
        case "resume":
            changed = await actions.resume(conn, actor, name)
            return f"Schedule {name} goes on." if changed else f"Schedule {name} was not paused."
        case "skip":
            due_at = await actions.skip_next(conn, actor, name, reason)
            return f"The slot of {due_at:%Y-%m-%d %H:%M} UTC will be skipped."
        case "unskip":
            changed = await actions.unskip(conn, actor, name)
            return f"Schedule {name} skips no slot." if changed else f"Schedule {name} was to skip no slot."
        case other:
            raise InvalidInput(f'"{str(other)[:100]}" is not an action', pointer="/action")


def _reason(form: Mapping[str, str]) -> str | None:
    text = form.get("reason", "").strip()
    if len(text) > MOST_WORDS:
        raise InvalidInput(f"a reason has {MOST_WORDS} characters at most", pointer="/reason")
    return text or None


def _until(form: Mapping[str, str]) -> datetime | None:
    """Without an offset: the wall clock of the schedule's time zone, as the room reads it."""
    text = form.get("until", "").strip()
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        raise InvalidInput(f'"{text[:100]}" is not a moment such as 2027-01-31T08:00', pointer="/until") from None


def _lasting(form: Mapping[str, str]) -> timedelta | None:
    text = form.get("for", "").strip()
    try:
        return parse_duration(text) if text else None
    except ValueError as error:
        raise InvalidInput(str(error), pointer="/for") from None
