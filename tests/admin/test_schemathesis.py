"""Whatever the OpenAPI document allows or forbids, the server answers as the document says: never with an error of its own.

Short by default; INGESTD_LONG_TESTS=1 tries forty requests of each operation as each role.
"""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from ingestd.access.roles import Actor
from ingestd.app.definitions import definitions
from ingestd.app.settings import Settings
from ingestd.imports.settings import ImportSettings
from ingestd.jobs.model import NewJob
from ingestd.jobs.run_actions import start_run
from ingestd.jobs.workflow import Step, Workflow
from tests.admin.conftest import TOKEN, Open, Site
from tests.admin.runs import three_of_everything
from tests.tokens import bearer, tokens_of_each_role

schemathesis = pytest.importorskip("schemathesis")

LONG = os.environ.get("INGESTD_LONG_TESTS") == "1"
EXAMPLES = 20 if LONG else 1
ROLES = ("viewer", "operator", "admin", "anonymous", "expired", "revoked") if LONG else ("admin",)
JSON_ONLY = {"Accept": "application/json"}
# Whether a cron expression, a kind's arguments or a moment make sense is no matter of types: such a refusal is right.
# Every path of ours takes any text: what a wrong one is answered is tested where names and ids are.
UNASKED = ("positive_data_acceptance", "missing_required_header", "ignored_auth", "unsupported_method")


async def begin(conn: asyncpg.Connection, actor: Actor, _name: str) -> int:
    return await start_run(conn, actor, Workflow("market", (Step("products", NewJob("sync_prices")),)))


@pytest.fixture
async def site(open_site: Open, conn: asyncpg.Connection) -> Site:
    await three_of_everything(conn)
    imports = {"readings": ImportSettings(source="/in/*.csv", table="readings")}
    market = Workflow("market", (Step("products", NewJob("sync_prices")),))
    return await open_site(
        token=TOKEN,
        rate="100000/1s",
        trigger_rate="100000/1s",
        state={
            "imports": lambda: imports,
            "workflows": lambda: {"market": market},
            "start_workflow": begin,
            "definitions": definitions(Settings),
        },
    )


def failures(url: str, document: dict[str, Any], headers: dict[str, str], seed: int, only: str = "") -> Iterator[str]:
    """Try every operation; what went wrong, in words."""
    import hypothesis
    from schemathesis.checks import CHECKS, load_all_checks
    from schemathesis.generation import GenerationMode

    load_all_checks()
    checks = [check for name in CHECKS.get_all_names() if name not in UNASKED for check in CHECKS.get_by_names([name])]
    for result in schemathesis.openapi.from_dict(document).get_all_operations():
        operation = result.ok()
        if only not in operation.label:
            continue
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @hypothesis.seed(seed)
            @hypothesis.settings(
                max_examples=EXAMPLES,
                deadline=None,
                database=None,
                suppress_health_check=list(hypothesis.HealthCheck),
                phases=[hypothesis.Phase.generate],
            )
            @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
            def attempt(case: Any) -> None:
                case.call_and_validate(base_url=url, headers=headers | JSON_ONLY, checks=checks, timeout=30)

            try:
                attempt()
            except hypothesis.errors.Unsatisfiable:
                continue
            except (Exception, BaseExceptionGroup) as error:
                yield f"{operation.label} ({mode}): {''.join(traceback.format_exception(error))[-3000:]}"


@pytest.mark.parametrize("role", ROLES)
async def test_the_document_holds_for(site: Site, conn: asyncpg.Connection, role: str) -> None:
    tokens = await tokens_of_each_role(conn)
    headers = bearer(tokens[role]) if role in tokens else {}
    await site.state.tokens.refresh()
    document = await site.get("/api/v1/openapi.json", headers=bearer(TOKEN))
    found = await asyncio.to_thread(lambda: list(failures(site.url, document, headers, seed=7)))
    assert found == [], "\n\n".join(found)
    assert [event for event in site.events if "request failed" in str(event)] == []


async def test_a_document_that_is_not_true_is_found_out(site: Site) -> None:
    document = await site.get("/api/v1/openapi.json", headers=bearer(TOKEN))
    document["components"]["schemas"]["Queue"]["properties"]["depth"] = {"type": "string"}
    found = await asyncio.to_thread(lambda: list(failures(site.url, document, bearer(TOKEN), seed=7, only="GET /api/v1/queues")))
    assert any("depth" in failure for failure in found), found
