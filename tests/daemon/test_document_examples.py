"""What the README and docs/enqueue.md tell people to type does what they say, beside a real daemon."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemon.harness import REPOSITORY, Site
from tests.support import PATIENCE_S, eventually

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
ENQUEUE = (REPOSITORY / "docs" / "enqueue.md").read_text(encoding="utf-8")
# What differs from one run to the next: moments and how long something took.
VARIES = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d|\d+(?:\.\d+)? m?s\b")
SHOP = """
from ingestd import Context, job

@job("sync_prices")
async def sync_prices(ctx: Context, supplier: str = "any") -> dict[str, int]:
    return {"rows": 1}

@job("send_receipt")
async def send_receipt(ctx: Context, order: int) -> None: ...
"""


def blocks(document: str, language: str, heading: str) -> list[str]:
    """The examples in a language below a heading."""
    (section,) = re.findall(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", _without_comments(document), re.MULTILINE | re.DOTALL)
    found = [re.sub(r"^\\#", "#", block, flags=re.MULTILINE) for block in re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)]
    assert found, heading
    return found


def _without_comments(document: str) -> str:
    """Comments at the beginning of a line of an example are no headings."""
    return re.sub(r"```.*?```", lambda block: re.sub(r"^#", r"\\#", block[0], flags=re.MULTILINE), document, flags=re.DOTALL)


def alike(text: str) -> list[list[str]]:
    """Lines as words, without what varies."""
    return [VARIES.sub("…", line).split() for line in text.splitlines()]


class Terminal:
    """A shell beside the configuration, in which `ingestd` is ours."""

    def __init__(self, folder: Path, config: str) -> None:
        self.folder = folder
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("INGESTD_") and name != "COLUMNS"}
        self.environ = {**inherited, "PYTHONPATH": str(REPOSITORY / "daemon"), "INGESTD_CONFIG": config}

    async def type(self, words: str) -> tuple[int, str]:
        """Exit code, and everything that is printed."""
        script = f'ingestd() {{ {shlex.quote(sys.executable)} -m ingestd "$@"; }}\n{words}'
        done = await asyncio.to_thread(
            subprocess.run,
            ["bash", "-c", script],
            check=False,
            cwd=self.folder,
            env=self.environ,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=2 * PATIENCE_S,
        )
        return done.returncode, done.stdout


async def test_the_jobs_of_the_readme_end_as_it_shows(site: Site) -> None:
    (code,), (config,), (session,) = (blocks(README, language, "Your own jobs") for language in ("python", "toml", "console"))
    (site.folder / "myapp").mkdir()
    (site.folder / "myapp" / "jobs.py").write_text(code, encoding="utf-8")
    daemon, _, schedules = config.partition("\n\n")
    site.configure(schedules, daemon=daemon.partition("[daemon]\n")[2])
    await site.start()
    terminal = Terminal(site.folder, "config.toml")
    *once, (looks, _, list_of_jobs) = [part.partition("\n") for part in session.split("$ ")[1:]]
    assert len(once) == 4
    for command, _, output in once:
        _, said = await terminal.type(command)
        assert alike(said) == alike(output)

    async def listed() -> bool:
        _, said = await terminal.type(looks)
        assert alike(said) == alike(list_of_jobs)
        return True

    await eventually(listed)
    assert await site.ask("select sum(euros) from prices") == 160


async def test_mistakes_of_a_configuration_are_told_as_the_readme_shows(site: Site) -> None:
    config = blocks(README, "toml", "Your own data")[0]
    (session,) = blocks(README, "console", "Configuration")
    command, _, output = session.removeprefix("$ ").partition("\n")
    site.config.write_text(config.replace('table = "', 'tabel = "').replace('"1 day"', '"1 dya"'), encoding="utf-8")
    assert await Terminal(site.folder, "").type(command) == (78, output)


@pytest.mark.parametrize("how", ["Command line", "HTTP"])
async def test_the_commands_that_enqueue_are_answered(site: Site, how: str) -> None:
    (commands,) = blocks(ENQUEUE, "sh", how)
    site.module("shop", SHOP)
    site.configure(daemon='handlers = ["shop"]')
    daemon = await site.start()
    address = daemon.url.removeprefix("http://")
    code, said = await Terminal(site.folder, "config.toml").type("set -e\n" + commands.replace("localhost:8420", address))
    assert code == 0, said
    assert ('"unique_key"' in commands, '"existing":false' in said) == (how == "HTTP", how == "HTTP")
    assert await site.ask("select count(*) from ingestd.job where unique_key = 'prices:acme'") == 1


async def test_the_sql_that_enqueues_runs_as_it_stands(site: Site) -> None:
    (statements,) = blocks(ENQUEUE, "sql", "SQL")
    site.module("shop", SHOP)
    site.configure(daemon='handlers = ["shop"]')
    await site.start()
    async with site.connection() as conn:
        await conn.execute("create table suppliers as select unnest(array['acme', 'ajax']) as name")
        await conn.execute(statements)

    async def all_but_the_delayed_one_ran() -> bool:
        done = await site.ask("select count(*) from ingestd.history where kind = 'sync_prices' and state = 'succeeded'")
        return bool(done == 4)

    await eventually(all_but_the_delayed_one_ran)
