"""Schedules that people make while the daemon runs: created, edited and deleted by API and command line, in the words of the file."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import asyncpg

from ingestd.access.roles import Actor
from ingestd.access.store import record_audit
from ingestd.errors import ConfigurationError, Conflict, InvalidInput, NotFound
from ingestd.schedule.declare import CompiledTarget, compose, fault, same_rule, settle
from ingestd.schedule.settings import RULES, TARGETS, ScheduleSettings, ScheduleTarget
from ingestd.schedule.store import declared as store
from ingestd.schedule.store import firing
from ingestd.schedule.store.firing import RecordedSlot
from ingestd.settings import Layers, Name, Section, did_you_mean, validate

OWNER = "api"
MOST_PROBLEMS = 5
MOST_WORDS = 400
MOST_NESTED = 100
# There are half as many keys; each unknown one is compared with all of them.
MOST_KEYS = 50
CompileTarget = Callable[[asyncpg.Connection, ScheduleTarget], Awaitable[CompiledTarget]]
CheckNames = Callable[[asyncpg.Connection, str, ScheduleSettings], Awaitable[Sequence[str]]]
Tell = Callable[[Sequence[RecordedSlot]], None]
_ORIGIN = "definition"
_OF_ITS_OWN: Mapping[Any, str] = {bool: "true or false", int: "a whole number"}
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_KEY_OF_PROBLEM = re.compile(r'^(?:unknown key )?"(\w+)" in \[')


class Definitions:
    """The schedules that belong to nobody's file.

    Args:
        compile_target: turns a target into a job.
        check_names: what is named that nobody knows, one line each.
        tell: handed the slots that an edited or deleted schedule still owed, once they are rows.
    """

    def __init__(self, compile_target: CompileTarget, check_names: CheckNames, tell: Tell = lambda _: None) -> None:
        self._compile = compile_target
        self._check = check_names
        self._tell = tell

    async def create(self, conn: asyncpg.Connection, actor: Actor, name: str, keys: Mapping[str, Any]) -> None:
        """Put a new schedule in service; it has no slots before now.

        Args:
            keys: as in `[schedules.NAME]` of a configuration file.

        Raises:
            InvalidInput: a key, value or name does not fit; in the words that the file would be refused with.
            Conflict: there is one of that name.
        """
        settings = read_definition(name, keys)
        async with conn.transaction():
            await store.lock(conn)
            old = await store.hold(conn, name)
            if old is not None and old["removed_at"] is None:
                raise Conflict(f'there is a schedule "{name}" already', current_state="declared", hint=f"it {_how_to_change(old)}")
            await self._write(conn, name, settings, old)
            if settings.enabled:
                await _refuse_if_over(conn, name)
            await record_audit(conn, actor, "create", "schedule", name, _told(settings))

    async def edit(self, conn: asyncpg.Connection, actor: Actor, name: str, keys: Mapping[str, Any]) -> bool:
        """Change keys of a schedule; what its old rule still owed is settled first.

        Args:
            keys: a JSON merge patch: what is not named stays, null takes a key away. Another rule or target takes the place of
                the one there is.

        Returns:
            False if that changed nothing.

        Raises:
            NotFound: there is none of that name.
            Conflict: it belongs to the configuration file.
            InvalidInput: as for `create`.
        """
        async with conn.transaction():
            old = await self._hold_own(conn, name)
            settings = read_definition(name, merge_patch(old["spec"], keys))
            changed, settled = await self._write(conn, name, settings, old)
            # `end` may bring one to its end at once; a single moment that is over is a slip.
            if settings.at is not None and settings.enabled and not (old["enabled"] and same_rule(old, settings)):
                await _refuse_if_over(conn, name)
            if changed:
                await record_audit(conn, actor, "edit", "schedule", name, {"keys": sorted(keys), "now": _told(settings)})
        self._tell(settled)
        return changed

    async def delete(self, conn: asyncpg.Connection, actor: Actor, name: str, reason: str | None = None) -> None:
        """Take a schedule out of service; its slots stay, and those due at this moment are missed.

        Args:
            reason: kept in the audit log.

        Raises:
            NotFound: there is none of that name.
            Conflict: it belongs to the configuration file.
        """
        async with conn.transaction():
            old = await self._hold_own(conn, name)
            settled, _ = await settle(conn, {name: old}, {}, OWNER)
            await store.remove(conn, [name])
            await store.tell_changed(conn)
            await record_audit(conn, actor, "delete", "schedule", name, {"reason": reason})
        self._tell(settled)

    async def _hold_own(self, conn: asyncpg.Connection, name: str) -> asyncpg.Record:
        # The lock first, as a configuration that is applied takes it: it may be about to take this schedule over.
        await store.lock(conn)
        old = await store.hold(conn, name)
        if old is None or old["removed_at"] is not None:
            raise NotFound(f'there is no schedule "{name}"{did_you_mean(name, await store.names(conn))}')
        if old["owner"] != OWNER:
            raise Conflict(f'schedule "{name}" {_how_to_change(old)}', current_state="owned by the file")
        return old

    async def _write(
        self, conn: asyncpg.Connection, name: str, settings: ScheduleSettings, old: asyncpg.Record | None
    ) -> tuple[bool, Sequence[RecordedSlot]]:
        problems = await self._check(conn, name, settings)
        if problems:
            raise _refusal(problems)
        job = await self._compile(conn, settings.target)
        queues = await store.queue_ids(conn)
        problem = fault(job, settings, queues)
        if problem is not None:
            raise InvalidInput(f"[schedules.{name}]: {problem}")
        settled, accounted = await settle(conn, {} if old is None else {name: old}, {name: settings}, OWNER)
        row = compose(name, settings, job, queues, old, await firing.now(conn), accounted, OWNER)
        changed = bool(await store.save(conn, [row]))
        if changed:
            await store.tell_changed(conn)
        return changed, settled


async def _refuse_if_over(conn: asyncpg.Connection, name: str) -> None:
    if await store.is_over(conn, name):
        raise InvalidInput(f"[schedules.{name}]: it has no slot to come: its time is over")


class _Root(Section):
    schedules: dict[Name, ScheduleSettings]


def read_definition(name: str, keys: Mapping[str, Any]) -> ScheduleSettings:
    """Check a schedule written as in the configuration file.

    Raises:
        InvalidInput: with the words that the file would be refused with.
    """
    if len(keys) > MOST_KEYS:
        raise InvalidInput(f"a schedule has at most {MOST_KEYS} keys, this one has {len(keys)}")
    _check_text([name, keys])
    _check_types(name, keys)
    layers = Layers()
    layers.merge({"schedules": {name: keys}}, _ORIGIN)
    try:
        return validate(_Root, layers).schedules[name]
    except ConfigurationError as error:
        raise _refusal([problem.removeprefix(f"{_ORIGIN}: ") for problem in error.problems]) from None


def merge_patch(spec: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """A schedule's keys with a merge patch (RFC 7396) laid over them; of several rules or targets the patch's one stays."""
    merged = _merged(spec, patch)
    for choice in (RULES, TARGETS):
        if any(patch.get(key) is not None for key in choice):
            merged = {key: value for key, value in merged.items() if key not in choice or key in patch}
    return merged


def _merged(old: Any, patch: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(old) if isinstance(old, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value) if isinstance(value, Mapping) else value
    return merged


def _refusal(problems: Sequence[str]) -> InvalidInput:
    more = f"; and {len(problems) - MOST_PROBLEMS} more" if len(problems) > MOST_PROBLEMS else ""
    key = _KEY_OF_PROBLEM.match(problems[0])
    return InvalidInput("; ".join(_short(problem) for problem in problems[:MOST_PROBLEMS]) + more, pointer=f"/{key[1]}" if key else None)


def _short(problem: str) -> str:
    """A problem in a line. It may quote what was sent: its beginning says where, its end what to do."""
    half = MOST_WORDS // 2
    told = problem if len(problem) <= MOST_WORDS else f"{problem[:half]} … {problem[-half:]}"
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in told)


def _check_text(value: Any, depth: int = 0) -> None:
    """Refuse what Postgres cannot store as text."""
    if depth > MOST_NESTED:
        raise InvalidInput("a schedule cannot hold values nested so deeply")
    if isinstance(value, str):
        if _NO_TEXT.search(value):
            raise InvalidInput("a schedule cannot hold zero bytes or halves of characters")
    elif isinstance(value, Mapping):
        _check_text([*value.keys(), *value.values()], depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_text(item, depth + 1)


def _check_types(name: str, keys: Mapping[str, Any]) -> None:
    """Refuse what is true or false where it must not be, and what is not where it must."""
    # A configuration is also read from the environment, where all is text: there "no" is false. JSON has a false of its own.
    types = {key: field.annotation for key, field in ScheduleSettings.model_fields.items()}
    problems = [
        f'"{key}" in [schedules.{name}]: must be {_OF_ITS_OWN[type_]}'
        for key, value in keys.items()
        if (type_ := types.get(key)) in _OF_ITS_OWN and (type_ is bool) != isinstance(value, bool)
    ]
    if problems:
        raise _refusal(problems)


def _how_to_change(row: asyncpg.Record) -> str:
    if row["owner"] == OWNER:
        return "can be edited, or deleted first"
    return "is declared in the configuration file: change it there and reload"


def _told(settings: ScheduleSettings) -> dict[str, Any]:
    """What the audit log keeps of a schedule: not its arguments, which may hold what nobody should read there."""
    told = settings.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    if "args" in told:
        told["args"] = sorted(told["args"])
    return told
