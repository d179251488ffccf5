"""Resources that a module of handlers shares: opened with the worker, closed at its drain."""

from __future__ import annotations

import sys
import types
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ingestd import SyncContext, job, lifespan
from ingestd.errors import ConfigurationError
from ingestd.jobs.decorator import declared_jobs
from ingestd.postgres.pool import Database
from ingestd.work.context import Context
from tests.work.conftest import working
from tests.work.test_context import final, put


def module_with(name: str, **names: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    vars(module).update(names)
    sys.modules[name] = module
    return module


async def test_resources_are_made_once_a_worker_shared_by_a_module_and_closed_at_the_drain(db: Database) -> None:
    told: list[str] = []

    @lifespan
    async def resources() -> AsyncIterator[dict[str, Any]]:
        told.append("open")
        yield {"client": object()}
        told.append("close")

    seen: list[object] = []

    async def one(ctx: Context) -> None:
        seen.append(ctx.resources["client"])

    def two(ctx: SyncContext) -> None:
        seen.append(ctx.resources["client"])

    one.__module__ = two.__module__ = "handlers_of_a_user"
    module = module_with("handlers_of_a_user", resources=resources, one=job("one")(one), two=job("two")(two))
    async with working(db, *declared_jobs(vars(module))):
        assert told == ["open"]
        for kind in ("one", "two", "one"):
            assert (await final(db, await put(db, kind)))["state"] == "succeeded"
    assert told == ["open", "close"]
    assert len(set(map(id, seen))) == 1


async def test_resources_that_cannot_be_made_are_told_at_the_start(db: Database) -> None:
    @lifespan
    async def resources() -> AsyncIterator[dict[str, Any]]:
        raise OSError("no such model")
        yield {}

    async def one(ctx: Context) -> None: ...

    one.__module__ = "broken_handlers"
    module = module_with("broken_handlers", resources=resources, one=job("one")(one))
    with pytest.raises(ConfigurationError, match="OSError: no such model"):
        async with working(db, *declared_jobs(vars(module))):
            pass
