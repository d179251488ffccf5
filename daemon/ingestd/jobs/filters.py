"""Which jobs somebody means: by what they are, where they stand, when they came and ended. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

from ingestd.errors import InvalidInput
from ingestd.jobs.model import FINAL, State
from ingestd.settings import did_you_mean

PARTIAL = "partial"
OPEN_STATES = tuple(str(state) for state in State if state not in FINAL)
FINAL_STATES = (*(str(state) for state in State if state in FINAL), PARTIAL)
STATES = (*OPEN_STATES, *FINAL_STATES)
# Words for several states at once.
GROUPS = {"waiting": tuple(name for name in OPEN_STATES if name != State.RUNNING), "open": OPEN_STATES, "final": FINAL_STATES[:-1]}
# All that is ever written as `triggered_by`, of jobs, loads, slots and runs: where it came from.
TRIGGERS = ("schedule", "api", "cli", "page", "sql", "workflow", "retry", "catch_up", "folder", "change")
MOST_IDS = 10_000
_MOMENTS = ("since", "until", "finished_since", "finished_until")


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs; what is not given means any, and everything given must hold.

    Args:
        states: states, `partial` among them; empty: any.
        workflow: jobs that are steps of runs of this workflow.
        error_class: class of the last error.
        error_group: what the dead-letter view calls one kind of failure.
        since: created at or after.
        until: created before.
        finished_since: final at or after.
        finished_until: final before.
        ids: these and no others.
        before_id: only ids below, for the next page.
    """

    states: tuple[str, ...] = ()
    kind: str | None = None
    queue: str | None = None
    tag: str | None = None
    triggered_by: str | None = None
    correlation_id: str | None = None
    workflow: str | None = None
    workflow_run: int | None = None
    parent_id: int | None = None
    error_class: str | None = None
    error_group: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    finished_since: datetime | None = None
    finished_until: datetime | None = None
    ids: tuple[int, ...] = ()
    before_id: int | None = None

    @property
    def empty(self) -> bool:
        """Whether it means every job there is."""
        return self == JobFilter()

    @property
    def open_states(self) -> tuple[str, ...]:
        """The open states it can match; empty: none."""
        if self.finished_since or self.finished_until or self.error_group:
            return ()
        return tuple(name for name in (self.states or STATES) if name in OPEN_STATES)

    @property
    def final_states(self) -> tuple[str, ...]:
        """The final states it can match; empty: none."""
        return tuple(name for name in (self.states or STATES) if name in FINAL_STATES)

    def within(self, states: Iterable[str]) -> JobFilter:
        """The same filter, of its states only those among `states`."""
        allowed = tuple(states)
        return replace(self, states=tuple(name for name in (self.states or STATES) if name in allowed))

    def as_json(self) -> dict[str, Any]:
        """What is given, as JSON values; the inverse of `filter_of`."""
        given: dict[str, Any] = {}
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if value not in (None, ()):
                given[name] = list(value) if isinstance(value, tuple) else value.isoformat() if isinstance(value, datetime) else value
        return given


def filter_of(given: Mapping[str, Any]) -> JobFilter:
    """Read what `as_json` wrote."""
    values = dict(given)
    for name in _MOMENTS:
        if name in values:
            values[name] = datetime.fromisoformat(values[name]).astimezone(UTC)
    return JobFilter(**values | {name: tuple(values.get(name, ())) for name in ("states", "ids")})


def read_states(given: str | Sequence[str] | None, pointer: str) -> tuple[str, ...]:
    """States as people write them: one, several with commas, or a word for several.

    Args:
        pointer: what the value is called where it was given.

    Raises:
        InvalidInput: one is not known.
    """
    words = [word.strip() for word in given.split(",")] if isinstance(given, str) else list(given or ())
    found: list[str] = []
    for word in filter(None, words):
        if word not in STATES and word not in GROUPS:
            raise _no_such_word(word, (*STATES, *GROUPS), pointer)
        found += GROUPS.get(word, (word,))
    return tuple(dict.fromkeys(found))


def check_trigger(given: str | None, pointer: str) -> None:
    """Refuse what nothing is ever triggered by; none or an empty one means any.

    Args:
        pointer: what the value is called where it was given.

    Raises:
        InvalidInput: it is no such word.
    """
    if given and given not in TRIGGERS:
        raise _no_such_word(given, TRIGGERS, pointer)


def _no_such_word(word: str, known: Sequence[str], pointer: str) -> InvalidInput:
    near = did_you_mean(word, known) or f"; one of: {', '.join(known)}"
    return InvalidInput(f'"{pointer.strip("/")}" cannot be "{word[:100]}"{near}', pointer=pointer)
