"""What a rollup is: source, bucket, groups and measures, with a hash as its version. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from ingestd.rollups.buckets import DAY, format_bucket, parse_bucket
from ingestd.settings import did_you_mean

Function = Literal["count", "sum", "avg", "min", "max"]
FUNCTIONS: tuple[Function, ...] = ("count", "sum", "avg", "min", "max")
FORMS = "count(*), count(column), sum(column), avg(column), min(column) or max(column)"
MAX_NAME = 48  # room for the suffixes of its tables and indexes within 63 bytes
_CALL = re.compile(r"\s*([A-Za-z_]+)\s*\(\s*(.*?)\s*\)\s*", re.DOTALL)
_WORD = re.compile(r"[^\W\d]\w*")
_COLUMN = re.compile(r'[^\W\d]\w*|"(?:[^"\x00]|"")+"')
# What changes by itself while no row changes; no trigger can tell a rollup about that.
_DRIFTS = re.compile(
    r"\b(?:now|clock_timestamp|statement_timestamp|transaction_timestamp|timeofday|random|age)\s*\(|"
    r"\bcurrent_(?:date|time|timestamp)\b|\blocaltime(?:stamp)?\b",
    re.IGNORECASE,
)
_SUBQUERY = re.compile(r"\bselect\b", re.IGNORECASE)
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"")


@dataclass(frozen=True, slots=True)
class Measure:
    """One aggregate; `column` is None for `count(*)`."""

    name: str
    function: Function
    column: str | None

    @property
    def text(self) -> str:
        """As a user writes it, quoted where it is not a plain word."""
        if self.column is None:
            return f"{self.function}(*)"
        plain = _WORD.fullmatch(self.column)
        return f"{self.function}({self.column})" if plain else f'{self.function}("{self.column.replace(chr(34), chr(34) * 2)}")'


def parse_measure(name: str, text: str) -> Measure:
    """Read a measure such as `sum(kwh)`, `avg("Dep Delay")` or `count(*)`.

    Raises:
        ValueError: it is none of the allowed forms; the message lists them.
    """
    match = _CALL.fullmatch(text)
    if not match:
        raise ValueError(f'"{text}" is not a measure: use {FORMS}')
    called, argument = match[1].lower(), match[2]
    function = next((known for known in FUNCTIONS if known == called), None)
    if function is None:
        near = did_you_mean(called, FUNCTIONS) or ":"
        raise ValueError(f'"{called}" is not an aggregate that rollups have{near} use {FORMS}')
    if argument == "*" and function == "count":
        return Measure(name, function, None)
    if argument.lower().startswith("distinct "):
        raise ValueError(f'"{text}": distinct values cannot be kept in a rollup; use {FORMS}')
    if not _COLUMN.fullmatch(argument):
        raise ValueError(f'"{text}": {function} takes one column name, quoted if it is not a plain word; use {FORMS}')
    return Measure(name, function, argument[1:-1].replace('""', '"') if argument[0] == '"' else argument)


def check_condition(text: str) -> str:
    """Check a `where` for what a rollup cannot follow; Postgres checks the rest.

    Raises:
        ValueError: it has more than one statement, a subquery, or a function of the present moment.
    """
    bare = _QUOTED.sub("''", text)
    if ";" in bare or "--" in bare or "/*" in bare:
        raise ValueError("where is one SQL condition, without semicolons or comments")
    if _SUBQUERY.search(bare):
        raise ValueError("where cannot contain a subquery: a rollup follows changes of its own source table only")
    drifting = _DRIFTS.search(bare)
    if drifting:
        word = drifting[0].rstrip("( ")
        raise ValueError(f'where cannot use "{word}": its value changes by itself, and a rollup follows changes of rows only')
    return text.strip()


@dataclass(frozen=True, slots=True)
class Spec:
    """A normalised rollup.

    Args:
        time: column of the source that says when a row happened.
        width: of a bucket: a day, or a part of it.
        zone: whose midnights divide days, and how times without zone are read.
    """

    schema: str
    table: str
    time: str
    width: timedelta
    zone: str
    group_by: tuple[str, ...]
    where: str
    measures: tuple[Measure, ...]

    @property
    def source(self) -> str:
        """The source table, as a user writes it."""
        return f"{self.schema}.{self.table}"

    @property
    def daily(self) -> bool:
        """Whether buckets are days of a zone rather than a fixed grid."""
        return self.width >= DAY

    @property
    def version(self) -> str:
        """Hash of everything that decides what the buckets hold."""
        return hashlib.sha256(json.dumps(self.as_json(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def used_columns(self) -> tuple[str, ...]:
        """Columns of the source that the rollup reads, each once; those of `where` are Postgres's to find."""
        return tuple(dict.fromkeys((self.time, *self.group_by, *(m.column for m in self.measures if m.column is not None))))

    def as_json(self) -> dict[str, Any]:
        """For the database."""
        return {
            "schema": self.schema,
            "table": self.table,
            "time": self.time,
            "bucket": format_bucket(self.width),
            "zone": self.zone,
            "group_by": list(self.group_by),
            "where": self.where,
            "measures": [[measure.name, measure.text] for measure in self.measures],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Spec:
        """From the database."""
        return cls(
            schema=data["schema"],
            table=data["table"],
            time=data["time"],
            width=parse_bucket(data["bucket"]),
            zone=data["zone"],
            group_by=tuple(data["group_by"]),
            where=data["where"],
            measures=tuple(parse_measure(name, text) for name, text in data["measures"]),
        )
