"""The command line with and without a database."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.kit import Cli


@pytest.fixture(autouse=True)
def logs_as_before(own_logging: None) -> None:
    """Every command sets logging up anew."""


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
