"""A Chromium, where the machine has one. `INGESTD_REQUIRE_ALL=1` makes its absence a failure."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.admin.conftest import guarded, open_site, site

__all__ = ["guarded", "open_site", "site"]


@pytest.fixture(scope="session")
async def chromium() -> AsyncIterator[Any]:
    """A running headless browser."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        from playwright.async_api import async_playwright
    except ImportError:
        async_playwright = None  # type: ignore[assignment]
    if path is None or async_playwright is None:
        reason = "no Chromium on this machine: apt install chromium" if path is None else "playwright is not installed"
        if os.environ.get("INGESTD_REQUIRE_ALL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        await browser.close()
