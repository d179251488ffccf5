"""The page: readable and usable without JavaScript, and deaf to what rows try to say to a browser."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import timedelta
from html.parser import HTMLParser
from importlib import resources
from typing import Any
from urllib.parse import urlencode

import asyncpg
import pytest

from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from ingestd.schedule.declare import CompiledTarget, apply
from ingestd.schedule.settings import ScheduleSettings
from tests.admin.conftest import Open, Site
from tests.admin.rows import fail_job, finish_job, new_load

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'-alert(1)-'",
    "javascript:alert(1)",
    "</title></textarea><svg/onload=alert(1)>",
    "{{ 7*7 }}{% raw %}",
    "<!--",
    "]]>",
    "\u202egnp.exe",
    "ሴ�",
    "a" * 5000,
]
VENDOR = resources.files("ingestd.admin") / "static" / "vendor"


class Reader(HTMLParser):
    """What a browser would make of a page, as far as it matters here."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


async def read(site: Site, path: str = "/", **how: Any) -> Reader:
    return Reader(await site.get(path, **how))


async def test_an_empty_daemon_has_a_page_that_says_what_to_do(site: Site) -> None:
    """Nothing is there yet, and nothing is broken."""
    page = await read(site)
    assert "Nothing has been loaded yet." in page.text
    assert "No schedules are declared." in page.text
    assert "testing" in page.text
    assert "testnode" in page.text


async def test_the_page_shows_jobs_loads_rollups_schedules_and_health(site: Site, conn: asyncpg.Connection) -> None:
    """In words, numbers and times that programs can read too."""
    good, bad, waiting = await enqueue(conn, [NewJob("sync_prices", {"supplier": "acme"}), NewJob("sync_prices"), NewJob("sync_prices")])
    await finish_job(conn, good)
    await fail_job(conn, bad, "prices.example.com answered 503")
    await new_load(conn, "readings", "jan.csv", read=26115, inserted=26115)
    await conn.execute(
        "update ingestd.load set status = 'skipped', duplicate_of = 1 where id = $1", await new_load(conn, "readings", "again.csv")
    )
    await apply(conn, {"nightly": ScheduleSettings(cron="0 2 * * *", job="sync_prices")}, lambda _: CompiledTarget("sync_prices"))
    page = await read(site)
    skipped, rule = "skipped: already loaded by load 1", "every day at 02:00 · UTC"
    for words in ("supplier=acme", "prices.example.com answered 503", "26,115", skipped, rule):
        assert words in page.text, words
    assert {time["datetime"] for time in page.all("time")}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", str(time["datetime"])) for time in page.all("time"))
    forms = {form["action"] for form in page.all("form")}
    assert {f"/jobs/{bad}/retry", f"/jobs/{waiting}/cancel", "/schedules/nightly/trigger"} <= forms
    assert f"/jobs/{good}/retry" not in forms


async def test_hostile_text_stays_text(site: Site, conn: asyncpg.Connection) -> None:
    """In kinds, arguments, errors, reasons, file names, columns: none becomes a tag or an attribute."""
    scripts = len((await read(site)).all("script"))
    for words in HOSTILE:
        jobs = [NewJob(words[:200], {words: [words]}, tags=(words[:100],), notes=words), NewJob("sync_prices", {"a": words})]
        first, second = await enqueue(conn, jobs)
        await fail_job(conn, second, words)
        await new_load(conn, "readings", words, status="failed", reason=words)
        await new_load(conn, words, "x.csv", status="partial", read=2, inserted=1, rejected=1)
        of_first = urlencode({"kind": words[:200]})
        jobs_pages = (
            "/jobs",
            "/jobs/dead",
            f"/jobs/{first}",
            f"/jobs/{second}",
            f"/jobs/bulk?action=delete&{of_first}",
            f"/jobs?{of_first}",
        )
        for path in ("/", "/live", "/?jobs=failed", "/?jobs=waiting", *jobs_pages):
            page = await read(site, path)
            assert page.all("img") == page.all("iframe") == page.all("object") == [], words
            assert len(page.all("script")) == (0 if path == "/live" else 1 if path in jobs_pages else scripts), words
            for tag, attributes in page.tags:
                assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, words)
                assert not str(attributes.get("href") or "").startswith(("javascript", "data")), words
        assert first < second


async def test_nothing_on_the_page_is_inline_or_from_elsewhere(site: Site) -> None:
    """What the policy forbids is not even tried."""
    page = await read(site)
    for script in page.all("script"):
        assert str(script["src"]).startswith("/static/")
    assert page.all("style") == []
    for tag, attributes in page.tags:
        assert "style" not in attributes, tag
        for name in ("src", "href", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("/", "#")), (tag, value)
    html = await site.get("/")
    assert re.findall(r"<script[^>]*>[^<]+</script>", html) == []


async def test_every_asset_is_served_and_may_be_kept(site: Site) -> None:
    """For ever under its own mark, not at all under another."""
    page = await read(site)
    paths = [tag["src"] for tag in page.all("script")] + [link["href"] for link in page.all("link")]
    assert len(paths) >= 8
    for path in paths:
        assert path is not None
        async with site.request("GET", path) as response:
            assert response.status == 200
            assert "immutable" in response.headers["Cache-Control"]
        async with site.request("GET", path.replace("?v=", "?v=0")) as response:
            assert response.headers["Cache-Control"] == "no-cache"
    for path in ("/static/vendor/VENDOR.json", "/static/%2e%2e/settings.py", "/static//etc/passwd"):
        await site.get(path, 404)


async def test_an_action_works_without_javascript(site: Site, conn: asyncpg.Connection) -> None:
    """A form, its effect, its audit row through the page, and back to where one was."""
    (job,) = await enqueue(conn, [NewJob("sync_prices")])
    await fail_job(conn, job)
    async with site.request("POST", f"/jobs/{job}/retry?jobs=failed", headers={"Sec-Fetch-Site": "same-origin"}) as response:
        assert response.status == 303
        assert response.headers["Location"] == "/?jobs=failed#jobs"
    (row,) = (await site.get("/api/v1/audit"))["items"]
    assert (row["action"], row["object_id"], row["via"]) == ("retry", str(job), "page")
    async with site.request("POST", f"/jobs/{job}/retry", headers={"Accept": "text/html"}) as response:
        assert response.status == 409
        assert "only failed and cancelled jobs can be retried" in await response.text()


async def test_an_action_with_javascript_is_answered_with_the_fresh_part(site: Site, conn: asyncpg.Connection) -> None:
    """And words for the reader; an error is a document."""
    (job,) = await enqueue(conn, [NewJob("sync_prices")])
    await site.get("/live")
    script = {"HX-Request": "true", "Sec-Fetch-Site": "same-origin"}
    async with site.request("POST", f"/jobs/{job}/cancel", headers=script) as response:
        assert response.status == 200
        assert response.headers["X-Ingestd-Message"] == f"Job {job} is cancelled."
        assert f'id="job-{job}"' in await response.text()
    assert (await site.post(f"/jobs/{job}/cancel", 409, headers=script))["title"] == "Conflict"


async def test_every_action_of_the_page_goes_through_the_room(open_site: Open, conn: asyncpg.Connection) -> None:
    """Loads, schedules, rollups, workflows: effect, audit row, redirect."""
    from ingestd.access.store import record_audit

    async def begin(connection: asyncpg.Connection, actor: Any, name: str) -> int:
        await record_audit(connection, actor, "start", "workflow", name)
        return 7

    site = await open_site(state={"workflows": lambda: {"market": 1}, "start_workflow": begin})
    await apply(conn, {"nightly": ScheduleSettings(every=timedelta(hours=1), job="x")}, lambda _: CompiledTarget("sync_prices"))
    load, other = [await new_load(conn, "readings", f"{name}.csv", status="failed", with_job=True) for name in "ab"]
    for path, section in (
        (f"/loads/{load}/retry", "loads"), (f"/loads/{other}/skip", "loads"), ("/schedules/nightly/trigger", "schedules"),
        ("/schedules/nightly/pause", "schedules"), ("/schedules/nightly/resume", "schedules"), ("/workflows/market/start", "workflows"),
    ):  # fmt: skip
        async with site.request("POST", path) as response:
            assert (response.status, response.headers["Location"]) == (303, f"/#{section}"), path
    audit = await site.get("/api/v1/audit")
    assert [row["action"] for row in audit["items"]] == ["start", "resume", "pause", "trigger", "skip", "retry"]
    assert {row["via"] for row in audit["items"]} == {"page"}
    for path in ("/loads/999/skip", "/rollups/x/refresh", "/schedules/x/pause", "/workflows/x/start"):
        async with site.request("POST", path) as response:
            assert response.status == 404, path


async def test_who_may_only_look_sees_no_buttons(guarded: Site, conn: asyncpg.Connection) -> None:
    """And somebody who may act, looking at the same moment, does."""
    await enqueue(conn, [NewJob("sync_prices")])
    page = await read(guarded)
    assert [form["method"] for form in page.all("form")] == ["get"]
    from tests.admin.conftest import TOKEN

    page = await read(guarded, headers={"Authorization": f"Bearer {TOKEN}"})
    assert "post" in [form["method"] for form in page.all("form")]


async def test_tabs_list_what_they_say(site: Site, conn: asyncpg.Connection) -> None:
    """Each has an address."""
    failed, waiting = await enqueue(conn, [NewJob("sync_prices"), NewJob("sync_prices")])
    await fail_job(conn, failed)
    for query, shown in (("", {failed, waiting}), ("?jobs=failed", {failed}), ("?jobs=waiting", {waiting}), ("?jobs=running", set())):
        page = await read(site, f"/{query}")
        assert {int(row["id"].removeprefix("job-")) for row in page.all("tr") if (row.get("id") or "").startswith("job-")} == shown  # type: ignore[union-attr]
    await site.get("/?jobs=faild", 400)
    await site.get("/?job=failed", 400)


async def test_what_runs_is_shown_however_much_waits(site: Site, conn: asyncpg.Connection) -> None:
    """A hundred newer jobs do not push it off the page."""
    from tests.admin.rows import take

    (running,) = await enqueue(conn, [NewJob("sync_prices")])
    await take(conn, running)
    await enqueue(conn, [NewJob("sync_prices") for _ in range(100)])
    assert f'id="job-{running}"' in await site.get("/")


async def test_a_chart_draws_a_rollup_and_says_it_in_words_and_numbers(site: Site, conn: asyncpg.Connection) -> None:
    """The table is the chart's source, so both agree."""
    from ingestd.rollups.declare import apply as declare
    from ingestd.rollups.refresh import refresh
    from ingestd.rollups.settings import RollupSettings
    from ingestd.rollups.tend import tend

    await conn.execute("create table public.readings (meter text, read_at timestamptz, kwh numeric)")
    await conn.execute(
        """insert into public.readings select m, timestamptz '2026-03-01' + d * interval '1 day', d + ascii(m)
        from unnest(array['a','b','c','d','e','f','g','h']) m, generate_series(0, 9) d"""
    )
    settings = RollupSettings(
        source="readings", time="read_at", bucket="1 day", group_by=["meter"], measures={"n": "count(*)", "total_kwh": "sum(kwh)"}
    )
    await declare(conn, {"daily": settings})
    await tend(conn)
    page = await read(site, "/?chart=daily.total_kwh")
    assert "Total kwh by meter" in page.text
    assert "The 6 largest of 8 groups over 10 buckets, Sun 1 Mar 2026 to Tue 10 Mar 2026; highest 113 (h, Tue 10 Mar 2026)." in page.text
    (table,) = [table for table in page.all("table") if table.get("id") == "chart-table"]
    assert (table["data-zone"], table["data-step"]) == ("UTC", "86400.0")
    assert len([cell for cell in page.all("td") if "data-value" in cell]) == 60
    assert {option["value"] for option in page.all("option")} == {"daily.n", "daily.total_kwh", "jobs"}
    assert "Jobs finished" in (await read(site, "/?chart=jobs")).text
    assert "by meter" in (await read(site, "/?chart=nonsense")).text  # the first one there is
    async with conn.transaction():
        await refresh(conn, "daily")
    assert "fresh" in (await read(site)).text


def test_vendored_files_are_the_ones_we_looked_at() -> None:
    """By checksum; none is there that is not listed, and each has its licence in NOTICE."""
    from tests.test_architecture import PACKAGE

    listed = json.loads((VENDOR / "VENDOR.json").read_text())
    found = {
        f"{folder.name}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest()
        for folder in VENDOR.iterdir()
        if folder.is_dir()
        for file in folder.iterdir()
    }
    assert found == {name: mark for entry in listed for name, mark in entry["files"].items()}
    notice = (PACKAGE.parent.parent / "NOTICE").read_text()
    for entry in listed:
        assert entry["name"].lower() in notice.lower()
        assert entry["version"]
        assert entry["licence"] in ("0BSD", "MIT")


@pytest.mark.parametrize("name", ["page.js", "chart.js", "theme.js"])
def test_our_scripts_keep_to_the_policy(name: str) -> None:
    """No eval, no markup from strings, no inline styles."""
    text = (resources.files("ingestd.admin") / "static" / name).read_text()
    for word in ("eval(", "new Function", "innerHTML =", "insertAdjacentHTML", "document.write", ".style.cssText", 'setAttribute("style"'):
        assert word not in text
