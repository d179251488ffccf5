"""Sites for the tests of real daemons."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.daemon.harness import Site, open_site


@pytest.fixture
def site(dsn: str) -> Iterator[Site]:
    """A folder for daemons on a fresh database of the test session's server."""
    with open_site(dsn) as made:
        yield made


@pytest.fixture
def own_site() -> Iterator[Site]:
    """A folder for daemons that bring their own Postgres."""
    with open_site() as made:
        yield made
