"""The examples of docs/handlers.md and docs/coming-from.md run, and end as they say."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ingestd.jobs.decorator import declared_jobs
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from ingestd.jobs.settings import QueueSettings
from ingestd.jobs.store.queues import declare_queue
from ingestd.postgres.pool import Database
from tests.support import eventually
from tests.work.conftest import working

DOCS = Path(__file__).parent.parent.parent / "docs"
EXAMPLES = [
    (f"{document}_{number}", text)
    for document in ("handlers", "coming-from")
    for number, text in enumerate(re.findall(r"```python\n(.*?)```", (DOCS / f"{document}.md").read_text(encoding="utf-8"), re.DOTALL))
]
RUN = re.compile(r"^# (\w+) (\{.*?\}) -> (\w+)(?: (\{.*\}))?$", re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    sys.path.insert(0, str(tmp_path))
    yield tmp_path
    sys.path.remove(str(tmp_path))


@pytest.mark.parametrize(("name", "text"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
async def test_an_example_ends_as_it_says(db: Database, folder: Path, name: str, text: str) -> None:
    runs = RUN.findall(text)
    assert runs, "an example says how it ends: # kind {args} -> state {result}"
    name = f"example_{name.replace('-', '_')}"
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    module = importlib.import_module(name)
    jobs = declared_jobs(vars(module))
    async with db.services() as conn:
        await conn.execute("create table booking (account int, amount int)")
        for queue in {job.queue for job in jobs} - {"default"}:
            await declare_queue(conn, queue, QueueSettings())
    async with working(db, *jobs, slots={job.queue: 4 for job in jobs}):
        for kind, args, state, result in runs:
            done = await _final(db, kind, json.loads(args))
            ended = "partial" if done["partial"] else done["state"]
            assert (ended, done["result"] if result else None) == (state, json.loads(result) if result else None), done["error"]


async def _final(db: Database, kind: str, args: dict[str, Any]) -> dict[str, Any]:
    async with db.services() as conn:
        (job_id,) = await enqueue(conn, [NewJob(kind, args)])

    async def look() -> dict[str, Any] | None:
        async with db.services() as own:
            row = await own.fetchrow("select * from ingestd.history where id = $1", job_id)
        return dict(row) if row else None

    return await eventually(look, saying=f"{kind} is final")
