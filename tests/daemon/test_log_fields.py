"""A cause can be followed: one correlation id from any entrance to every line of the jobs that it made, in journald's fields."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.daemon.harness import Site
from tests.daemon.journald import Journald, open_journald
from tests.support import eventually

HANDLERS = """
import asyncio
import logging
import sys

import structlog

from ingestd import Context, SyncContext, job


@job("in_process", executor="process")
async def in_process(ctx: Context) -> None:
    ctx.log.info("a process speaks", size=3)
    logging.getLogger("library").warning("a library in a process speaks of %s", "something")
    structlog.get_logger("shop").info("structlog in a process speaks")
    sys.stderr.write("a process writes to stderr\\n")
    sys.stderr.flush()
    await asyncio.sleep(0.2)


@job("in_thread", executor="thread")
def in_thread(ctx: SyncContext) -> None:
    logging.getLogger("library").warning("a library in a thread speaks")
    ctx.enqueue("in_process")


@job("begins")
async def begins(ctx: Context) -> None:
    ctx.log.info("it begins", nested={"a": [1, 2]}, text="two\\nlines")
    await asyncio.create_task(aside())
    await in_thread.enqueue()


async def aside() -> None:
    logging.getLogger("library").warning("a task aside speaks")
"""
CSV = "id,name\n1,a\n2,b\n"
# Who speaks in those handlers, and the kind of job in which that is said.
SPOKEN = {
    "a task aside speaks": "begins",
    "a library in a thread speaks": "in_thread",
    "a process speaks": "in_process",
    "a library in a process speaks of something": "in_process",
    "structlog in a process speaks": "in_process",
    "in_process: a process writes to stderr": "in_process",
}


@pytest.fixture
def journald() -> Iterator[Journald]:
    """A stand-in for journald."""
    with open_journald() as made:
        yield made


def cli(site: Site, *words: str, **environment: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "ingestd", "-q", "--config", str(site.config), *words],
        check=True,
        cwd=site.folder,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=60,
    )


def spoken(journald: Journald, correlation: str) -> dict[str, str]:
    """What has been said of one cause, and in which kind of job."""
    found = {entry["MESSAGE"]: entry for entry in journald.where(correlation_id=correlation)}
    return {text: entry["INGESTD_KIND"] for text, entry in found.items() if "speak" in text or "writes" in text}


async def test_what_one_cause_made_is_found_under_one_correlation_id_whatever_entrance_it_came_by(site: Site, journald: Journald) -> None:
    site.module("speakers", HANDLERS)
    site.configure(
        f"""
[logs]
level = "debug"
[imports.things]
source = "{site.inbox}/*.csv"
table = "public.things"
poll = "200ms"
[schedules.often]
every = "1s"
job = "begins"
""",
        daemon='handlers = ["speakers"]',
    )
    daemon = site.launch(inside=journald.inside)
    (started,) = await eventually(lambda: journald.where(event="NodeStarted"), saying="the daemon is ready")
    daemon.url = started["INGESTD_ADMIN_URL"]
    assert started["INGESTD_NODE"].endswith(f":{daemon.pid}")
    assert (started["SYSLOG_IDENTIFIER"], started["PRIORITY"]) == ("ingestd", "6")

    def chain(correlation: str, said: str = "a process writes to stderr") -> list[dict[str, str]]:
        """Everything of one cause, once the last of it has been said."""
        found = journald.where(correlation_id=correlation)
        ended = [entry for entry in found if entry.get("INGESTD_EVENT") in ("JobFinished", "JobsSucceeded")]
        return found if any(said in entry["MESSAGE"] for entry in found) or (ended and not said) else []

    # HTTP
    status, job = await daemon.post("/api/v1/jobs", {"kind": "begins"}, headers={"X-Correlation-ID": "from-http"})
    assert status == 201
    # A process has one way for its lines and another for its stderr: which of them comes last nobody knows.
    await eventually(lambda: spoken(journald, "from-http") == SPOKEN, saying="all that speaks has spoken")
    found = await eventually(lambda: chain("from-http"), saying="the cause has run its course")
    by_text = {entry["MESSAGE"]: entry for entry in found}
    assert by_text["it begins"]["INGESTD_JOB_ID"] == job["id"]
    assert by_text["it begins"]["INGESTD_TEXT"] == "two\nlines"
    assert by_text["it begins"]["INGESTD_NESTED"] == '{"a": [1, 2]}'
    assert {entry["INGESTD_NODE"] for entry in found} == {started["INGESTD_NODE"]}
    _, jobs = await daemon.get("/api/v1/jobs?correlation_id=from-http")
    assert sorted(each["kind"] for each in jobs["items"]) == ["begins", "in_process", "in_thread"]

    # the command line, on behalf of a script that has an id of its own
    cli(site, "enqueue", "begins", INGESTD_CORRELATION_ID="from-cli")
    await eventually(lambda: chain("from-cli"))

    # SQL, and a caller that says nothing: the job's own id
    own = await site.ask("select ingestd.enqueue('begins')")
    assert {entry["INGESTD_KIND"] for entry in await eventually(lambda: chain(f"job-{own}")) if "INGESTD_KIND" in entry} == {
        "begins",
        "in_thread",
        "in_process",
    }
    _, jobs = await daemon.get(f"/api/v1/jobs?correlation_id=job-{own}")
    assert {str(own)} < {each["id"] for each in jobs["items"]}
    await site.ask("""select ingestd.enqueue('begins', '{}', '{"correlation_id": "from-sql"}')""")
    await eventually(lambda: chain("from-sql"))

    # a schedule
    slot: str = await eventually(lambda: site.ask("select correlation_id from ingestd.history where triggered_by = 'schedule' limit 1"))
    await eventually(lambda: chain(slot))

    # a folder
    (site.inbox / "things.csv").write_text(CSV)
    (loaded,) = await eventually(lambda: journald.where(event="LoadFinished"))
    row = (await site.rows("select correlation_id, job_id from ingestd.load"))[0]
    assert (loaded["INGESTD_CORRELATION_ID"], loaded["INGESTD_JOB_ID"]) == (row["correlation_id"], str(row["job_id"]))

    assert await daemon.stop() == 0
    await eventually(lambda: journald.where(event="NodeStopped"), saying="the last line has been received")
    # Nothing of ours goes by the way that has no fields.
    assert daemon.log() == ""
