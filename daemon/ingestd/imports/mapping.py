"""Which column of the table each column of the file fills; the contract between the two is frozen: nothing is guessed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from ingestd.imports.header import Header, column_names, listed, require_columns
from ingestd.imports.request import FileProblem, LoadRequest
from ingestd.imports.shape import Column, Table
from ingestd.settings import did_you_mean

_TYPE = re.compile(r'[A-Za-z_"][\w". ]*(\(\s*-?\d+\s*(,\s*-?\d+\s*)?\))?[\w ]*(\[\])*')


def new_columns(header: Header, request: LoadRequest) -> tuple[str, ...]:
    """The columns of a table that the load has to make.

    Raises:
        FileProblem: the header lacks a key column or a declared one, or cannot be column names.
    """
    names = column_names(header.labels, request.rename, (*request.columns, *request.key))
    require_columns(names, header, request.key, what="key column")
    require_columns(names, header, list(request.columns), what="declared column")
    return names


def plausible_type(sql_type: str) -> bool:
    """Whether a declared type has the form of one: it becomes part of a CREATE TABLE."""
    return _TYPE.fullmatch(sql_type.strip()) is not None


def fill(table: Table, header: Header, request: LoadRequest) -> tuple[Column, ...]:
    """The column that each label fills, in file order.

    Raises:
        FileProblem: file and table do not go together; names the column at fault.
    """
    names = column_names(header.labels, request.rename, table.names)
    known = set(table.names)
    if not known & set(names):
        raise FileProblem(
            f"wrong header: {request.target} has the columns {listed(table.names)}; the file has {header.shown} and shares none"
        )
    require_columns(names, header, request.key, what="key column")
    for name, label in zip(names, header.labels, strict=True):
        if name not in known:
            raise FileProblem(
                f'wrong header: column "{label}" is not in {request.target}{did_you_mean(name, known)} '
                f"(its columns: {listed(table.names)}); add it to the table, rename it, or leave it out of the file"
            )
    filled = tuple(_wanted(table.column(name), request) for name in names)
    _check_writable(filled, request)
    _check_complete(table, names, header, request)
    return filled


def _wanted(column: Column, request: LoadRequest) -> Column:
    """A key column must have a value whatever the table says: null equals nothing, such a row would be inserted for ever."""
    return replace(column, not_null=True) if request.mode != "append" and column.name in request.key else column


def _check_writable(filled: Sequence[Column], request: LoadRequest) -> None:
    for column in filled:
        if column.generated:
            raise FileProblem(f"{request.target}.{column.name} is computed by Postgres: leave it out of the file")
        if column.identity == "a" and request.mode != "append" and column.name not in request.key:
            raise FileProblem(f"{request.target}.{column.name} is generated always as identity: leave it out of the file")


def _check_complete(table: Table, names: Sequence[str], header: Header, request: LoadRequest) -> None:
    for column in table.columns:
        needed = column.not_null and not column.default and not column.generated
        if needed and column.name not in names and column.name in table.names:
            raise FileProblem(
                f"wrong header: {request.target}.{column.name} must have a value and is not in the file"
                f"{did_you_mean(column.name, names)} (found: {header.shown})"
            )


def check_key(table: Table, request: LoadRequest) -> None:
    """Check that the table can be merged into by the key.

    Raises:
        FileProblem: no unique index guarantees the key; says which to create.
    """
    if not table.unique(request.key):
        columns = ", ".join(request.key)
        raise FileProblem(
            f"{request.target} has no unique index on ({columns}), which {request.mode} needs: "
            f"create unique index on {request.target} ({columns})"
        )
