"""What the statements about runs have in common, whatever a run is: counting them by day, how long they took, one page of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from ingestd.jobs.records import BAD, GOOD, QUANTILES, Counted, DayCount, RunFilter, Spread, Streak, Window

NEWEST = 2**63 - 1
_RAN = ", ".join(f"'{state}'" for state in (*GOOD, *BAD))


def of(column: str, name: str, number: str, below: str = str(NEWEST)) -> str:
    """The condition that a row is of this name and not above a number, for a query ordered by the column and the number.

    Only the index of both gives that order. With `column = name` the order is that of numbers alone, and the planner may prefer the
    index of numbers, and read whatever else there is until it has met enough of this name.

    Args:
        below: the number, an expression of SQL.
    """
    return f"{column} >= {name} and ({column}, {number}) <= ({name}, {below}::bigint)"


def since(column: str, name: str, number: str, above: str) -> str:
    """The condition that a row is of this name and above a number, which the index of numbers alone cannot serve either."""
    return f"({column}, {number}) > ({name}, coalesce({above}, 0)) and ({column}, {number}) <= ({name}, {NEWEST})"


def by_day(runs: str) -> str:
    """Counts runs by day and state.

    Args:
        runs: a query for `at, state, n, ms` with $1 the name and $2 the moments at which days begin.
    """
    return f"""
select width_bucket(at, $2::timestamptz[]) - 1 as day, state, sum(n)::bigint as n, coalesce(sum(ms), 0)::bigint as ms
from ({runs}) runs group by 1, 2"""


def spread(runs: str) -> str:
    """How long the same runs took."""
    return f"""
select percentile_disc(array[{", ".join(map(str, QUANTILES))}]) within group (order by ms) as at,
       max(ms) as longest, avg(ms)::float8 as mean
from ({runs}) runs where ms is not null and state in ({_RAN})"""


async def count(
    conn: asyncpg.Connection, days: str, durations: str, name: str, within: Window, totals: Mapping[str, int] | None = None
) -> Counted:
    """Run both statements.

    Args:
        days: made by `by_day`.
        durations: made by `spread`.
    """
    starts = list(within.starts)
    counted = [DayCount(row["day"], row["state"], row["n"], row["ms"]) for row in await conn.fetch(days, name, starts)]
    row = await conn.fetchrow(durations, name, starts)
    if row["mean"] is None:
        return Counted(counted, Spread(), totals)
    half, most, nearly_all = row["at"]
    return Counted(counted, Spread(round(row["mean"], 1), half, most, nearly_all, row["longest"]), totals)


def streaks(rows: Sequence[asyncpg.Record]) -> dict[str, Streak]:
    """Rows of `name, failures, last_success_at, last_failure_at`, by name."""
    return {row["name"]: Streak(row["failures"], row["last_success_at"], row["last_failure_at"]) for row in rows}


class Page:
    """The conditions of one page, and the values they refer to: only what is given becomes a condition, so that each filter has a
    plan of its own.

    Args:
        name: becomes $1.
        limit: becomes $2.
    """

    def __init__(self, name: str, limit: int) -> None:
        self.values: list[Any] = [name, limit]
        self._parts: list[str] = []

    def add(self, condition: str, value: Any) -> None:
        """A condition with `{}` where the value belongs; None leaves it out."""
        if value is not None:
            self.values.append(value)
            self._parts.append(condition.format(f"${len(self.values)}"))

    def either(self, words: Mapping[str, str], which: RunFilter) -> None:
        """The states asked for.

        Args:
            words: state -> its condition; a state that is not among them matches nothing.
        """
        if which.states:
            self._parts.append(f"({' or '.join(words[state] for state in which.states if state in words) or 'false'})")

    def below(self, before: int | None) -> str:
        """The highest number of this page, for `of`."""
        if before is None:
            return str(NEWEST)
        self.values.append(before - 1)
        return f"${len(self.values)}"

    def __str__(self) -> str:
        return "".join(f" and {part}" for part in self._parts)
