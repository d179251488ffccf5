"""What the forms of the job pages say, and what is done about it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import orjson

from ingestd.access.roles import Actor
from ingestd.admin.job_filter import read_filter, read_when
from ingestd.admin.shapes import MASK, check_storable
from ingestd.errors import InvalidInput
from ingestd.jobs import actions
from ingestd.jobs.bulk import Bulk, plan
from ingestd.jobs.changes import changes_of
from ingestd.jobs.filters import JobFilter
from ingestd.settings import parse_duration, parse_priority


async def act_on_job(conn: asyncpg.Connection, actor: Actor, job_id: int, form: Mapping[str, str]) -> str:
    """Do what a form on a job's page asks for.

    Returns:
        The address to show next.

    Raises:
        InvalidInput: it makes no sense.
    """
    here = f"/jobs/{job_id}"
    match form.get("action"):
        case "retry":
            await actions.retry_job(conn, actor, job_id, moment(form))
        case "cancel":
            await actions.cancel_job(conn, actor, job_id, force="force" in form)
        case "again":
            return f"/jobs/{await actions.run_again(conn, actor, job_id, moment(form))}"
        case "snooze":
            until = moment(form)
            if until is None:
                raise InvalidInput("say until when to snooze", pointer="/in")
            await actions.snooze_job(conn, actor, job_id, until)
        case "edit":
            changes = changes_from_form(form)
            if changes:
                await actions.edit_job(conn, actor, job_id, changes)
        case "delete":
            await actions.delete_job(conn, actor, job_id)
            return "/jobs"
        case other:
            raise InvalidInput(f'"{str(other)[:100]}" is not an action', pointer="/action")
    return here


def look_plan(action: str, which: JobFilter) -> Bulk:
    """A bulk for its preview, before anybody has said when or what."""
    how: dict[str, Any] = {}
    if action == "snooze":
        how["run_at"] = datetime.now(UTC)
    elif action == "edit":
        how["changes"] = {"notes": None}
    return plan(action, which, **how)


def fits(action: str, which: JobFilter) -> bool:
    """Whether an action can do anything to jobs of these states."""
    try:
        look_plan(action, which)
    except InvalidInput:
        return False
    return True


def bulk_from_form(form: Mapping[str, str]) -> tuple[Bulk, int | None]:
    """The bulk that a confirmed preview asks for, and how many jobs it showed."""
    action = form.get("action", "")
    # An edit's own queue and moment have other names here: those of the filter are in the form too.
    own = {name.removeprefix("new_"): value for name, value in form.items() if name not in ("queue", "run_at")}
    changes = changes_from_form(own) if action == "edit" else {}
    run_at = None if action == "edit" else moment(form)
    bulk = plan(action, read_filter(form), run_at=run_at, changes=changes, force="force" in form)
    expected = form.get("expected", "")
    return bulk, int(expected) if expected.isascii() and expected.isdigit() and len(expected) < 10 else None


def moment(form: Mapping[str, str]) -> datetime | None:
    """The moment that `run_at` or `in` of a form gives; a moment without an offset is UTC, as all on the page is.

    Raises:
        InvalidInput: it gives none, though it says something.
    """
    wait: timedelta | None = None
    run_at: datetime | None = None
    if text := form.get("in", "").strip():
        try:
            wait = parse_duration(text)
        except ValueError as error:
            raise InvalidInput(str(error), pointer="/in") from None
    if text := form.get("run_at", "").strip():
        run_at = _moment(text)
    return read_when(run_at, wait)


def _moment(text: str) -> datetime:
    try:
        given = datetime.fromisoformat(text)
        return (given if given.tzinfo else given.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidInput(f'"{text[:100]}" is not a moment such as 2027-01-31T08:00', pointer="/run_at") from None


def changes_from_form(form: Mapping[str, str]) -> dict[str, Any]:
    """What differs from what the form was filled with; of a bulk, where nothing is filled in, what is given.

    Raises:
        InvalidInput: a value makes no sense.
    """
    given: dict[str, Any] = {}
    for name, read in _READ.items():
        text = form.get(name, "").strip().replace("\r\n", "\n")
        if name in form and text != form.get(f"was_{name}", "").strip().replace("\r\n", "\n"):
            try:
                given[name] = read(text)
            except InvalidInput:
                raise
            except ValueError as error:
                raise InvalidInput(f"{name}: {error}", pointer=f"/{name}") from None
    return changes_of(**given)


def _args(text: str) -> Any:
    if MASK in text:
        raise InvalidInput("the arguments hold a secret that is not shown here: change them with `ingestd jobs edit`", pointer="/args")
    value = orjson.loads(text)
    check_storable(value, "/args")
    return value


def _timeout(text: str) -> timedelta | None:
    return parse_duration(text) if text else None


_READ: Mapping[str, Any] = {
    "args": _args,
    "priority": parse_priority,
    "queue": str,
    "run_at": _moment,
    "max_attempts": int,
    "timeout": _timeout,
    "hard_timeout": _timeout,
    "tags": lambda text: [tag.strip() for tag in text.split(",") if tag.strip()],
    "notes": lambda text: text or None,
}
