"""Every statement of every store stands on the schema as it is: the server prepares them all."""

from __future__ import annotations

import importlib
import pkgutil
import re

import asyncpg

import ingestd
from tests.test_architecture import SQL

# its identifiers are put in, quoted, where it is used
TEMPLATE = re.compile(r"\{\w*\}|%s")
# their tables are made by the statement before
LATER = {"lab.store.INSERT_FLOOR", "lab.store.DELETE_FLOOR"}


def statements() -> dict[str, str]:
    """The SQL constants of all stores, by name."""
    found = {}
    for module in pkgutil.walk_packages(ingestd.__path__, "ingestd."):
        parts = module.name.split(".")
        if "store" not in parts or module.ispkg:
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if name.isupper() and not name.startswith("_") and isinstance(value, str) and SQL.match(value):
                found[f"{'.'.join(parts[1:])}.{name}"] = value
    return found


STATEMENTS = statements()


def test_there_are_statements_to_check() -> None:
    assert len(STATEMENTS) > 100
    assert {name.split(".")[0] for name in STATEMENTS} >= {"access", "jobs", "work", "files", "imports", "rollups", "schedule"}


async def test_every_statement_prepares_against_the_schema(conn: asyncpg.Connection) -> None:
    wrong = {}
    for name, text in STATEMENTS.items():
        if TEMPLATE.search(text) or name in LATER:
            continue
        try:
            await prepare(conn, text)
        except asyncpg.PostgresError as error:
            wrong[name] = str(error)
    assert wrong == {}


async def prepare(conn: asyncpg.Connection, text: str) -> None:
    """Prepare a statement, or several one by one."""
    try:
        await conn.prepare(text)
    except asyncpg.PostgresSyntaxError as error:
        if "multiple commands" not in str(error):
            raise
        for statement in text.split(";"):
            await conn.prepare(statement)
