"""The pytest plugin in a project that is not ours, and every example of docs/testing.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "testing.md"
EXAMPLE = re.compile(r"^```(?:python|ini)\n# (?P<file>[\w/]+\.\w+)\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)
LIMIT_S = 240


def run_pytest(folder: Path, *options: str, url: str | None = None) -> str:
    """What pytest says about a project; it must say that all is well."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("INGESTD_", "PYTEST_", "COV_"))}
    if url is not None:
        environ["INGESTD_TEST_DATABASE_URL"] = url
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "ingestd.testing.plugin", "-p", "no:cacheprovider", *options],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_examples_of_the_document_are_tests_that_pass(tmp_path: Path, server_dsn: str) -> None:
    examples = EXAMPLE.findall(DOCUMENT.read_text(encoding="utf-8"))
    assert {file for file, _ in examples} == {"pytest.ini", "shop.py", "test_shop.py"}
    for file, code in examples:
        with (tmp_path / file).open("a") as target:
            target.write(code + "\n\n")
    tests = sum(len(re.findall(r"^(?:async )?def test_", code, re.MULTILINE)) for _, code in examples)
    assert f"{tests} passed" in run_pytest(tmp_path, url=server_dsn)


def test_each_test_has_a_database_of_its_own_and_plain_functions_may_use_it(tmp_path: Path, server_dsn: str) -> None:
    (tmp_path / "test_plain.py").write_text(
        """
import asyncio
seen = []

def look(ingestd_db):
    seen.append(ingestd_db.dsn)
    async def add():
        async with ingestd_db.connect() as conn:
            await conn.execute("create table public.mine ()")
    asyncio.run(add())

def test_one(ingestd_db):
    look(ingestd_db)

def test_two(ingestd_db):
    look(ingestd_db)
    assert len(set(seen)) == 2
"""
    )
    assert "2 passed" in run_pytest(tmp_path, "-p", "no:asyncio", url=server_dsn)


def test_without_a_server_an_embedded_one_is_started_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_embedded.py").write_text("def test_it(ingestd_db):\n    assert ingestd_db.dsn.startswith('postgres')\n")
    (tmp_path / "tmp").mkdir(mode=0o711)
    assert "1 passed" in run_pytest(tmp_path)


@pytest.mark.parametrize("module", ["ingestd.testing.plugin", "ingestd.testing"])
def test_the_plugin_costs_nothing_where_nobody_uses_it(module: str) -> None:
    code = f"import sys, pytest\nbefore = set(sys.modules)\nimport {module}\nprint(*(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout.split()
    assert {name for name in loaded if name.startswith("ingestd")} <= {"ingestd", "ingestd.testing", "ingestd.testing.plugin"}
    assert not {"asyncpg", "pydantic", "structlog"} & set(loaded)
