"""The pages of jobs: the list with its filter, one job, what failed for good, and the bulk with its preview. Plain forms, no script."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol

from aiohttp import web

from ingestd.access.store import latest_audit
from ingestd.admin import job_rows, rows
from ingestd.admin.job_filter import WORDS, query_of, read_query, words_of
from ingestd.admin.job_forms import act_on_job, bulk_from_form, fits, look_plan
from ingestd.admin.routes import Call, Route
from ingestd.admin.state import AdminState
from ingestd.errors import NotFound, UsageError
from ingestd.jobs.actions import start_bulk
from ingestd.jobs.bulk import AT_ONCE, look
from ingestd.jobs.filters import GROUPS, STATES
from ingestd.jobs.store.queues import queues
from ingestd.jobs.store.reads import dead_groups, list_jobs, show_whole

SHOWN = 50
GROUPS_SHOWN = 100
AUDIT_SHOWN = 20
TABS = {"": "All", "running": "Running", "waiting": "Waiting", "failed": "Failed"}
DONE = ("did", "changed", "skipped", "asked")
BULK_ACTIONS = {"retry": "Retry", "cancel": "Cancel", "again": "Run again", "snooze": "Snooze", "edit": "Edit", "delete": "Delete"}


class Render(Protocol):
    """Draws a template."""

    def __call__(self, template: str, context: dict[str, Any], **more: Any) -> web.Response:
        """The page."""


class JobPages:
    """The pages of jobs.

    Args:
        state: what handlers may use.
        render: draws a template.
        changed: called when somebody has changed something.
    """

    def __init__(self, state: AdminState, render: Render, changed: Callable[[], None]) -> None:
        self._state = state
        self._render = render
        self._changed = changed

    def routes(self) -> list[Route]:
        """Their routes; words before ids, for `dead` and `bulk` are none."""
        return [
            Route("GET", "/jobs", "read", self.index, "Jobs, filtered", (*WORDS, "cursor", *DONE)),
            Route("GET", "/jobs/dead", "read", self.dead, "Jobs that failed for good", ("kind", "queue", *DONE)),
            Route("GET", "/jobs/bulk", "read", self.preview, "What a bulk would change", (*WORDS, "action")),
            Route("POST", "/jobs/bulk", "operate", self.bulk, "Do it to all that match"),
            Route("GET", "/jobs/{id}", "read", self.show, "One job"),
            Route("POST", "/jobs/{id}", "operate", self.act, "Change one job"),
        ]

    async def index(self, call: Call) -> web.Response:
        """The list, the newest first."""
        words = words_of(call.query)
        cursors = await call.cursors(words | _only(call.query, "cursor"))
        which = replace(read_query(call.query), before_id=cursors.read_id())
        async with call.state.reading() as conn:
            found = await list_jobs(conn, which, SHOWN + 1)
            lanes = [row["name"] for row in await queues(conn)]
        page = cursors.page(found, SHOWN, rows.job_row)
        older = query_of(words, cursor=page["next_cursor"]) if page["next_cursor"] else ""
        context = {
            "jobs": page["items"],
            "older": older,
            "filtered": words,
            "tabs": [
                {"label": label, "current": words.get("state", "") == state, "query": query_of(words | {"state": state})}
                for state, label in TABS.items()
            ],
            "states": (*STATES, *GROUPS),
            "queues": lanes,
            "bulk_actions": {name: label for name, label in BULK_ACTIONS.items() if fits(name, which)},
            "dead_query": query_of(_only(words, "kind", "queue")),
            "first_page": "cursor" not in call.query,
            "newest": query_of(words),
        }
        return self._page(call, "jobs_list.html", "Jobs", context)

    async def dead(self, call: Call) -> web.Response:
        """What failed for good, by what went wrong."""
        which = read_query(_only(call.query, "kind", "queue"))
        async with call.state.reading() as conn:
            groups = await dead_groups(conn, which, GROUPS_SHOWN)
        context = {
            "groups": [group | {"query": query_of({"error_group": group["error_group"], "state": "failed"})} for group in groups],
            "tabs": [
                {"label": label, "current": False, "query": query_of(_only(call.query, "kind", "queue") | {"state": state})}
                for state, label in TABS.items()
            ],
            "dead_query": query_of(call.query),
        }
        return self._page(call, "jobs_dead.html", "Dead letters", context)

    async def preview(self, call: Call) -> web.Response:
        """What a bulk would change."""
        words = words_of(call.query)
        action = call.query.get("action", "")
        bulk = look_plan(action, read_query(words))
        async with call.state.reading() as conn:
            found = await look(conn, bulk)
            lanes = [row["name"] for row in await queues(conn)]
        context = {
            "action": action,
            "verb": BULK_ACTIONS[action],
            "words": words,
            "found": found,
            "sample": [rows.job_row(job) for job in found.sample],
            "at_once": found.jobs <= AT_ONCE,
            "queues": lanes,
            "back": query_of(words),
        }
        return self._page(call, "jobs_bulk.html", f"{BULK_ACTIONS[action]} jobs", context)

    async def bulk(self, call: Call) -> web.Response:
        """Do it, and show what became of it."""
        form = await call.form()
        bulk, expected = bulk_from_form(form)
        async with call.state.acting() as conn:
            asked = await start_bulk(conn, call.actor, bulk, expected)
        self._changed()
        if asked.job_id is not None:
            return _go(f"/jobs/{asked.job_id}")
        done = {"did": bulk.action} | {name: str(number) for name, number in (asked.counts or {}).items()}
        return _go("/jobs" + query_of({} if bulk.action == "delete" else {"id": form.get("id", "")}, **done))

    async def show(self, call: Call) -> web.Response:
        """One job with everything about it."""
        async with call.state.reading() as conn:
            job = await show_whole(conn, call.id)
            audit = await latest_audit(conn, "job", str(call.id), AUDIT_SHOWN)
            lanes = [row["name"] for row in await queues(conn)]
        if job is None:
            raise NotFound(f"there is no job {call.id}")
        context = {
            "job": job,
            "row": rows.job_row(job),
            "facts": job_rows.job_facts(job),
            "attempts": job_rows.attempt_rows(job),
            "rejects": job_rows.reject_rows(job),
            "traceback": job_rows.traceback_of(job["error"]),
            "fields": job_rows.edit_fields(job),
            "audit": audit,
            "queues": lanes,
        }
        return self._page(call, "job.html", f"Job {call.id}", context)

    async def act(self, call: Call) -> web.Response:
        """One thing done to one job."""
        form = await call.form()
        async with call.state.acting() as conn:
            goes_to = await act_on_job(conn, call.actor, call.id, form)
        self._changed()
        return _go(goes_to)

    def _page(self, call: Call, template: str, title: str, context: dict[str, Any]) -> web.Response:
        base = {
            "now": datetime.now(UTC),
            "node": self._state.node,
            "environment": self._state.environment,
            "can_act": call.actor.may("operate"),
            "query": "",
            "said_words": _said(call.query),
            "section": "jobs",
        }
        return self._render(template, base | context, title=title, live=False)


def _said(query: Mapping[str, str]) -> str:
    """What a bulk that was done at once has done; numbers only, for anybody can write a link."""
    if query.get("did") not in BULK_ACTIONS:
        return ""
    counts: dict[str, int] = {}
    for name in DONE[1:]:
        text = query.get(name, "0")
        if not (text.isascii() and text.isdigit()) or len(text) > 9:
            raise UsageError(f'"{name}" must be a number')
        counts[name] = int(text)
    said = f"{BULK_ACTIONS[query['did']]}: {counts['changed']:,} job{'s' if counts['changed'] != 1 else ''}"
    said += f", {counts['asked']:,} of them asked to stop" if counts["asked"] else ""
    return said + (f", {counts['skipped']:,} skipped" if counts["skipped"] else "")


def _only(given: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: given[name] for name in names if given.get(name)}


def _go(address: str) -> web.Response:
    return web.Response(status=303, headers={"Location": address})
