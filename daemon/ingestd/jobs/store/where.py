"""The conditions of a job filter, for the open jobs (`j`) and for history (`h`). Pure.

Only what is given becomes a condition: a statement that also covers what is not given has one plan for all filters, and that
plan reads all of history.
"""

from __future__ import annotations

import re
from typing import Any

from ingestd.jobs.filters import FINAL_STATES, OPEN_STATES, PARTIAL, JobFilter
from ingestd.jobs.model import State

STATE = """case when j.claim is not null then 'running' when j.parked <> 0 then 'blocked'
    when j.run_at > now() then case when j.attempt > 0 then 'retrying' else 'scheduled' end else 'available' end"""
# Failures that differ only in numbers, ids and quoted values are of one group.
ERROR_TEXT = r"""left(regexp_replace(regexp_replace(coalesce(h.error ->> 'message', h.reason, ''), '''[^'']*''|"[^"]*"', '…', 'g'),
    '\w*\d[\w.:-]*', '#', 'g'), 300)"""
ERROR_GROUP = f"left(md5(concat_ws(chr(31), h.kind, coalesce(h.error ->> 'class', ''), {ERROR_TEXT})), 12)"
_OPEN_ERROR = "j.attempts -> -1 -> 'error' ->> 'class'"
_OWN_CORRELATION = re.compile(r"job-([1-9][0-9]{0,17})")


class Where:
    """One arm's conditions, and the values they refer to.

    Args:
        values: parameters of the statement so far; the conditions' own are appended.
    """

    def __init__(self, values: list[Any]) -> None:
        self.values = values
        self.parts: list[str] = []

    def add(self, condition: str, *values: Any) -> None:
        """A condition with `{}` where its values belong; a value of None leaves it out."""
        if any(value is None for value in values):
            return
        self.values += values
        first = len(self.values) - len(values) + 1
        self.parts.append(condition.format(*(f"${first + number}" for number in range(len(values)))))

    def __str__(self) -> str:
        return " and ".join(self.parts) or "true"


def open_where(which: JobFilter, values: list[Any]) -> str | None:
    """The conditions on `ingestd.job j`, or None where no open job can match."""
    states = which.open_states
    if not states:
        return None
    where = _common(which, values, "j")
    if len(states) < len(OPEN_STATES):
        if states == (State.RUNNING,):
            where.add("j.claim is not null")
        elif State.RUNNING not in states:
            where.add("j.claim is null")
        where.add(f"({STATE}) in ({_words(states)})")
    where.add(f"{_OPEN_ERROR} = {{}}", which.error_class)
    return str(where)


def done_where(which: JobFilter, values: list[Any]) -> str | None:
    """The conditions on `ingestd.history h`, or None where no finished job can match."""
    states = which.final_states
    if not states:
        return None
    where = _common(which, values, "h")
    if which.states:
        # words of ours, not parameters: the planner leaves out partitions and takes the index of the odd ones
        where.add(_final_condition(states))
    # What was created later ended later still.
    where.add("h.finished_at >= {}::timestamptz", _latest(which.since, which.finished_since))
    where.add("h.finished_at < {}::timestamptz", which.finished_until)
    where.add("h.error ->> 'class' = {}", which.error_class)
    if which.error_group is not None:
        where.add("h.keep = 'bad'")
    where.add(f"{ERROR_GROUP} = {{}}", which.error_group)
    return str(where)


def _common(which: JobFilter, values: list[Any], row: str) -> Where:
    where = Where(values)
    where.add(f"{row}.kind = {{}}", which.kind)
    where.add(f"{row}.queue_id = (select id from ingestd.queue where name = {{}})", which.queue)
    # <> '{}' is what the index is limited to
    where.add(f"{row}.tags @> array[{{}}::text] and {row}.tags <> '{{{{}}}}'", which.tag)
    where.add(f"{row}.triggered_by = {{}}", which.triggered_by)
    if (own := _OWN_CORRELATION.fullmatch(which.correlation_id or "")) is None:
        where.add(f"{row}.correlation_id = {{}}", which.correlation_id)
    else:
        # Nothing is stored with a job that nobody gave one: it has its own id for one.
        where.add(f"({row}.correlation_id = {{}} or {row}.id = {{}}::bigint and {row}.correlation_id is null)", own[0], int(own[1]))
    where.add(f"{row}.workflow_run = {{}}::bigint", which.workflow_run)
    where.add(f"{row}.workflow_run = any (array(select id from ingestd.workflow_run where workflow = {{}}))", which.workflow)
    where.add(f"{row}.parent_id = {{}}::bigint", which.parent_id)
    where.add(f"{row}.created_at >= {{}}::timestamptz", which.since)
    where.add(f"{row}.created_at < {{}}::timestamptz", which.until)
    where.add(f"{row}.id = any ({{}}::bigint[])", list(which.ids) or None)
    where.add(f"{row}.id < {{}}::bigint", which.before_id)
    return where


def _final_condition(states: tuple[str, ...]) -> str:
    plain = tuple(name for name in states if name != PARTIAL)
    if len(plain) == len(FINAL_STATES) - 1:
        return "true"
    if plain == (State.FAILED,):
        return "h.keep = 'bad'"
    kept = "" if State.FAILED in plain else "h.keep = 'ok' and "
    if not plain:
        return f"{kept}h.partial"
    return f"{kept}(h.state in ({_words(plain)}){' or h.partial' if PARTIAL in states else ''})"


def _words(states: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in states)


def _latest(*moments: Any) -> Any:
    given = [moment for moment in moments if moment is not None]
    return max(given) if given else None
