"""The command line with and without a database."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tests.cli.kit import Cli


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Give back the logging that the test run had."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture
def bare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Without a database that could be reached."""
    environ = {
        "INGESTD_DATABASE__URL": f"postgresql://nobody@/nothing?host={tmp_path}",
        "INGESTD_DAEMON__START_TIMEOUT": "0",
        "INGESTD_DAEMON__STATE_DIR": str(tmp_path / "state"),
        "INGESTD_ADMIN__PORT": "0",
    }
    return Cli(tmp_path, environ, capsys)


@pytest.fixture
def cli(bare: Cli, dsn: str) -> Cli:
    """On a fresh database of its own."""
    bare.environ |= {"INGESTD_DATABASE__URL": dsn, "INGESTD_DAEMON__START_TIMEOUT": "90s"}
    return bare
