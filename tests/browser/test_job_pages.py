"""The pages of jobs in a real browser: an operator's way from a filter to a bulk, on a desk and on a phone."""

from __future__ import annotations

import asyncpg
import pytest

from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from tests.admin.conftest import Site
from tests.admin.rows import fail_job
from tests.browser.test_live_page import SCROLLS, WIDTHS, Tab, tab, widen

__all__ = ["tab"]
pytestmark = pytest.mark.browser


async def failed(conn: asyncpg.Connection, count: int) -> list[int]:
    numbers = await enqueue(
        conn, [NewJob("sync_prices", {"supplier": f"acme{n}", "note": "x" * 300}, tags=("nightly",)) for n in range(count)]
    )
    for number in numbers:
        await fail_job(conn, number, "https://prices.example.com/" + "a" * 200 + " answered 503")
    return numbers


async def test_from_a_dead_letter_to_its_retry(site: Site, tab: Tab, conn: asyncpg.Connection) -> None:
    """The group, its preview, the confirmation, and what became of it."""
    numbers = await failed(conn, 3)
    await tab.page.goto(f"{site.url}/jobs")
    await tab.follow("text=Dead letters")
    await tab.follow("button:has-text('Retry…')")
    assert await tab.text("#bulk-title") == "Retry 3 jobs?"
    await tab.follow("button:has-text('Retry 3 jobs')")
    assert await tab.text(".said") == "Retry: 3 jobs"
    await tab.follow(f"#job-{numbers[0]} a.name")
    assert await tab.text("#job-title") == f"sync_prices {numbers[0]}"
    assert await tab.text(".job .pill") == "available"


async def test_a_job_is_edited_and_deleted_by_its_page(site: Site, tab: Tab, conn: asyncpg.Connection) -> None:
    """What is behind a disclosure is out of the way until it is wanted."""
    (number,) = await enqueue(conn, [NewJob("sync_prices", {"supplier": "acme"})])
    await tab.page.goto(f"{site.url}/jobs/{number}")
    assert not await tab.page.is_visible("text=Delete job")
    await tab.page.click("summary:has-text('Edit')")
    await tab.page.fill("textarea[name=args]", '{"supplier": "globex"}')
    await tab.page.fill("input[name=priority]", "high")
    await tab.follow("button:has-text('Save')")
    assert "globex" in await tab.text("pre")
    assert "args" in await tab.text("#audit-title ~ *, section:has(#audit-title) ul")
    await tab.page.click("summary:has-text('Delete…')")
    await tab.follow(f"button:has-text('Delete job {number}')")
    assert await conn.fetchval("select count(*) from ingestd.job") == 0
    assert tab.page.url == f"{site.url}/jobs"


async def test_nothing_sticks_out_at_any_width(site: Site, tab: Tab, conn: asyncpg.Connection) -> None:
    """However long the words of a job are."""
    number, *_ = await failed(conn, 2)
    (waiting,) = await enqueue(conn, [NewJob("sync_prices", {"long": "y" * 500}, notes="z" * 400, correlation_id="c" * 64)])
    query = "kind=sync_prices&tag=nightly&correlation_id=" + "c" * 64
    for path in ("/jobs", "/jobs/dead", f"/jobs/{number}", f"/jobs/{waiting}", f"/jobs?{query}", f"/jobs/bulk?action=edit&{query}", "/"):
        await tab.page.goto(site.url + path)
        for width in WIDTHS:
            await widen(tab.page, width)
            await tab.page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
            assert await tab.page.evaluate(SCROLLS) <= width, path


async def test_the_theme_switch_works_on_every_page(site: Site, tab: Tab) -> None:
    """And is remembered from one to the next."""
    await tab.page.goto(f"{site.url}/jobs")
    await tab.page.click("#theme-switch")
    assert await tab.page.get_attribute("html", "data-theme") == "light"
    await tab.page.goto(site.url)
    assert await tab.page.get_attribute("html", "data-theme") == "light"
    await tab.page.click("#theme-switch")
    assert await tab.page.get_attribute("html", "data-theme") == "dark"
