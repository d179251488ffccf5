"""Generates the statements whose text depends on the columns of a load. Names are always quoted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ingestd.imports.shape import PROVENANCE, Column

STAGING_SCHEMA = "ingestd_stg"
RECORD = PROVENANCE[1]


def quote(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def qualified(target: str) -> str:
    """`schema.table` as SQL."""
    schema, _, table = target.partition(".")
    return f"{quote(schema)}.{quote(table)}"


def split(target: str) -> tuple[str, str]:
    """Schema and table of a target."""
    schema, _, table = target.partition(".")
    return schema, table


def create_table(target: str, columns: Sequence[tuple[str, str]], key: Sequence[str]) -> str:
    """Create the table of a first load, with its key and the provenance columns.

    Args:
        columns: (name, SQL type); types have been checked.
        key: primary key columns; empty: none.
    """
    lines = [f"{quote(name)} {sql_type}" for name, sql_type in columns]
    lines += [f"{quote(name)} bigint" for name in PROVENANCE]
    if key:
        lines.append(f"primary key ({', '.join(map(quote, key))})")
    return f"create table if not exists {qualified(target)} (\n    " + ",\n    ".join(lines) + "\n)"


@dataclass(frozen=True)
class Staging:
    """The statements of one load that goes through a staging table.

    Args:
        load_id: names the staging table.
        target: "schema.table".
        columns: what the file fills, in file order.
        as_text: columns that are staged as text and cast on the way.
        key: the columns that identify a row.
        provenance: the target has our two columns.
    """

    load_id: int
    target: str
    columns: tuple[Column, ...]
    as_text: frozenset[str]
    key: tuple[str, ...]
    provenance: bool

    @property
    def table(self) -> str:
        """Name of the staging table, without schema."""
        return f"load_{self.load_id}"

    @property
    def name(self) -> str:
        """The staging table as SQL."""
        return f"{STAGING_SCHEMA}.{quote(self.table)}"

    @property
    def create(self) -> str:
        """Make the staging table: typed where the values come in binary, text elsewhere. Gone with the transaction's end."""
        lines = [f"{quote(RECORD)} bigint not null"]
        lines += [f"{quote(c.name)} {'text' if c.name in self.as_text else c.sql_type}" for c in self.columns]
        return f"create unlogged table {self.name} ({', '.join(lines)})"

    @property
    def drop(self) -> str:
        """Remove the staging table."""
        return f"drop table {self.name}"

    @property
    def index_records(self) -> str:
        """Make ranges of records quick to find."""
        return f"create index on {self.name} ({quote(RECORD)})"

    def _value(self, column: Column, alias: str = "s") -> str:
        reference = f"{alias}.{quote(column.name)}"
        return f"{reference}::{column.sql_type}" if column.name in self.as_text else reference

    def _keys(self, alias: str) -> list[str]:
        return [self._value(column, alias) for column in self.columns if column.name in self.key]

    @property
    def invalid_texts(self) -> str:
        """Records with a text that Postgres does not accept for its column; `$1` is the most to return."""
        checks = [
            f"select s.{quote(RECORD)} as record, {_literal(c.name)} as name, {position} as position, s.{quote(c.name)} as value, "
            f"(pg_input_error_info(s.{quote(c.name)}, {_literal(c.sql_type)})).message as message "
            f"from {self.name} s where s.{quote(c.name)} is not null "
            f"and not pg_input_is_valid(s.{quote(c.name)}, {_literal(c.sql_type)})"
            for position, c in enumerate(self.columns)
            if c.name in self.as_text
        ]
        return (
            "select distinct on (record) record, name, value, message from ("
            + " union all ".join(checks)
            + ") found order by record, position limit $1"
        )

    @property
    def remove_records(self) -> str:
        """Take records out of the staging table."""
        return f"delete from {self.name} where {quote(RECORD)} = any($1::bigint[])"

    @property
    def bounds(self) -> str:
        """The first and last record that are staged."""
        return f"select min({quote(RECORD)}) as first, max({quote(RECORD)}) as last from {self.name}"

    @property
    def has_twins(self) -> str:
        """Whether two records have the same key."""
        return f"select exists (select from {self.name} s group by {', '.join(self._keys('s'))} having count(*) > 1)"

    @property
    def drop_twins(self) -> str:
        """Keep only the last record of each key."""
        keys = ", ".join(f"{expression} as k{n}" for n, expression in enumerate(self._keys("s")))
        same = " and ".join(f"{expression} = d.k{n}" for n, expression in enumerate(self._keys("s")))
        names = ", ".join(f"k{n}" for n in range(len(self.key)))
        return (
            f"delete from {self.name} s using (select {keys}, max(s.{quote(RECORD)}) as last from {self.name} s "
            f"group by {names} having count(*) > 1) d where {same} and s.{quote(RECORD)} < d.last"
        )

    def insert(self, between: bool = False) -> str:
        """Insert staged records; `between`: only records `$1`..`$2`."""
        names, values = self._row()
        where = f" where s.{quote(RECORD)} between $1 and $2" if between else ""
        return (
            f"insert into {qualified(self.target)} ({', '.join(names)}){self._overriding()} "
            f"select {', '.join(values)} from {self.name} s{where}"
        )

    def merge(self, between: bool = False) -> str:
        """Update what differs, insert what is new; `between`: only records `$1`..`$2`."""
        names, values = self._row()
        source = f"(select * from {self.name} where {quote(RECORD)} between $1 and $2)" if between else self.name
        parts = [f"merge into {qualified(self.target)} t using {source} s on {self._same()}"]
        if self._differs():
            parts.append(f"when matched and {self._differs()} then update set {self._assignments()}")
        parts.append(f"when not matched then insert ({', '.join(names)}){self._overriding()} values ({', '.join(values)})")
        return " ".join(parts)

    def update(self, between: bool = False) -> str:
        """The updating half of `merge`, for tables whose triggers make its counts unreliable; empty: nothing to update."""
        if not self._differs():
            return ""
        where = f" and s.{quote(RECORD)} between $1 and $2" if between else ""
        return (
            f"update {qualified(self.target)} t set {self._assignments()} from {self.name} s "
            f"where {self._same()} and {self._differs()}{where}"
        )

    def insert_missing(self, between: bool = False) -> str:
        """The inserting half of `merge`."""
        names, values = self._row()
        where = f" and s.{quote(RECORD)} between $1 and $2" if between else ""
        return (
            f"insert into {qualified(self.target)} ({', '.join(names)}){self._overriding()} select {', '.join(values)} "
            f"from {self.name} s where not exists (select from {qualified(self.target)} t where {self._same()}){where}"
        )

    @property
    def delete_missing(self) -> str:
        """Remove rows of the target that the file no longer has."""
        return f"delete from {qualified(self.target)} t where not exists (select from {self.name} s where {self._same()})"

    def _row(self) -> tuple[list[str], list[str]]:
        names = [quote(column.name) for column in self.columns]
        values = [self._value(column) for column in self.columns]
        if self.provenance:
            names += map(quote, PROVENANCE)
            values += [str(self.load_id), f"s.{quote(RECORD)}"]
        return names, values

    def _same(self) -> str:
        return " and ".join(f"t.{quote(c.name)} = {self._value(c)}" for c in self.columns if c.name in self.key)

    def _differs(self) -> str:
        rest = [column for column in self.columns if column.name not in self.key]
        if not rest:
            return ""
        ours = ", ".join(f"t.{quote(c.name)}{'' if c.comparable else '::text'}" for c in rest)
        theirs = ", ".join(f"{self._value(c)}{'' if c.comparable else '::text'}" for c in rest)
        return f"row({ours}) is distinct from row({theirs})"

    def _assignments(self) -> str:
        pairs: Mapping[str, str] = {quote(c.name): self._value(c) for c in self.columns if c.name not in self.key}
        if self.provenance:
            pairs = {**pairs, quote(PROVENANCE[0]): str(self.load_id), quote(RECORD): f"s.{quote(RECORD)}"}
        return ", ".join(f"{name} = {value}" for name, value in pairs.items())

    def _overriding(self) -> str:
        return " overriding system value" if any(column.identity for column in self.columns) else ""


def _literal(text: str) -> str:
    escaped = text.replace("'", "''")
    return f"E'{escaped}'".replace("\\", "\\\\") if "\\" in text else f"'{escaped}'"
