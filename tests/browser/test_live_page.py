"""The page in a real browser: live, quiet in the console, and still itself after a hundred refreshes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from tests.admin.conftest import Site
from tests.admin.rows import fail_job, finish_job, new_load
from tests.admin.test_page import HOSTILE
from tests.support import PATIENCE_S, eventually

pytestmark = pytest.mark.browser
WIDTHS = (360, 768, 1280)
SCROLLS = "document.documentElement.scrollWidth"
REFRESHES = re.compile(r"/live\b")
# How Chromium and htmx tell that the daemon refused, and that it is gone.
REFUSED = ("the server responded with a status of 4", "Response Status Error Code 4")
GONE = ("net::ERR_", "htmx:afterRequest", "htmx:sendError")

STATES_OF_THE_DOT = """() => {
  const dot = document.getElementById("live-switch");
  document.states = [];
  new MutationObserver(() => document.states.push(dot.dataset.state)).observe(dot, { attributeFilter: ["data-state"] });
}"""
ONE_ANSWER_IS_NOT_DRAWN = """() => {
  document.body.addEventListener("htmx:beforeSwap", (event) => { event.detail.target = null; }, { once: true });
}"""


class Tab:
    """A browser tab and everything it complained about."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.expected: tuple[str, ...] = ()
        self.dialogs: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", self._dismiss)

    async def _dismiss(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        await dialog.dismiss()

    def expect(self, *words: str) -> None:
        """Complaints with these words are part of the test, whenever the browser comes to say them."""
        self.expected += words

    @property
    def surprises(self) -> list[str]:
        """Complaints that nobody expected."""
        return [complaint for complaint in self.complaints if not any(words in complaint for words in self.expected)]

    async def text(self, selector: str) -> str:
        """The text of the first match, one space between words."""
        return " ".join((await self.page.text_content(selector) or "").split())

    async def follow(self, selector: str) -> None:
        """Click what leads to another page, or to the same one anew, and wait until that page is there."""
        await follow(self.page, selector)

    @asynccontextmanager
    async def refreshing(self) -> AsyncIterator[None]:
        """A refresh is under way for as long as this lasts."""
        begun, end = asyncio.Event(), asyncio.Event()

        async def hold(route: Any) -> None:
            begun.set()
            await end.wait()
            await route.continue_()

        await self.page.route(REFRESHES, hold)
        await asyncio.wait_for(begun.wait(), PATIENCE_S)
        yield
        end.set()


async def follow(page: Any, selector: str) -> None:
    """See `Tab.follow`."""
    async with page.expect_navigation():
        await page.click(selector)


async def widen(page: Any, width: int) -> None:
    """Let the window have this width, and wait until the page has it too."""
    await page.set_viewport_size({"width": width, "height": 800})
    await eventually(lambda: page.evaluate(f"innerWidth === {width}"), saying=f"a page of {width} pixels")


@pytest.fixture
async def tab(chromium: Any) -> AsyncIterator[Tab]:
    """A fresh tab; what it complained about fails the test."""
    context = await chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE_S * 1000)
    page = await context.new_page()
    opened = Tab(page)
    yield opened
    await page.unroute_all(behavior="ignoreErrors")
    await context.close()
    assert opened.surprises == []
    assert opened.dialogs == []


async def test_what_happens_appears_by_itself(site: Site, tab: Tab, conn: asyncpg.Connection) -> None:
    """A new job, then its end, without a reload; the address stays."""
    await tab.page.goto(site.url)
    (job,) = await enqueue(conn, [NewJob("sync_prices", {"supplier": "acme"})])
    await tab.page.wait_for_selector(f"#job-{job} .pill:has-text('available')")
    await finish_job(conn, job)
    await tab.page.wait_for_selector(f"#job-{job} .pill:has-text('succeeded')")
    assert (await tab.text("#live-text")).startswith("Live")
    assert tab.page.url.rstrip("/") == site.url


async def test_an_action_is_answered_in_place(site: Site, tab: Tab, conn: asyncpg.Connection) -> None:
    """The button, the words, the new state; and a conflict is told, not swallowed."""
    tab.expect(*REFUSED)
    (job,) = await enqueue(conn, [NewJob("sync_prices")])
    await fail_job(conn, job)
    await tab.page.goto(site.url)
    # The answer alone changes the page; a refresh that is under way comes before it.
    await tab.page.click("#live-switch")
    await tab.page.click(f"#job-{job} button:has-text('Retry')")
    await tab.page.wait_for_selector(f"#job-{job} .pill:has-text('available')")
    assert await tab.text("#toast") == f"Job {job} will run again."
    await finish_job(conn, job)
    await tab.page.click(f"#job-{job} button:has-text('Cancel')")
    await tab.page.wait_for_selector("#toast.on.bad")
    assert "there is nothing to cancel" in await tab.text("#toast")


async def test_an_action_that_is_refused_is_no_daemon_that_does_not_answer(site: Site, tab: Tab, conn: asyncpg.Connection) -> None:
    """The dot stays as it was, and so does the pace of the refreshes."""
    tab.expect(*REFUSED)
    (job,) = await enqueue(conn, [NewJob("sync_prices")])
    await tab.page.goto(site.url)
    await tab.page.evaluate(STATES_OF_THE_DOT)
    async with tab.refreshing():
        # The row is still drawn with its button when it is pressed.
        await finish_job(conn, job)
        await tab.page.evaluate(f"document.querySelector('#job-{job} form[action*=cancel] button').click()")
    await tab.page.wait_for_selector("#toast.on.bad")
    assert "there is nothing to cancel" in await tab.text("#toast")
    assert "stale" not in await tab.page.evaluate("document.states")


async def test_an_answer_that_cannot_be_drawn_holds_up_nobody(site: Site, tab: Tab, conn: asyncpg.Connection) -> None:
    """The next refresh has its turn, and so has an action."""
    tab.expect("htmx:swapError", "htmx:onLoadError", "Cannot read properties of null")
    (job,) = await enqueue(conn, [NewJob("sync_prices")])
    await fail_job(conn, job)
    await tab.page.goto(site.url)
    await tab.page.evaluate(ONE_ANSWER_IS_NOT_DRAWN)
    await tab.page.wait_for_selector("#live-switch[data-state=stale]")
    await tab.page.click(f"#job-{job} button:has-text('Retry')")
    await tab.page.wait_for_selector(f"#job-{job} .pill:has-text('available')")
    assert (await tab.text("#live-text")).startswith("Live")


async def test_no_action_is_lost_while_the_page_refreshes(site: Site, tab: Tab, conn: asyncpg.Connection) -> None:
    """Each has its turn after the refresh, and each its answer."""
    jobs = await enqueue(conn, [NewJob("sync_prices") for _ in range(3)])
    for job in jobs:
        await fail_job(conn, job)
    await tab.page.goto(site.url)
    async with tab.refreshing():
        for job in jobs:
            await tab.page.click(f"#job-{job} button:has-text('Retry')")
        await tab.page.click(".tabs a:has-text('Waiting')")
    for job in jobs:
        await tab.page.wait_for_selector(f"#job-{job} .pill:has-text('available')")


async def test_pausing_holds_the_page_still(site: Site, tab: Tab, conn: asyncpg.Connection) -> None:
    """And resuming catches up."""
    await tab.page.goto(site.url)
    await tab.page.click("#live-switch")
    assert (await tab.text("#live-text")).startswith("Paused")
    requests: list[str] = []
    tab.page.on("request", lambda request: requests.append(request.url))
    (job,) = await enqueue(conn, [NewJob("sync_prices")])
    await tab.page.wait_for_selector("#live-text:has-text('4 s')")
    assert requests == []
    await tab.page.click("#live-switch")
    await tab.page.wait_for_selector(f"#job-{job}")


async def test_a_daemon_that_is_gone_is_seen_at_once(site: Site, tab: Tab) -> None:
    """What is shown stays, and says how old it is."""
    tab.expect(*GONE)
    await tab.page.goto(site.url)
    await tab.page.wait_for_selector("#live-switch[data-state=on]")
    await site.server.stop()
    await tab.page.wait_for_selector("#live-switch[data-state=stale]")
    assert "Not answering" in await tab.text("#live-text")
    assert "Jobs" in await tab.text("#jobs-title")


async def test_refreshes_leave_the_reader_alone(site: Site, tab: Tab, conn: asyncpg.Connection) -> None:
    """Focus, selection of text, opened details and the drawing survive; nothing piles up."""
    (job,) = await enqueue(conn, [NewJob("sync_prices", {"supplier": "acme"})])
    await tab.page.goto(site.url)
    await tab.page.wait_for_selector("#plot canvas")
    await tab.page.click("details.data summary")
    await tab.page.focus(f"#job-{job} button")
    await tab.page.evaluate(
        "window.mark = document.querySelector('#plot canvas'); getSelection().selectAllChildren(document.querySelector('#jobs-title'))"
    )
    refreshes: list[str] = []
    tab.page.on("response", lambda response: refreshes.append(response.url) if "/live" in response.url else None)
    await eventually(lambda: len(refreshes) >= 3, saying="three refreshes")
    found = await tab.page.evaluate(
        """() => ({same: window.mark === document.querySelector('#plot canvas'), open: document.querySelector('details.data').open,
                   focus: document.activeElement.getAttribute('aria-label'), selected: getSelection().toString(),
                   canvases: document.querySelectorAll('canvas').length})"""
    )
    assert found == {"same": True, "open": True, "focus": f"Cancel job {job}", "selected": "Jobs", "canvases": 1}


async def test_views_have_addresses_and_a_way_back(site: Site, tab: Tab, conn: asyncpg.Connection) -> None:
    """A tab changes the list in place and in the address bar; a reload shows the same."""
    failed, waiting = await enqueue(conn, [NewJob("sync_prices"), NewJob("sync_prices")])
    await fail_job(conn, failed)
    await tab.page.goto(site.url)
    await tab.page.click(".tabs a:has-text('Failed')")
    await tab.page.wait_for_selector(f"#job-{waiting}", state="detached")
    await tab.page.wait_for_url(f"{site.url}/?jobs=failed")
    await tab.page.reload()
    assert await tab.page.locator("#jobs tbody tr").count() == 1


async def test_hostile_text_runs_nothing(site: Site, tab: Tab, conn: asyncpg.Connection) -> None:
    """No dialog, no violation of the policy, on the first sight and after refreshes."""
    for words in HOSTILE:
        _, bad = await enqueue(conn, [NewJob(words[:200], {words: words}), NewJob("sync_prices")])
        await fail_job(conn, bad, words)
        await new_load(conn, "readings", words, status="failed", reason=words)
    refreshes: list[str] = []
    tab.page.on("response", lambda response: refreshes.append(response.url) if "/live" in response.url else None)
    await tab.page.goto(site.url)
    await eventually(lambda: len(refreshes) >= 2, saying="two refreshes")


async def test_no_width_makes_the_page_scroll_sideways(site: Site, chromium: Any, conn: asyncpg.Connection) -> None:
    """Also with long names and errors, and with the longest words about the age of what is shown."""
    (bad,) = await enqueue(conn, [NewJob("a_kind_with_a_very_long_name_that_has_no_spaces_in_it_at_all_and_goes_on")])
    await fail_job(conn, bad, "x" * 400)
    await new_load(conn, "readings", f"{'long' * 40}.csv", status="failed", reason="y" * 400, with_job=True)
    context = await chromium.new_context()
    context.set_default_timeout(PATIENCE_S * 1000)
    page = await context.new_page()
    await page.clock.install()
    for width in WIDTHS:
        await page.goto(site.url)
        await widen(page, width)
        assert await page.evaluate(SCROLLS) <= width
    await site.server.stop()
    # No answer that was under way can make the page young again.
    await page.wait_for_selector("#live-switch[data-state=stale]")
    await page.clock.fast_forward("01:12:30")
    await page.wait_for_selector("#live-text:has-text('min old')")
    for width in WIDTHS:
        await widen(page, width)
        assert await page.evaluate(SCROLLS) <= width
    await context.close()


async def test_a_chart_drawn_for_a_wider_window_does_not_push_the_page(site: Site, tab: Tab) -> None:
    """A browser lays a narrowed page out before it tells the chart of it; here it never tells."""
    await tab.page.add_init_script("addEventListener('resize', (event) => event.stopImmediatePropagation(), true)")
    await widen(tab.page, 1280)
    await tab.page.goto(site.url)
    await tab.page.wait_for_selector("#plot canvas")
    await widen(tab.page, 360)
    assert await tab.page.evaluate("document.querySelector('#plot canvas').clientWidth") > 360
    assert await tab.page.evaluate(SCROLLS) <= 360


async def test_the_page_reads_without_javascript(site: Site, chromium: Any, conn: asyncpg.Connection) -> None:
    """Numbers instead of the drawing, and a button that works."""
    (job,) = await enqueue(conn, [NewJob("sync_prices")])
    context = await chromium.new_context(java_script_enabled=False)
    context.set_default_timeout(PATIENCE_S * 1000)
    page = await context.new_page()
    await page.goto(site.url)
    assert not await page.locator("#plot").is_visible()
    assert await page.locator("#chart-form button").is_visible()
    await follow(page, f"#job-{job} button")
    assert page.url == f"{site.url}/#jobs"
    assert "cancelled" in (await page.text_content(f"#job-{job}") or "")
    await context.close()


async def test_a_chosen_theme_stays(site: Site, tab: Tab) -> None:
    """System, light, dark, and round again; the drawing follows."""
    await tab.page.goto(site.url)
    for theme in ("light", "dark"):
        await tab.page.click("#theme-switch")
        assert await tab.page.evaluate("document.documentElement.dataset.theme") == theme
    await tab.page.reload()
    assert await tab.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 16, 21)"
    await tab.page.click("#theme-switch")
    assert await tab.page.evaluate("document.documentElement.dataset.theme ?? null") is None
