"""Promise 11: canaries in every place where a secret may lie, and none of them in the log, a page, an API answer or a metric."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import aiohttp

from tests.daemon.harness import Daemon, Site
from tests.support import eventually

DOCUMENTED = re.compile(r"^\| `GET (/[^`]*)`", re.MULTILINE)
LINK = re.compile(r"(?:href|hx-get)=\"(/[^\"#]*)\"")
HTTP_API = Path(__file__).parent.parent.parent / "docs" / "http-api.md"
HANDLERS = """
import logging
import os
import sys

import structlog

from ingestd import Context, job

SAID = "the database is {database} with {password}, the page wants {token}, Authorization: Bearer {token}, outside is {ping}"


@job("careless", max_attempts=1)
async def careless(ctx: Context, **args) -> None:
    said = SAID.format(**args["known"])
    ctx.log.info("logged " + said, password=args["password"], options=args["nested"], raw=said)
    logging.getLogger("library").warning("%s and %s", said, args["url"])
    structlog.get_logger("shop").warning("ours", api_key=args["nested"]["api_key"], shown=said)
    print(said, file=sys.stderr) if ctx.job.kind == "careless_process" else None
    ctx.progress(0.5, said)
    try:
        raise ValueError(said)
    except ValueError as error:
        logging.getLogger("library").exception("it failed with %s", said)
        raise RuntimeError("wrapped: " + said) from error


@job("careless_process", executor="process", max_attempts=1)
async def careless_process(ctx: Context, **args) -> None:
    await careless.spec.run(ctx, **args)
"""


class Canaries:
    """Secrets that nothing else can be taken for."""

    def __init__(self, url: str) -> None:
        self.password, self.token, self.ping, self.argument = (f"{name}-{secrets.token_hex(12)}" for name in ("pw", "tok", "ping", "arg"))
        parts = urlsplit(url)
        # A server that asks for a password has one that nothing else can be taken for; to another one any will do.
        self.password = unquote(parts.password or self.password)
        user = parts.username or "postgres"
        self.database = urlunsplit(parts._replace(netloc=f"{user}:{quote(self.password, safe='')}@{parts.netloc.rpartition('@')[2]}"))
        self.ping_url = f"http://127.0.0.1:1/{self.ping}"

    @property
    def args(self) -> dict[str, object]:
        """What a careless caller gives a job."""
        secret = self.argument
        return {
            "password": secret,
            "nested": {"api_key": secret, "list": [{"client_secret": secret}]},
            "url": f"https://somebody:{secret}@example.invalid/path",
        }

    def known(self) -> dict[str, str]:
        """What a careless handler says of the configuration."""
        return {"database": self.database, "password": self.password, "token": self.token, "ping": self.ping_url}

    def seen_in(self, text: str) -> list[str]:
        """The canaries that a text holds, with what stands before them."""
        return [
            f"{name}: …{text[max(text.index(value) - 80, 0) : text.index(value) + 10]}"
            for name, value in vars(self).items()
            if name != "database" and value in text
        ]


async def everything_shown(daemon: Daemon, token: str, ids: list[str]) -> AsyncIterator[tuple[str, int, str]]:
    """Every page and document that can be read, as whoever may do anything."""
    headers = {"Authorization": f"Bearer {token}"}
    timeout = aiohttp.ClientTimeout(total=20)
    names = [*ids, "nightly", "things", "careless", "default"]
    waiting = ["/", *DOCUMENTED.findall(HTTP_API.read_text(encoding="utf-8"))]
    seen = set[str]()
    async with aiohttp.ClientSession(daemon.url, headers=headers, timeout=timeout) as session:
        while waiting and len(seen) < 600:
            path = waiting.pop()
            if (hole := re.search(r"\{\w+(?::[^}]*)?\}", path)) is not None:
                waiting += [path.replace(hole[0], name) for name in names]
                continue
            if path in seen:
                continue
            seen.add(path)
            async with session.get(path) as answer:
                if answer.content_type == "text/event-stream":
                    told = b""
                    try:
                        async with asyncio.timeout(1.5):
                            async for line in answer.content:
                                told += line
                    except TimeoutError:
                        pass
                    text = told.decode()
                else:
                    text = await answer.text()
                if answer.content_type == "text/html":
                    waiting += [link.replace("&amp;", "&") for link in LINK.findall(text) if not link.startswith("/static/")]
                yield path, answer.status, f"{answer.headers}\n{text}"


async def test_no_canary_reaches_a_log_a_page_an_answer_or_a_metric(site: Site) -> None:
    canaries = Canaries(site.external)
    site.external = canaries.database
    site.module("careless_jobs", HANDLERS.replace('args["known"]', json.dumps(canaries.known())))
    site.configure(
        f"""
[logs]
level = "debug"
[heartbeat]
url = "{canaries.ping_url}"
[imports.things]
source = "{site.inbox}/*.csv"
table = "public.things"
[schedules.nightly]
cron = "0 2 * * *"
job = "careless"
args = {{ token = "{canaries.argument}" }}
""",
        daemon='handlers = ["careless_jobs"]',
        admin=f'port = 0\ntoken = "{canaries.token}"',
    )
    daemon = await site.start()
    bearer = {"Authorization": f"Bearer {canaries.token}"}
    ids = []
    for kind in ("careless", "careless_process"):
        status, job = await daemon.post("/api/v1/jobs", {"kind": kind, "args": canaries.args}, headers=bearer)
        assert status == 201
        assert canaries.seen_in(json.dumps(job)) == []
        ids.append(job["id"])
    # A change, for the audit log, and a body that is refused, for its problem document.
    status, _ = await daemon.post("/api/v1/jobs", {"kind": "careless", "args": canaries.args, "passwort": "x"}, headers=bearer)
    assert status == 422
    for number in ids:
        await eventually(partial(ended, daemon, number, bearer))

    wrong, read = {}, 0
    async for path, status, text in everything_shown(daemon, canaries.token, ids):
        assert status < 500, (path, text)
        read += status == 200
        if found := canaries.seen_in(text):
            wrong[path] = found
    assert wrong == {}
    assert read > 40

    for words in (["jobs", "show", ids[0]], ["--json", "jobs", "list"], ["check"], ["-v", "nodes", "list"], ["--json", "audit"]):
        ran = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "ingestd", "--config", str(site.config), *words],
            cwd=site.folder, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        for secret in (canaries.password, canaries.token, canaries.ping):
            assert secret not in ran.stdout + ran.stderr, words

    assert await daemon.stop() == 0
    log = daemon.log()
    assert canaries.seen_in(log) == []
    # They were said, and taken out.
    assert "wrapped: the database is" in log
    assert log.count("logged the database is") >= 2
    kept = await site.rows("select error::text as error from ingestd.history where kind like 'careless%'")
    assert [secret in row["error"] for row in kept for secret in (canaries.password, canaries.token, canaries.ping)] == [False] * 6


async def ended(daemon: Daemon, number: str, headers: dict[str, str]) -> bool:
    _, job = await daemon.get(f"/api/v1/jobs/{number}", headers=headers)
    return bool(job["finished_at"])
