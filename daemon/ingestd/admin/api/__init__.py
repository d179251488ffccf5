"""The HTTP API, one module a resource."""

from __future__ import annotations

from ingestd.admin.api import (
    audit,
    bulk,
    enqueue,
    events,
    imports,
    jobs,
    loads,
    nodes,
    queues,
    records,
    rollups,
    schedules,
    stats,
    tokens,
    workflows,
)
from ingestd.admin.api import health as health_api
from ingestd.admin.api.reference import with_reference
from ingestd.admin.routes import Route
from ingestd.health.checks import HealthRunner
from ingestd.health.metrics import Metrics


def all_routes(health: HealthRunner, metrics: Metrics) -> list[Route]:
    """Every route of the API, of health and of metrics."""
    return with_reference(
        [
            *health_api.routes(health, metrics),
            *jobs.routes(),
            *enqueue.routes(),
            *bulk.routes(),
            *queues.routes(),
            *nodes.routes(),
            *imports.routes(),
            *loads.routes(),
            *rollups.routes(),
            *schedules.routes(),
            *workflows.routes(),
            *records.routes(),
            *stats.routes(),
            *events.routes(),
            *audit.routes(),
            *tokens.routes(),
        ]
    )
