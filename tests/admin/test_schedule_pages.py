"""The pages of schedules: what they show, what their forms do, and what they refuse; all without JavaScript."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from ingestd.app.successes import successes
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from tests.admin.conftest import TOKEN, Open, Site
from tests.admin.rows import finish_job, take
from tests.admin.slots import declare, slot
from tests.admin.test_job_pages import OURS, read_problem, send
from tests.admin.test_page import HOSTILE, read

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
NIGHTLY = {"cron": "0 2 * * *", "timezone": "Europe/London", "tags": ["energy"], "start_within": "10m", "finish_within": "2h"}


async def marks(site: Site, path: str) -> list[str]:
    """How the marks of the first strip look, without the blank ones."""
    page = await read(site, path)
    found: list[str] = []
    for tag, attributes in page.tags:
        if tag == "i" and attributes.get("title"):
            found.append(str(attributes["class"]).removeprefix("m "))
    return found


async def test_a_strip_shows_each_outcome_in_its_own_shape_and_says_so_in_words(site: Site, conn: asyncpg.Connection) -> None:
    await declare(conn, nightly=NIGHTLY)
    running, waiting = await enqueue(conn, [NewJob("sync_prices"), NewJob("sync_prices")])
    await take(conn, running)
    await slot(conn, "nightly", 9 * HOUR, "missed", reason="nothing was running when it came due", slots=3)
    await slot(conn, "nightly", 8 * HOUR, "skipped", reason="paused by ana: stocktaking")
    await slot(conn, "nightly", 7 * HOUR, ended="failed")
    await slot(conn, "nightly", 6 * HOUR, "late", ended="succeeded", reason="12m late")
    await slot(conn, "nightly", 5 * HOUR, ended="partial")
    await slot(conn, "nightly", 4 * HOUR, ended="succeeded")
    await slot(conn, "nightly", 3 * HOUR, ended="cancelled")
    await slot(conn, "nightly", 2 * HOUR, "waiting", reason="waits for import readings")
    await slot(conn, "nightly", HOUR, job_id=running)
    await slot(conn, "nightly", HOUR / 2, job_id=waiting)
    shapes = ["missed", "skipped", "failed", "succeeded cap", "partial", "succeeded", "skipped", "waiting", "running", "waiting"]
    told = "Last 12 slots: 3 missed, 1 skipped, 1 failed, 2 succeeded, 1 partial, 1 cancelled, 2 waiting, 1 running, 1 of them late"
    for path in ("/", "/schedules", "/schedules/nightly"):
        assert await marks(site, path) == shapes, path
        (strip,) = [tag for tag in (await read(site, path)).all("div") if tag.get("role") == "img"]
        assert strip["aria-label"] == told, path
    titles = [str(tag["title"]) for tag in (await read(site, "/schedules")).all("i") if tag.get("title")]
    assert re.fullmatch(r"\w{3} \d+ \w{3}(?: \d{4})? \d\d:\d\d(:\d\d)?: 3 slots missed: nothing was running when it came due", titles[0])
    assert titles[3].endswith(": succeeded, late, took 3.0 s: 12m late")


async def test_a_schedule_whose_zone_this_machine_has_lost_is_shown_with_its_problem(site: Site, conn: asyncpg.Connection) -> None:
    await declare(conn, nightly=NIGHTLY)
    await slot(conn, "nightly", HOUR, ended="succeeded")
    await conn.execute("update ingestd.schedule set timezone = 'Mars/Phobos', problem = 'there is no such zone'")
    assert "there is no such zone" in (await read(site, "/schedules/nightly")).text


async def test_the_list_says_when_what_and_how_it_stands_and_is_searched(site: Site, conn: asyncpg.Connection) -> None:
    await declare(
        conn,
        nightly=NIGHTLY,
        stock={"every": "10m", "job": "sync_stock"},
        off={"cron": "0 0 * * *", "enabled": False},
        broken={"cron": "0 0 * * *"},
    )
    await conn.execute("update ingestd.schedule set problem = 'no such time zone' where name = 'broken'")
    await slot(conn, "stock", HOUR, ended="failed")
    page = await read(site, "/schedules")
    for words in (
        "every day at 02:00 · Europe/London",
        "every 10 minutes · UTC",
        "disabled",
        "no such time zone",
        "In trouble 2",
        "never fired",
    ):
        assert words in page.text, words
    links = [str(link["href"]) for link in page.all("a")]
    assert links.index("/schedules/broken") < links.index("/schedules/nightly") < links.index("/schedules/stock")
    assert [link["href"] for link in page.all("a") if link.get("aria-current")] == ["/schedules", "/schedules"]
    for query, shown in (
        ("standing=trouble", {"broken", "stock"}),
        ("standing=disabled", {"off"}),
        ("find=stock", {"stock"}),
        ("find=zzz", set()),
    ):
        rows = {str(row["id"]) for row in (await read(site, f"/schedules?{query}")).all("li") if row.get("id")}
        assert rows == {f"schedule-{name}" for name in shown}, query
    assert "Nothing matches." in (await read(site, "/schedules?find=zzz")).text
    assert '"standing" cannot be "trubble", did you mean "trouble"?' in (await read_problem(site, "/schedules?standing=trubble", 400)).text


async def test_a_long_list_has_pages_and_the_overview_shows_what_is_urgent(site: Site, conn: asyncpg.Connection) -> None:
    await declare(conn, **{f"s{n:03}": {"every": "1h"} for n in range(120)})
    await slot(conn, "s077", HOUR, "missed", reason="nothing was running")
    seen: list[str] = []
    address = "/schedules"
    while True:
        page = await read(site, address)
        seen += [str(row["id"]).removeprefix("schedule-") for row in page.all("li") if row.get("id")]
        further = [str(link["href"]) for link in page.all("a") if link.get("rel") == "next"]
        if not further:
            break
        address = further[0]
    assert seen == [f"s{n:03}" for n in range(120)]
    overview = await read(site, "/")
    shown = [str(row["id"]) for row in overview.all("li") if str(row.get("id")).startswith("schedule-")]
    assert (len(shown), shown[0]) == (8, "schedule-s077")
    assert "112 more" in overview.text


async def test_a_page_tells_everything_about_one_schedule(site: Site, conn: asyncpg.Connection) -> None:
    keys = {"args": {"supplier": "acme", "password": "hunter2"}, "after": [{"job": "sync_stock", "ok_within": "6h", "on_failure": "wait"}]}
    await declare(conn, nightly=NIGHTLY | keys)
    await slot(conn, "nightly", 2 * DAY, ended="failed", reason="boom")
    await slot(conn, "nightly", DAY, "late", ended="succeeded", job_id=17, overdue="finish", slow=True)
    await slot(conn, "nightly", HOUR, ended="succeeded", triggered_by="cli", reason="started by ana: a correction")
    await conn.execute(
        "insert into ingestd.downtime (began_at, ended_at, schedules, missed, late) values (now() - interval '1 h', now(), 2, 5, 1)"
    )
    page = await read(site, "/schedules/nightly")
    for words in (
        "Every day at 02:00", "0 2 * * *", "Europe/London", "job sync_prices", "supplier=acme", "energy", "Start within", "10m",
        "Finish within", "job sync_stock", "succeeded within 6h, else the slot waits for it", "66.7 %", "2 of 3 runs in 30 days",
        "started by ana: a correction", "had not ended by", "took longer than its target runtime", "5 missed, 1 late of 2 schedules",
        '[schedules.nightly]', 'cron = "0 2 * * *"', 'after = [{ job = "sync_stock", ok_within = "6h", on_failure = "wait" }]',
        "failed or missed on 1",
    ):  # fmt: skip
        assert words in page.text, words
    assert "hunter2" not in page.text
    assert "/jobs/17" in [link["href"] for link in page.all("a")]
    (picture,) = [tag for tag in page.all("svg") if tag.get("role") == "img"]
    assert str(picture["aria-label"]).startswith("Slots on ")
    assert "there is no schedule &#34;nightlly&#34;" not in page.text
    assert 'there is no schedule "nightlly", did you mean "nightly"?' in (await read_problem(site, "/schedules/nightlly", 404)).text


async def test_slots_to_come_tell_what_the_clock_does_and_which_are_passed_over(site: Site, conn: asyncpg.Connection) -> None:
    await declare(conn, clock={"cron": "30 1 * 3 SUN", "timezone": "Europe/London"}, often={"every": "1h"})
    text = (await read(site, "/schedules/clock")).text
    assert "Every Sunday at 01:30, in March" in text
    assert "does not exist on this day" in text, "the last Sunday of a March is among the next ten"
    await send(site, "/schedules/often", action="skip", reason="closed")
    page = await read(site, "/schedules/often")
    assert page.text.count("skipped once") == 1
    assert "once, by" in page.text
    assert "closed" in page.text
    await send(site, "/schedules/often", action="unskip")
    assert "skipped once" not in (await read(site, "/schedules/often")).text
    until = (datetime.now(UTC) + timedelta(hours=3)).replace(tzinfo=None).isoformat(timespec="minutes")
    await send(site, "/schedules/often", action="pause", until=until, reason="stocktaking")
    assert "stocktaking" in (await read(site, "/schedules/often")).text
    assert (await site.get("/schedules/often")).count("struck") in (2, 3), "those within the pause, no others"
    later = (datetime.now(UTC) + timedelta(days=9, hours=12)).replace(tzinfo=None).isoformat(timespec="minutes")
    await send(site, "/schedules/often", action="pause", until=later)
    html = await site.get("/schedules/often")
    assert (html.count("struck"), html.count("in 9 d")) == (10, 3), "the end of the pause twice, and the first slot behind it"
    await declare(conn, often={"every": "1h", "enabled": False})
    assert "No slot is to come." in (await read(site, "/schedules/often")).text


async def test_forms_do_what_they_say_and_leave_an_audit_row(site: Site, conn: asyncpg.Connection) -> None:
    await declare(conn, nightly=NIGHTLY | {"overlap": "allow"})
    here = "/schedules/nightly"
    assert await send(site, here, action="trigger", reason="a correction came") == here
    (job,) = (await site.get("/api/v1/jobs"))["items"]
    assert (job["notes"], job["triggered_by"]) == ("a correction came", "page")
    await send(site, here, action="pause", reason="hm", **{"for": "2h"})
    assert (await site.get("/api/v1/schedules/nightly"))["pause_reason"] == "hm"
    await send(site, here, action="resume")
    await send(site, here, action="skip")
    await send(site, here, action="unskip")
    assert await send(site, "/schedules?find=night", name="nightly", action="pause") == "/schedules?find=night"
    assert (await site.get("/api/v1/schedules/nightly"))["paused"] is True
    told = [row["action"] for row in (await site.get("/api/v1/audit"))["items"]]
    assert told == ["pause", "unskip", "skip_next", "resume", "pause", "trigger"]
    page = await read(site, here)
    for action in told:
        assert action.replace("_", " ") in page.text, action
    for fields, words in (
        ({"action": "explode"}, '"explode" is not an action'),
        ({"action": "pause", "for": "soon"}, "soon"),
        ({"action": "pause", "until": "tomorrow"}, '"tomorrow" is not a moment'),
        ({"action": "pause", "until": "2001-01-01T00:00"}, "would be over already"),
        ({"action": "trigger", "reason": "x" * 1001}, "1000 characters"),
    ):
        assert words in await send(site, here, 422, **fields), fields
    assert "there is no schedule" in await send(site, "/schedules", 404, name="nothing", action="pause")


async def test_too_many_presses_are_refused_in_words(site: Site, conn: asyncpg.Connection) -> None:
    await declare(conn, nightly=NIGHTLY | {"overlap": "allow"}, alone=NIGHTLY)
    for _ in range(10):
        await send(site, "/schedules/nightly", action="trigger")
    assert "within a minute" in await send(site, "/schedules/nightly", 429, action="trigger")
    await send(site, "/schedules/alone", action="trigger")
    assert "is still busy with job" in await send(site, "/schedules/alone", 409, action="trigger")


async def test_the_script_gets_the_part_that_changes_and_words_for_the_reader(site: Site, conn: asyncpg.Connection) -> None:
    await declare(conn, live=NIGHTLY)
    script = {"HX-Request": "true", "Sec-Fetch-Site": "same-origin"}
    async with site.request("POST", "/schedules/live", data={"action": "pause"}, headers=script) as response:
        assert response.headers["X-Ingestd-Message"] == "Schedule live is paused."
        text = await response.text()
    assert "<html" not in text
    assert "until it is resumed" in text
    async with site.request("POST", "/schedules", data={"action": "resume", "name": "live"}, headers=script) as response:
        assert response.headers["X-Ingestd-Message"] == "Schedule live goes on."
        assert 'id="schedule-live"' in await response.text()
    for path in ("/live/schedules", "/live/schedules/live"):
        assert "<html" not in await site.get(path)
    assert "<html" in await site.get("/schedules/live"), "a schedule of that name is no live part"
    (part,) = [tag for tag in (await read(site, "/schedules/live")).all("div") if tag.get("id") == "live"]
    assert part["data-live"] == "/live/schedules/live"


async def test_slots_are_paged_back_to_the_first(site: Site, conn: asyncpg.Connection) -> None:
    await declare(conn, nightly=NIGHTLY)
    for n in range(70):
        await slot(conn, "nightly", HOUR * (n + 1), ended="succeeded", job_id=n + 1)
    seen: list[str] = []
    address = "/schedules/nightly"
    while True:
        page = await read(site, address)
        seen += [str(row["id"]) for row in page.all("tr") if str(row.get("id")).startswith("slot-")]
        older = [str(link["href"]) for link in page.all("a") if link.get("rel") == "next"]
        if not older:
            break
        address = older[0].partition("#")[0]
        assert len([tag for tag in page.all("i") if tag.get("title")]) == 30, "the strip stays the latest"
    assert (len(seen), len(set(seen))) == (70, 70)
    assert '"before" must be a moment' in (await read_problem(site, "/schedules/nightly?before=never", 400)).text


async def test_who_may_only_look_sees_no_buttons_and_strangers_may_not_act(guarded: Site, site: Site, conn: asyncpg.Connection) -> None:
    await declare(conn, nightly=NIGHTLY)
    await conn.execute("update ingestd.schedule set paused_at = now(), paused_by = 'ana', skip_at = now(), skip_by = 'ana'")
    for path in ("/", "/schedules", "/schedules/nightly"):
        assert {form["method"] for form in (await read(guarded, path)).all("form")} <= {"get"}, path
    page = await read(guarded, "/schedules/nightly", headers={"Authorization": f"Bearer {TOKEN}"})
    assert "post" in [form["method"] for form in page.all("form")]
    cross = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    for path in ("/schedules", "/schedules/nightly"):
        fields = {"action": "resume", "name": "nightly"}
        async with site.request("POST", path, data=fields, headers=cross) as response:
            assert response.status == 403
        async with guarded.request("POST", path, data=fields, headers=OURS) as response:
            assert response.status == 401
        async with site.request("POST", path, json=fields) as response:
            assert response.status == 400
    assert (await site.get("/api/v1/schedules/nightly"))["paused"] is True


async def test_hostile_text_stays_text(site: Site, conn: asyncpg.Connection) -> None:
    """In reasons, arguments, tags, targets, names of people and of dependencies."""
    await declare(conn, nightly=NIGHTLY)
    await conn.execute("insert into ingestd.downtime (began_at, schedules, missed) values (now() - interval '1 h', 1, 1)")
    for number, words in enumerate(HOSTILE):
        await slot(conn, "nightly", HOUR * (number + 1), "skipped", reason=words)
        await conn.execute(
            """update ingestd.schedule set paused_at = now(), paused_by = $1, pause_reason = $1, skip_at = next_due_at, skip_by = $1,
               skip_reason = $1, problem = $1, tags = array[left($1, 100)], args = $2, target = $3, spec = $4, after = $5""",
            words,
            {words: words},
            {"type": "job", "name": words},
            {"cron": words, words: [words]},
            [{"type": "job", "name": words, "ok_within_s": 60, "on_failure": "skip"}],
        )
        await conn.execute(
            "insert into ingestd.audit (actor, role, via, action, object_type, object_id, detail, correlation_id) "
            "values ($1, 'operator', 'page', left($1, 100), 'schedule', 'nightly', $2, 'x')",
            words,
            {"reason": words},
        )
        for path in ("/", "/schedules", "/schedules/nightly", "/live/schedules", "/live/schedules/nightly"):
            html = await site.get(path)
            page = await read(site, path)
            assert page.all("img") == page.all("iframe") == page.all("object") == [], words
            assert len(page.all("script")) == (0 if path.startswith("/live") else 6 if path == "/" else 4), words
            assert page.all("style") == []
            assert re.findall(r"<script[^>]*>[^<]+</script>", html) == []
            for tag, attributes in page.tags:
                assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, words)
                for name in ("href", "src", "action"):
                    value = attributes.get(name)
                    assert value is None or value.startswith(("/", "#")), (tag, value)
    for query in ("find=%3Cscript%3E", "after=%22%3E%3Cimg%20src%3Dx%3E", "find=" + "a" * 3000):
        page = await read(site, f"/schedules?{query}")
        assert page.all("img") == []


@pytest.mark.parametrize("rule", [{"cron": "0 0 29 2 *"}, {"at": "2001-01-01T00:00:00Z"}, {"every": "1d", "end": "2001-01-01"}])
async def test_rules_that_are_rare_or_over_have_a_page(site: Site, conn: asyncpg.Connection, rule: dict[str, Any]) -> None:
    await declare(conn, rare=rule)
    page = await read(site, "/schedules/rare")
    assert ("No slot is to come." in page.text) == ("cron" not in rule)
    assert "No slots yet." in page.text
    assert (await read(site, "/schedules")).all("li")


async def test_a_dependency_says_whether_it_is_met_for_the_next_slot(open_site: Open, conn: asyncpg.Connection) -> None:
    """By the same look as the scheduler's; where that fails the page is there all the same."""
    after = [{"job": "sync_stock", "ok_within": "6h"}, {"workflow": "market"}]
    await declare(conn, soon={"every": "1h", "after": after})
    site = await open_site(state={"successes": successes})
    assert (await read(site, "/schedules/soon")).text.count("not yet met") == 2
    (job,) = await enqueue(conn, [NewJob("sync_stock")])
    await finish_job(conn, job)
    other = await open_site(state={"successes": successes})  # the first one has it in mind for some seconds
    html = await other.get("/schedules/soon")
    assert (html.count(">not yet met<"), html.count(">met<")) == (1, 1)

    async def broken(connection: asyncpg.Connection, _: Any) -> set[Any]:
        await connection.execute("select 1 / 0")
        return set()

    blind = await open_site(state={"successes": broken})
    assert "succeeded within 6h" in (await read(blind, "/schedules/soon")).text
