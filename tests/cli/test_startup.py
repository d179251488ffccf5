"""Commands start quickly, because they import only what they need."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cli.kit import Cli

HEAVY = {"aiohttp", "asyncpg", "pyarrow", "pgpq", "apscheduler", "structlog", "psutil", "uvloop", "jinja2", "prometheus_client"}
LIST = "import sys; from ingestd.cli.entry import run; code = run(sys.argv[1:]); print(*sys.modules, file=sys.stderr); sys.exit(code)"


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        (["--help"], set()),
        (["--version"], set()),
        (["jbos"], set()),
        (["check"], {"asyncpg"}),  # settings of workflows know jobs
        (["schedules", "--help"], HEAVY - {"aiohttp", "pyarrow", "pgpq", "apscheduler", "jinja2", "prometheus_client"}),
        (["jobs", "list"], HEAVY - {"pyarrow", "pgpq"}),
    ],
)
def test_a_command_imports_no_more_than_it_needs(bare: Cli, words: list[str], allowed: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIST, *words], check=False, capture_output=True, text=True, env=bare.environment(), timeout=60
    )
    loaded = {name.partition(".")[0] for name in done.stderr.splitlines()[-1].split()}
    assert loaded & HEAVY <= allowed
