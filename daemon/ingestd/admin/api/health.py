"""`/health` and `/metrics`: for probes and scrapers."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from aiohttp import web

from ingestd.admin.answers.plans import Health, HealthCheck, Probe
from ingestd.admin.routes import Call, Route, answer
from ingestd.errors import NotFound
from ingestd.facts import Check
from ingestd.health.checks import HealthRunner
from ingestd.health.metrics import CONTENT_TYPE, Metrics


def shape(check: Check) -> dict[str, Any]:
    """One check as the API shows it."""
    return asdict(check)


def routes(health: HealthRunner, metrics: Metrics) -> list[Route]:
    """The routes of these resources."""

    async def whole(call: Call) -> web.Response:
        report = await health.report()
        body = {
            "status": report.status,
            "checks": [shape(check) for check in report.checks],
            "at": report.at,
            "node": call.state.node.name,
            "version": call.state.node.version,
            "environment": call.state.environment,
        }
        return answer(body, 503 if report.status == "critical" else 200)

    async def one(call: Call) -> web.Response:
        report = await health.report()
        check = report.find(call.name)
        if check is None:
            raise NotFound(f'there is no check "{call.name}"', hint=f"checks: {', '.join(c.name for c in report.checks)}")
        return answer(shape(check), 503 if check.status == "critical" else 200)

    async def live(_: Call) -> web.Response:
        # That this runs is the answer. It never asks the database: a restart of the daemon would not bring that back.
        return answer({"status": "alive"})

    async def ready(call: Call) -> web.Response:
        is_ready, reason = call.state.ready()
        return answer({"status": "ready" if is_ready else "not ready", "reason": reason}, 200 if is_ready else 503)

    async def startup(call: Call) -> web.Response:
        started = call.state.started()
        return answer({"status": "started" if started else "starting"}, 200 if started else 503)

    async def exposition(_: Call) -> web.Response:
        return web.Response(body=await metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})

    return [
        Route("GET", "/health", "read", whole, "All health checks; 503 when critical", answers={200: Health, 503: Health}),
        Route("GET", "/health/live", "public", live, "Whether the process lives", answers={200: Probe}),
        Route("GET", "/health/ready", "public", ready, "Whether the node takes work", answers={200: Probe, 503: Probe}),
        Route("GET", "/health/startup", "public", startup, "Whether the start is complete", answers={200: Probe, 503: Probe}),
        Route("GET", "/health/{name}", "read", one, "One health check", answers={200: HealthCheck, 503: HealthCheck}),
        Route("GET", "/metrics", "read", exposition, "Metrics in the Prometheus text format", answers={200: None}, media=("text/plain",)),
    ]
