"""The pages of schedules: all of them with their strips, and one with its slots, numbers and buttons. Plain forms work without script."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlencode

import asyncpg
from aiohttp import web
from pydantic import ValidationError

from ingestd.access.store import latest_audit
from ingestd.admin import records, schedule_rows, toml
from ingestd.admin.routes import Call, Route
from ingestd.admin.schedule_forms import act_on_schedule
from ingestd.admin.schedule_stats import tiles_of, timeline_of
from ingestd.admin.shapes import masked, read_moment, read_word
from ingestd.admin.state import AdminState
from ingestd.errors import InvalidInput
from ingestd.schedule.dependencies import NOT_LOOKED_UP, Question, ask
from ingestd.schedule.preview import next_slots
from ingestd.schedule.rules import Upcoming
from ingestd.schedule.settings import ScheduleSettings
from ingestd.schedule.store import glance
from ingestd.schedule.store.reads import find_schedule, list_downtimes, list_slots, recent_slots_of

SHOWN = 50
SLOTS_SHOWN = 30
NEXT_SHOWN = 10
DOWNTIMES_SHOWN = 5
AUDIT_SHOWN = 10
LOOKED_UP_FOR_S = 15.0
LEAST_S = 3.0
REMEMBERED = 64
TABS = {"": "All", "trouble": "In trouble", "paused": "Paused", "disabled": "Disabled"}
LIST_QUERY = ("find", "standing", "after")
SLOT_QUERY = ("before",)


Handler = Callable[[Call], Awaitable[web.Response]]


class Render(Protocol):
    """Draws a template."""

    def __call__(self, template: str, context: dict[str, Any], **more: Any) -> web.Response:
        """The page."""


class _LookedUp(NamedTuple):
    """What was looked up for a page a moment ago.

    Args:
        shown: the slots that were known then.
        totals: the numbers of the last days.
        met: types and names of the dependencies that have succeeded for the next slot; None: nobody knows.
    """

    shown: Sequence[tuple[datetime, str | None]]
    totals: dict[str, Any]
    met: Set[tuple[str, str]] | None


class SchedulePages:
    """The pages of schedules.

    Args:
        state: what handlers may use.
        render: draws a template.
        changed: called when somebody has changed something.
    """

    def __init__(self, state: AdminState, render: Render, changed: Callable[[], None]) -> None:
        self._state = state
        self._render = render
        self._changed = changed
        self._looked_up: dict[str, tuple[float, _LookedUp]] = {}

    def routes(self) -> list[Route]:
        """Their routes. What changes has addresses of its own: a schedule may be called `live`."""
        return [
            Route("GET", "/schedules", "read", self.index, "Schedules with their latest slots", LIST_QUERY),
            Route("GET", "/live/schedules", "read", self.index_live, "The part of the list that changes", LIST_QUERY),
            Route("POST", "/schedules", "operate", self.act_in_list, "Change one schedule of the list", LIST_QUERY),
            Route("GET", "/schedules/{name}", "read", self.show, "One schedule", SLOT_QUERY),
            Route("GET", "/live/schedules/{name}", "read", self.show_live, "The part of a schedule's page that changes", SLOT_QUERY),
            Route("POST", "/schedules/{name}", "operate", self.act, "Change one schedule", SLOT_QUERY),
        ]

    async def index(self, call: Call) -> web.Response:
        """All of them, by name."""
        return self._render("schedules_list.html", await self._list(call), title="Schedules", live=True)

    async def index_live(self, call: Call) -> web.Response:
        """What changes, for the script to put in place."""
        return self._render("schedules_live.html", await self._list(call))

    async def act_in_list(self, call: Call) -> web.Response:
        """One thing done to one schedule, and back to the list."""
        form = await call.form()
        name = form.get("name", "")
        said = await self._do(call, name, form)
        return await self._answer(call, said, f"/schedules{query_of(call.query)}", self.index_live)

    async def show(self, call: Call) -> web.Response:
        """One with everything about it."""
        return self._render("schedule.html", await self._one(call), title=f"Schedule {call.name}", live=True)

    async def show_live(self, call: Call) -> web.Response:
        """What changes, for the script to put in place."""
        return self._render("schedule_live.html", await self._one(call))

    async def act(self, call: Call) -> web.Response:
        """One thing done to it."""
        said = await self._do(call, call.name, await call.form())
        return await self._answer(call, said, f"/schedules/{call.name}", self.show_live)

    async def _do(self, call: Call, name: str, form: Mapping[str, str]) -> str:
        async with call.state.acting() as conn:
            said = await act_on_schedule(conn, call.actor, name, form)
        self._changed()
        self._looked_up.pop(name, None)
        return said

    async def _answer(self, call: Call, said: str, back: str, live: Handler) -> web.Response:
        """The script gets the fresh part and the words, a plain browser is sent back to where it was."""
        if "HX-Request" not in call.request.headers:
            return web.Response(status=303, headers={"Location": back})
        response = await live(call)
        response.headers["X-Ingestd-Message"] = said.encode("ascii", "replace").decode()
        return response

    async def _list(self, call: Call) -> dict[str, Any]:
        find = call.query.get("find", "").strip()[:100] or None
        standing = read_word(call.query, "standing", list(TABS)) or None
        now = datetime.now(UTC)
        async with call.state.reading() as conn:
            found = await glance.page(conn, find, standing, call.query.get("after"), SHOWN + 1)
            counts = await glance.counts(conn, find)
            slots = await recent_slots_of(conn, [row["name"] for row in found[:SHOWN]], schedule_rows.STRIP)
            downtimes = await list_downtimes(conn, limit=DOWNTIMES_SHOWN)
        rows = [schedule_rows.schedule_row(row, slots.get(row["name"], []), now) for row in found[:SHOWN]]
        kept = {"find": find or "", "standing": standing or ""}
        return self._base(call, now) | {
            "schedules": rows,
            "query": query_of(call.query),
            "find": find or "",
            "standing": standing or "",
            "tabs": [
                {
                    "label": label,
                    "count": counts.get(word, 0) if word else sum(counts.values()),
                    "current": word == (standing or ""),
                    "query": query_of(kept | {"standing": word}),
                }
                for word, label in TABS.items()
            ],
            "further": query_of(kept | {"after": rows[-1]["name"]}) if len(found) > SHOWN else "",
            "first": query_of(kept) if "after" in call.query else None,
            "downtimes": schedule_rows.downtime_rows(downtimes, now),
            "looks": schedule_rows.LOOKS,
        }

    async def _one(self, call: Call) -> dict[str, Any]:
        now, before = datetime.now(UTC), read_moment(call.query, "before")
        async with call.state.reading() as conn:
            schedule = await find_schedule(conn, call.name)
            newest = await list_slots(conn, call.name, limit=SLOTS_SHOWN + 1)
            slots = newest if before is None else await list_slots(conn, call.name, None, before, SLOTS_SHOWN + 1)
            ahead = await _upcoming(conn, schedule)
            downtimes = await list_downtimes(conn, limit=DOWNTIMES_SHOWN)
            audit = await latest_audit(conn, "schedule", call.name, AUDIT_SHOWN)
            known = await self._look_up(conn, schedule, now, [(slot["due_at"], slot["ended"]) for slot in newest])
        zone = schedule_rows.zone_of(schedule["timezone"])
        shown = slots[:SLOTS_SHOWN]
        older = query_of({"before": shown[-1]["due_at"].astimezone(UTC).isoformat()}) if len(slots) > SLOTS_SHOWN else ""
        return self._base(call, now) | {
            "schedule": schedule_rows.schedule_row(schedule, newest[:SLOTS_SHOWN], now),
            "here": f"/schedules/{call.name}",
            "query": query_of(call.query),
            "tags": schedule["tags"],
            "clock": schedule_rows.local(now.replace(second=0), zone, now),
            "ahead": schedule_rows.next_rows(schedule, ahead, now),
            "slots": [schedule_rows.slot_row(slot, now, zone) for slot in shown],
            "older": older,
            "newest": before is None,
            "tiles": tiles_of(known.totals, self._state.failures_in_a_row()),
            "timeline": timeline_of(known.totals),
            "facts": schedule_rows.schedule_facts(schedule, now),
            "after": schedule_rows.dependency_rows(schedule, known.met),
            "declaration": declaration_of(schedule),
            "downtimes": schedule_rows.downtime_rows(downtimes, now),
            "audit": audit,
            "looks": schedule_rows.LOOKS,
        }

    async def _look_up(
        self, conn: asyncpg.Connection, schedule: Mapping[str, Any], now: datetime, shown: Sequence[tuple[datetime, str | None]]
    ) -> _LookedUp:
        """What is too much to be counted again for every refresh of every tab. The last to be read: it may fail."""
        name = schedule["name"]
        known = self._looked_up.get(name)
        # Numbers must not lag behind the slots that stand beside them.
        if known is not None and time.monotonic() - known[0] < (LOOKED_UP_FOR_S if known[1].shown == shown else LEAST_S):
            return known[1]
        totals = await records.totals(conn, records.Subject("schedule", name))
        found = _LookedUp(shown, totals, await self._met(conn, schedule_rows.questions_of(schedule, now)))
        if len(self._looked_up) >= REMEMBERED:
            self._looked_up.clear()
        self._looked_up[name] = (time.monotonic(), found)
        return found

    async def _met(self, conn: asyncpg.Connection, asked: Sequence[Question]) -> Set[tuple[str, str]] | None:
        if self._state.successes is None:
            return None
        try:
            return {(one.type, one.name) for one in await ask(conn, self._state.successes, asked)}
        except NOT_LOOKED_UP:
            return None  # the page says nothing about it; the scheduler tells of it in its own way

    def _base(self, call: Call, now: datetime) -> dict[str, Any]:
        return {
            "now": now,
            "node": self._state.node,
            "environment": self._state.environment,
            "can_act": call.actor.may("operate"),
            "section": "schedules",
        }


async def _upcoming(conn: asyncpg.Connection, schedule: Mapping[str, Any]) -> list[Upcoming]:
    if not schedule["enabled"]:
        return []
    name, until = schedule["name"], schedule["paused_until"]
    try:
        ahead = await next_slots(conn, name, NEXT_SHOWN)
        if until is not None and ahead and ahead[-1].at < until:
            ahead += await next_slots(conn, name, 1, until - timedelta(microseconds=1))
        return ahead
    except InvalidInput:
        return []  # its problem is shown instead


def declaration_of(schedule: Mapping[str, Any]) -> str:
    """The schedule as one would write it into the configuration, secrets masked; of keys at their default nothing is said."""
    spec = schedule["spec"]
    try:
        settings = ScheduleSettings.model_validate(spec)
        spec = settings.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    except ValidationError:
        pass  # written by another version of the daemon: shown as it stands
    return toml.section(f"schedules.{schedule['name']}", masked(spec))


def query_of(words: Mapping[str, str]) -> str:
    """The words that say something as a query string with its question mark; empty for none."""
    said = {name: value for name, value in words.items() if value}
    return f"?{urlencode(said)}" if said else ""
