"""The same sites as for the tests of real daemons, and one behind a line that can fail."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.daemon.conftest import own_site, site
from tests.daemon.harness import Site, open_site
from tests.faults.proxy import Proxy

__all__ = ["own_site", "proxy", "remote", "site"]


@pytest.fixture
async def proxy(dsn: str) -> AsyncIterator[Proxy]:
    async with Proxy(dsn) as between:
        yield between


@pytest.fixture
async def remote(proxy: Proxy) -> AsyncIterator[Site]:
    """A site whose daemon reaches Postgres through a line that can be cut."""
    with open_site(proxy.dsn) as made:
        made.configure(daemon='handlers = ["tests.daemon.jobs"]')
        yield made
