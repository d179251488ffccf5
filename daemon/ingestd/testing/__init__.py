"""Tests of your own jobs: run one inline, drain a queue, and a pytest fixture with a fresh database. See docs/testing.md.

The names are loaded when they are first used: pytest imports this package for its plugin in every run of every project.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ingestd.testing.attempts import Ran
    from ingestd.testing.inline import Drained, drain, publish, run
    from ingestd.testing.queue import Open, assert_enqueued, enqueued
    from ingestd.testing.sandbox import Sandbox

__all__ = ["Drained", "Open", "Ran", "Sandbox", "assert_enqueued", "drain", "enqueued", "publish", "run"]

_HOMES = {
    "Drained": "ingestd.testing.inline",
    "Open": "ingestd.testing.queue",
    "Ran": "ingestd.testing.attempts",
    "Sandbox": "ingestd.testing.sandbox",
    "assert_enqueued": "ingestd.testing.queue",
    "drain": "ingestd.testing.inline",
    "enqueued": "ingestd.testing.queue",
    "publish": "ingestd.testing.inline",
    "run": "ingestd.testing.inline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ingestd.testing' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
