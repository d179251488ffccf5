"""ingestd imports data into Postgres, keeps rollups of it, runs your jobs and watches itself.

The public names are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ingestd.jobs.backoff import Backoff
    from ingestd.jobs.client import Client
    from ingestd.jobs.decorator import job
    from ingestd.jobs.lifespan import lifespan
    from ingestd.jobs.model import Discard, Done, Retry, Snooze
    from ingestd.jobs.sync_client import SyncClient
    from ingestd.work.context import Context, JobCancelled
    from ingestd.work.synchronous import SyncContext

__version__ = "0.1.0"
__all__ = [
    "Backoff",
    "Client",
    "Context",
    "Discard",
    "Done",
    "JobCancelled",
    "Retry",
    "Snooze",
    "SyncClient",
    "SyncContext",
    "job",
    "lifespan",
]

_HOMES = {
    "Backoff": "ingestd.jobs.backoff",
    "Client": "ingestd.jobs.client",
    "Context": "ingestd.work.context",
    "Discard": "ingestd.jobs.model",
    "Done": "ingestd.jobs.model",
    "JobCancelled": "ingestd.work.context",
    "Retry": "ingestd.jobs.model",
    "Snooze": "ingestd.jobs.model",
    "SyncClient": "ingestd.jobs.sync_client",
    "SyncContext": "ingestd.work.synchronous",
    "job": "ingestd.jobs.decorator",
    "lifespan": "ingestd.jobs.lifespan",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ingestd' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
