"""Whether what a slot depends on has succeeded. Where successes are stored is others' business: they are asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

import asyncpg

from ingestd.settings import format_duration

Decision = Literal["run", "skip", "wait"]


class Question(NamedTuple):
    """Has this succeeded, in whole or in part, later than that?

    Args:
        type: import, job or workflow.
    """

    type: str
    name: str
    since: datetime


# Which of the questions are answered with yes.
Successes = Callable[[asyncpg.Connection, Collection[Question]], Awaitable[Set[Question]]]
# Looked up in milliseconds; a history that takes longer must not keep slots from being fired.
LOOK_UP_S = 5.0
NOT_LOOKED_UP = (TimeoutError, asyncpg.PostgresError)


@dataclass(frozen=True, slots=True)
class Dependency:
    """Something that must have succeeded before a slot runs.

    Args:
        ok_within: its success may be so much older than the slot.
        on_failure: what becomes of the slot without one.
    """

    type: str
    name: str
    ok_within: timedelta
    on_failure: Decision

    def question(self, due_at: datetime) -> Question:
        """What has to be known for the slot of that time."""
        return Question(self.type, self.name, due_at - self.ok_within)


class Verdict(NamedTuple):
    """What becomes of a slot, and why if that is not as it should be."""

    decision: Decision
    reason: str | None = None


def read_dependencies(stored: Sequence[Any]) -> tuple[Dependency, ...]:
    """Dependencies as the database keeps them.

    Raises:
        ValueError: somebody has written there what are none.
    """
    try:
        return tuple(
            Dependency(one["type"], one["name"], timedelta(seconds=one["ok_within_s"]), one.get("on_failure", "skip")) for one in stored
        )
    except (TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(f"its dependencies cannot be read: {type(error).__name__}: {error}") from None


def questions(dependencies: Sequence[Dependency], due_at: datetime) -> set[Question]:
    """What has to be known about a slot's dependencies."""
    return {dependency.question(due_at) for dependency in dependencies}


async def ask(conn: asyncpg.Connection, successes: Successes, asked: Collection[Question]) -> Set[Question]:
    """Which of the questions are answered with yes.

    Raises:
        TimeoutError: that took too long.
        asyncpg.PostgresError: it cannot be looked up.
    """
    if not asked:
        return frozenset()
    async with asyncio.timeout(LOOK_UP_S):
        return await successes(conn, asked)


def judge(dependencies: Sequence[Dependency], due_at: datetime, succeeded: Set[Question]) -> Verdict:
    """Decide about a slot: one dependency that skips it outweighs those it would wait for, and these the others.

    Args:
        succeeded: the questions answered with yes.
    """
    lacking = [dependency for dependency in dependencies if dependency.question(due_at) not in succeeded]
    if not lacking:
        return Verdict("run")
    skips = [dependency for dependency in lacking if dependency.on_failure == "skip"]
    if skips:
        return Verdict("skip", f"no success of {_named(skips)}")
    waits = [dependency for dependency in lacking if dependency.on_failure == "wait"]
    if waits:
        return Verdict("wait", f"waits for a success of {_named(waits)}")
    return Verdict("run", f"ran without a success of {_named(lacking)}")


def looked_at_later(dependencies: Sequence[Dependency]) -> Verdict:
    """For a slot recorded by somebody who cannot ask for successes: the next pass of the scheduler decides."""
    return Verdict("wait", f"waits for a success of {_named(dependencies)}")


def waited_for(dependencies: Sequence[Dependency]) -> str:
    """Why a slot that waited is late, in words."""
    waits = [dependency for dependency in dependencies if dependency.on_failure == "wait"]
    return f"waited for a success of {_named(waits)}" if waits else "waited"


def _named(dependencies: Sequence[Dependency]) -> str:
    return " and ".join(f"{one.type} {one.name} within {format_duration(one.ok_within)}" for one in dependencies)
