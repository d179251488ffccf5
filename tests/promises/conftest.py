"""The same sites as for the tests of real daemons."""

from __future__ import annotations

from tests.daemon.conftest import own_site, site

__all__ = ["own_site", "site"]
