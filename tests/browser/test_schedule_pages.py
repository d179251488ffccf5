"""The pages of schedules in a real browser: live, worked by keyboard, told apart without colours, on a desk and on a phone."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from tests.admin.conftest import Site
from tests.admin.slots import declare, slot
from tests.browser.test_live_page import REFUSED, SCROLLS, WIDTHS, Tab, follow, tab, widen
from tests.support import PATIENCE_S, eventually

__all__ = ["tab"]
pytestmark = pytest.mark.browser

HOUR = timedelta(hours=1)
ALLOW = {"cron": "0 2 * * *", "timezone": "Europe/London", "overlap": "allow"}


async def test_slots_appear_by_themselves_in_list_page_and_overview(site: Site, tab: Tab, conn: asyncpg.Connection) -> None:
    """Without a reload, and the strip says so in words too."""
    await declare(conn, nightly=ALLOW)
    for path, hours in (("/", 3), ("/schedules", 2), ("/schedules/nightly", 1)):
        await tab.page.goto(site.url + path)
        await slot(conn, "nightly", hours * HOUR, ended="failed")
        count = 4 - hours
        await tab.page.wait_for_selector(f".strip .m.failed >> nth={count - 1}")
        label = await tab.page.get_attribute(".strip", "aria-label")
        assert label == f"Last {count} slot{'s' if count > 1 else ''}: {count} failed", path
        assert tab.page.url.rstrip("/") == (site.url + path).rstrip("/")


async def test_a_pause_is_filled_in_while_the_page_refreshes_and_taken_back(site: Site, tab: Tab, conn: asyncpg.Connection) -> None:
    """By keyboard: what is being typed stays, the answer comes in place, the form is put away."""
    await declare(conn, nightly=ALLOW)
    await tab.page.goto(f"{site.url}/schedules/nightly")
    refreshes: list[str] = []
    tab.page.on("response", lambda response: refreshes.append(response.url) if "/live/schedules/nightly" in response.url else None)
    await tab.page.focus("#do-pause summary")
    await tab.page.keyboard.press("Enter")
    await tab.page.fill("#form-pause [name=for]", "2h")
    await tab.page.type("#form-pause [name=reason]", "stock")
    seen = len(refreshes)
    await eventually(lambda: len(refreshes) >= seen + 2, saying="two refreshes")
    await tab.page.keyboard.type("taking")
    await tab.page.keyboard.press("Enter")
    await tab.page.wait_for_selector(".notice:has-text('stocktaking')")
    assert await tab.text("#toast") == "Schedule nightly is paused."
    assert not await tab.page.is_visible("#form-pause")
    assert await tab.page.input_value("#form-pause [name=reason]") == ""
    await tab.page.click(".notice button")
    await tab.page.wait_for_selector(".notice", state="detached")
    assert not await conn.fetchval("select paused_at is not null from ingestd.schedule")


async def test_a_form_sent_while_the_page_refreshes_is_put_away_too(site: Site, tab: Tab, conn: asyncpg.Connection) -> None:
    """Not before its answer is there, which comes after the refresh."""
    await declare(conn, nightly=ALLOW)
    await tab.page.goto(f"{site.url}/schedules/nightly")
    await tab.page.click("#do-pause summary")
    await tab.page.fill("#form-pause [name=reason]", "stocktaking")
    async with tab.refreshing():
        await tab.page.click("#form-pause button")
        assert await tab.page.is_disabled("#form-pause button")
    await tab.page.wait_for_selector(".notice:has-text('stocktaking')")
    assert not await tab.page.is_visible("#form-pause")


async def test_a_refusal_leaves_the_form_for_another_try(site: Site, tab: Tab, conn: asyncpg.Connection) -> None:
    tab.expect(*REFUSED)
    await declare(conn, nightly=ALLOW)
    await tab.page.goto(f"{site.url}/schedules/nightly")
    await tab.page.click("#do-pause summary")
    await tab.page.fill("#form-pause [name=for]", "soon")
    await tab.page.click("#form-pause button")
    await tab.page.wait_for_selector("#toast.on.bad:has-text('soon')")
    assert await tab.page.input_value("#form-pause [name=for]") == "soon"


async def test_a_slot_is_skipped_and_one_is_run_from_the_list(site: Site, tab: Tab, conn: asyncpg.Connection) -> None:
    """And both are told where the reader is, without losing the view."""
    await declare(conn, nightly=ALLOW, other={"every": "1h"})
    await tab.page.goto(f"{site.url}/schedules?find=night")
    await tab.page.click("button[aria-label='Run now schedule nightly']")
    await tab.page.wait_for_selector("#schedule-nightly .m.waiting")
    assert "started job" in await tab.text("#toast")
    assert await tab.page.locator("#schedule-other").count() == 0
    assert tab.page.url == f"{site.url}/schedules?find=night"
    await tab.follow("#schedule-nightly a.name")
    await tab.page.click("#do-skip summary")
    await tab.page.fill("#form-skip [name=reason]", "closed")
    await tab.page.click("#form-skip button")
    await tab.page.wait_for_selector(".next .struck")
    assert "closed" in await tab.text(".notice")
    await tab.page.click(".notice button")
    await tab.page.wait_for_selector(".next .struck", state="detached")
    await tab.page.wait_for_selector("#do-skip")


async def test_tabs_of_the_list_change_in_place(site: Site, tab: Tab, conn: asyncpg.Connection) -> None:
    await declare(conn, on=ALLOW, off=ALLOW | {"enabled": False})
    await tab.page.goto(f"{site.url}/schedules")
    await tab.page.click(".tabs a:has-text('Disabled')")
    await tab.page.wait_for_selector("#schedule-on", state="detached")
    await tab.page.wait_for_url(f"{site.url}/schedules?standing=disabled")
    await tab.page.click(".tabs a:has-text('All')")
    await tab.page.wait_for_selector("#schedule-on")
    await tab.page.wait_for_url(f"{site.url}/schedules")


async def test_marks_differ_without_any_colour(site: Site, tab: Tab, conn: asyncpg.Connection) -> None:
    """All painted in the same one, no two of the legend look alike; nor do the layers of the days."""
    await declare(conn, nightly=ALLOW)
    await tab.page.emulate_media(reduced_motion="reduce")
    await tab.page.goto(f"{site.url}/schedules")
    await tab.page.click("#live-switch")
    same = "for (const name of ['good', 'warn', 'bad', 's0', 'calm']) document.documentElement.style.setProperty('--' + name, '#222')"
    await tab.page.evaluate(same)
    marks = await tab.page.query_selector_all(".key .m")
    assert len(marks) == 8
    assert len({await mark.screenshot(animations="disabled") for mark in marks}) == 8


async def test_no_width_makes_the_pages_scroll_sideways(site: Site, tab: Tab, conn: asyncpg.Connection) -> None:
    """However long names, reasons, rules and zones are, with every disclosure open."""
    name = "a" * 63
    keys: dict[str, Any] = {
        "cron": "7,22,37 9-17 1,2,5-9,28 1-3,7 MON,SAT",
        "timezone": "America/Argentina/ComodRivadavia",
        "tags": ["t" * 90],
    }
    await declare(conn, **{name: keys | {"args": {"x": "y" * 400}, "after": [{"job": "j" * 200}]}})
    await slot(conn, name, 2 * HOUR, "missed", reason="r" * 500, slots=1200)
    await slot(conn, name, HOUR, "late", ended="succeeded", reason="w" * 300, overdue="finish", slow=True, triggered_by="catch_up")
    for hour in range(3, 45):
        await slot(conn, name, hour * HOUR, ended="succeeded")
    await conn.execute(
        """update ingestd.schedule set paused_at = now(), paused_by = repeat('p', 200), pause_reason = repeat('q', 300),
           paused_until = now() + interval '1 day',
           skip_at = now() + interval '1 hour', skip_by = repeat('s', 200), skip_reason = repeat('k', 300)"""
    )
    await conn.execute(
        "insert into ingestd.downtime (began_at, schedules, missed, late) values (now() - interval '1 h', 1000000, 123456789, 987654)"
    )
    for path in ("/", "/schedules", f"/schedules/{name}"):
        await tab.page.goto(site.url + path)
        for width in WIDTHS:
            await widen(tab.page, width)
            await tab.page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
            assert await tab.page.evaluate(SCROLLS) <= width, path


async def test_everything_works_without_javascript(site: Site, chromium: Any, conn: asyncpg.Connection) -> None:
    await declare(conn, nightly=ALLOW)
    context = await chromium.new_context(java_script_enabled=False)
    context.set_default_timeout(PATIENCE_S * 1000)
    page = await context.new_page()
    await page.goto(f"{site.url}/schedules")
    await follow(page, "button[aria-label='Pause schedule nightly']")
    assert page.url == f"{site.url}/schedules"
    assert "until resumed" in (await page.text_content("#schedule-nightly") or "")
    await follow(page, "#schedule-nightly a.name")
    await follow(page, ".notice button")
    assert await page.locator(".notice").count() == 0
    await page.click("#do-run summary")
    await page.fill("#form-run [name=reason]", "by hand")
    await follow(page, "#form-run button")
    assert page.url == f"{site.url}/schedules/nightly"
    assert "by hand" in (await page.text_content("#slots") or "")
    await page.click("details.data summary >> nth=0")
    assert await page.is_visible("details.data table, details.data pre")
    await context.close()
