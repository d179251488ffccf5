"""`/api/v1/{schedules|imports|workflows|kinds}/{name}/history|statistics|last|status`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web
from pydantic import BaseModel

from ingestd.admin import records
from ingestd.admin.answers.base import Page
from ingestd.admin.answers.plans import Last, RunRecord, Statistics, Status
from ingestd.admin.parameters import MOMENT, Parameter
from ingestd.admin.records import KEPT, Kept, Subject
from ingestd.admin.routes import Call, Handler, Route, answer
from ingestd.admin.shapes import masked, read_word
from ingestd.jobs.filters import TRIGGERS
from ingestd.jobs.records import DAYS, MOST_DAYS, Run, RunFilter

HISTORY_FILTERS = ("state", "triggered_by", "before", "limit", "cursor")


def shape(run: Mapping[str, Any]) -> dict[str, Any]:
    """One run as the API shows it."""
    return dict(masked(run))


def _row(run: Run) -> dict[str, Any]:
    return {"id": run.position, "shown": run.shown()}


def _subject(call: Call, what: Kept) -> Subject:
    declared = {"import": call.state.imports, "workflow": call.state.workflows}.get(what, dict)()
    return Subject(what, call.name, declared)


def _handlers(what: Kept) -> dict[str, Handler]:
    async def history(call: Call) -> web.Response:
        limit, cursors, of, before = call.limit(), await call.cursors(), _subject(call, what), call.query.get("before")
        # a slot is named by its due time, everything else by its number
        newest = cursors.read_id() or (None if before is None else records.position_of(of, before))
        which = RunFilter(records.read_states(call.query.get("state")), read_word(call.query, "triggered_by", TRIGGERS), newest)
        async with call.reading() as conn:
            found = await records.history(conn, of, which, limit + 1)
        return answer(cursors.page([_row(run) for run in found], limit, lambda row: shape(row["shown"])))

    async def statistics(call: Call) -> web.Response:
        days = call.number("days", DAYS, 1, MOST_DAYS)
        async with call.reading() as conn:
            return answer(await records.totals(conn, _subject(call, what), days, call.query.get("timezone")))

    async def last(call: Call) -> web.Response:
        async with call.reading() as conn:
            return answer(shape(await records.last(conn, _subject(call, what))))

    async def status(call: Call) -> web.Response:
        async with call.reading() as conn:
            return answer(shape(await records.status(conn, _subject(call, what), call.state.failures_in_a_row())))

    return {"history": history, "statistics": statistics, "last": last, "status": status}


_SUMMARIES: Mapping[Kept, Mapping[str, str]] = {
    "schedule": {
        "history": "Its slots and what became of their jobs, newest first",
        "statistics": "Its slots of the last days: success rate, durations, a timeline",
        "last": "Its newest slot, its newest success and failure",
        "status": "Whether it is on, runs, is healthy, and when it is next",
    },
    "import": {
        "history": "Its loads, newest first",
        "statistics": "Its loads of the last days: success rate, durations, records, a timeline",
        "last": "Its newest load, its newest success and failure",
        "status": "Whether it loads now, is healthy, and when it is next scanned by a schedule",
    },
    "workflow": {
        "history": "Its runs, newest first",
        "statistics": "Its runs of the last days: success rate, durations, a timeline",
        "last": "Its newest run, its newest success and failure",
        "status": "Whether it runs now, is healthy, and when a schedule starts it next",
    },
    "kind": {
        "history": "Its jobs, open and finished, newest first",
        "statistics": "Its jobs of the last days: success rate, durations, a timeline",
        "last": "Its newest job, its newest success and failure",
        "status": "Whether jobs of it run now, whether it is healthy, and when a schedule starts one next",
    },
}
_SLOTS = {"before": Parameter("Only slots due before this moment.", MOMENT)}
_ANSWERS: Mapping[str, type[BaseModel]] = {"history": Page[RunRecord], "statistics": Statistics, "last": Last, "status": Status}
_WORDS = {"state": Parameter("Only runs in this state; several with commas between them.")}
_QUERIES = {"history": HISTORY_FILTERS, "statistics": ("days", "timezone")}


def _words(what: Kept, word: str) -> Mapping[str, Parameter]:
    return _WORDS | (_SLOTS if (what, word) == ("schedule", "history") else {})


def routes() -> list[Route]:
    """These resources' routes."""
    return [
        Route(
            "GET",
            f"/api/v1/{what}s/{{name}}/{word}",
            "read",
            handler,
            _SUMMARIES[what][word],
            _QUERIES.get(word, ()),
            answers={200: _ANSWERS[word]},
            words=_words(what, word),
        )
        for what in KEPT
        for word, handler in _handlers(what).items()
    ]
