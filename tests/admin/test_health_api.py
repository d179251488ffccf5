"""Health and metrics over HTTP."""

from __future__ import annotations

import asyncpg
import pytest

from ingestd.facts import Check, FactBook, RoomFacts
from ingestd.postgres.pool import Database
from tests.admin.conftest import Open, Site


async def test_health_lists_every_check(site: Site) -> None:
    """With what to do about it."""
    body = await site.get("/health")
    assert body["status"] == "healthy"
    assert {check["name"] for check in body["checks"]} >= {"database", "loops", "disk", "queues"}
    for check in body["checks"]:
        assert set(check) == {"name", "status", "value", "threshold", "since", "hint"}
    assert (await site.get("/health/database"))["status"] == "healthy"


@pytest.mark.parametrize(("status", "code"), [("healthy", 200), ("degraded", 200), ("critical", 503)])
async def test_only_critical_is_unavailable(open_site: Open, status: str, code: int) -> None:
    """A degraded daemon still works: taking it out would make things worse."""

    async def room(_: asyncpg.Connection) -> list[Check]:
        return [Check("x", status)]  # type: ignore[arg-type]

    book = FactBook()
    book.add("x", RoomFacts(checks=room))
    site = await open_site(state={"facts": book})
    assert (await site.get("/health", code))["status"] == status
    assert (await site.get("/health/x", code))["status"] == status


async def test_the_process_lives_while_the_database_is_away(open_site: Open) -> None:
    """A restart would not bring it back. Everything else says what is wrong."""
    away = Database("postgresql://postgres@/x?host=/nonexistent")
    await away.open()
    site = await open_site(state={"db": away})
    assert await site.get("/health/live") == {"status": "alive"}
    body = await site.get("/health", 503)
    assert (body["status"], body["checks"][0]["name"]) == ("critical", "database")
    page = await site.get("/", 503, headers={"Accept": "text/html"})
    assert "Postgres is not reachable at the moment" in page
    text = await site.get("/metrics")
    assert 'ingestd_scrape_error{room="jobs"} 1.0' in text
    await away.close()


async def test_metrics_count_requests_by_route_not_by_path(site: Site) -> None:
    """Ids and wrong addresses make no new time series."""
    for path in ("/api/v1/jobs/1", "/api/v1/jobs/2", "/api/v1/x1", "/api/v1/x2"):
        async with site.request("GET", path):
            pass
    async with site.request("GET", "/metrics") as response:
        text = await response.text()
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert 'ingestd_http_requests_total{code="404",method="GET",route="/api/v1/jobs/{id}"} 2.0' in text
    assert 'ingestd_http_requests_total{code="404",method="GET",route="unmatched"} 2.0' in text
    assert 'ingestd_jobs{queue="default"' not in text
