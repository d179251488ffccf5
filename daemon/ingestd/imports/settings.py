"""The configuration of `[imports.*]`."""

from __future__ import annotations

import glob
import math
import os
import re
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from ingestd.imports.sources.pattern import Pattern
from ingestd.settings import Duration, Priority, Section, StrList, did_you_mean, located, parse_duration

UPLOAD = "upload"
Mode = Literal["append", "upsert", "replace"]
Order = Literal["strict", "any"]
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*")
_OURS = ("ingestd", "ingestd_stg", "rollups", "pg_catalog", "information_schema")
_MODES = ("append", "upsert", "replace")


def _read_source(value: object) -> object:
    """Make a glob absolute: relative to the file it was written in."""
    if not isinstance(value, str) or value == UPLOAD:
        return value
    scheme = _SCHEME.match(value)
    if scheme and scheme[1].lower() in ("http", "https", "s3", "sftp"):
        raise ValueError("http(s)://, s3:// and sftp:// are not available in this version: use a folder such as inbox/*.csv")
    if scheme:
        raise ValueError(f'"{scheme[1]}://" is not a source: use a folder such as "inbox/*.csv", or "upload"')
    if not value.strip():
        raise ValueError('a source is a folder such as "inbox/*.csv", or "upload"')
    if "\0" in value:
        raise ValueError("a path cannot hold a zero byte")
    if value.endswith("/") or value in (".", ".."):
        raise ValueError(f'"{value}" is a folder: write which files in it, such as "{value.rstrip("/")}/*.csv"')
    path = Path(value).expanduser()
    # The folder of the configuration file is a name, whatever characters it is made of.
    whole = path if path.is_absolute() else Path(glob.escape(str(located(value).resolve()))) / path
    pattern = Pattern.parse(str(whole))
    if ".." in pattern.parts:
        raise ValueError(f'"{value}": ".." cannot come after a wildcard')
    if pattern.parts[-1] == "**":
        raise ValueError(f'"{value}" ends in "**": write which files, such as "{value}/*.csv"')
    return str(whole)


def _check_table(value: str) -> str:
    """Complete a table name with its schema."""
    parts = value.split(".")
    if len(parts) > 2 or not all(_IDENTIFIER.fullmatch(part) for part in parts):
        raise ValueError(f'"{value}" is not a table name: write "table" or "schema.table", letters, digits and underscores')
    if long := next((part for part in parts if len(part) > 63), None):
        raise ValueError(f'"{long}" is longer than the 63 characters that Postgres keeps of a name')
    schema, table = parts if len(parts) == 2 else ("public", parts[0])
    if schema in _OURS:
        raise ValueError(f'schema "{schema}" is not for imported tables')
    return f"{schema}.{table}"


def _check_column(value: str) -> str:
    if not value.strip() or "\0" in value or len(value.encode()) > 63:
        raise ValueError(f'"{value}" is not a column name: 1 to 63 bytes')
    return value


def _check_columns(values: list[str]) -> list[str]:
    return [_check_column(value) for value in values]


def _twice(values: list[str]) -> str | None:
    return next((value for place, value in enumerate(values) if value in values[:place]), None)


def _read_poll(value: object) -> timedelta | None:
    if value is None or value == "off":
        return None
    period = parse_duration(value)
    if period < timedelta(milliseconds=100):
        raise ValueError('shorter than 100ms; write "off" for an import that only a schedule, step or trigger scans')
    return period


def _read_after_load(value: object) -> object:
    if not isinstance(value, str) or value in ("keep", "delete"):
        return value
    how, _, folder = value.partition(":")
    if how != "move" or not folder.strip():
        near = did_you_mean(how, ("keep", "move", "delete")) if how != "move" else ""
        raise ValueError(f'"{value}" is not "keep", "delete" or "move:FOLDER"{near}')
    return f"move:{os.path.normpath(located(value).resolve() / Path(folder).expanduser())}"


Source = Annotated[str, BeforeValidator(_read_source)]
Table = Annotated[str, AfterValidator(_check_table)]
Column = Annotated[str, AfterValidator(_check_column)]


class ImportSettings(Section):
    """One declared import: a source, a table, and how the one goes into the other."""

    source: Source
    format: Literal["csv"] = "csv"
    table: Table
    mode: Mode = "append"
    key: Annotated[StrList, AfterValidator(_check_columns)] = Field(default_factory=list)
    null: StrList = Field(default_factory=lambda: [""])
    columns: dict[Column, str] = Field(default_factory=dict)
    rename: dict[str, Column] = Field(default_factory=dict)
    delimiter: str | None = None
    max_reject_ratio: Annotated[float, Field(ge=0, le=1)] = 0.05
    order: Order | None = None
    after_load: Annotated[str, BeforeValidator(_read_after_load)] = "keep"
    poll: Annotated[timedelta | None, BeforeValidator(_read_poll)] = timedelta(seconds=5)
    settle: Duration = timedelta(seconds=1)
    priority: Priority = 0
    tags: StrList = Field(default_factory=list)

    @field_validator("format", mode="before")
    @classmethod
    def _known_format(cls, value: object) -> object:
        if value in ("ndjson", "json", "xml", "excel", "parquet"):
            raise ValueError(f'format "{value}" is not available in this version: "csv" is')
        return value

    @field_validator("mode", mode="before")
    @classmethod
    def _known_mode(cls, value: object) -> object:
        if value not in _MODES:
            raise ValueError(f'"{value}" is not append, upsert or replace{did_you_mean(str(value), _MODES)}')
        return value

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, value: str | None) -> str | None:
        if value is not None and (len(value) != 1 or not value.isascii() or value in '"\r\n\0'):
            raise ValueError(f'"{value}" is not a delimiter: one character such as ";" or "\\t"')
        return value

    @field_validator("columns")
    @classmethod
    def _named_types(cls, value: dict[str, str]) -> dict[str, str]:
        if blank := next((column for column, kind in value.items() if not kind.strip()), None):
            raise ValueError(f'column "{blank}" has no type: write a Postgres type such as "numeric" or "timestamptz"')
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> ImportSettings:
        if self.mode != "append" and not self.key:
            raise ValueError(f'mode = "{self.mode}" needs a key: write key = ["…"], the columns that tell one row from another')
        if self.mode == "append" and self.key:
            raise ValueError('a key does nothing in mode = "append": write mode = "upsert", or leave the key out')
        if twice := _twice(self.key):
            raise ValueError(f'key names column "{twice}" twice')
        if twice := _twice(list(self.rename.values())):
            raise ValueError(f'rename makes two columns "{twice}"')
        for column in [*self.key, *self.columns]:
            if column in self.rename and column not in self.rename.values():
                raise ValueError(f'column "{column}" is renamed to "{self.rename[column]}": use that name in key and columns')
        pattern, folder = self.pattern, self.move_to
        if pattern and folder and pattern.covers(folder):
            raise ValueError(f"after_load moves files to {folder}, where the source finds them again")
        return self

    @cached_property
    def pattern(self) -> Pattern | None:
        """What to look for in the file system; None where files come by hand only."""
        return None if self.source == UPLOAD else Pattern.parse(self.source)

    @property
    def poll_s(self) -> float:
        """Seconds between two looks; infinite where the loop does not look at all."""
        return self.poll.total_seconds() if self.poll is not None else math.inf

    @property
    def strict(self) -> bool:
        """Whether a load that failed blocks the later ones: by default where later files rely on earlier ones."""
        return (self.order or ("any" if self.mode == "append" else "strict")) == "strict"

    @property
    def move_to(self) -> Path | None:
        """The folder that loaded files are moved to."""
        return Path(self.after_load.removeprefix("move:")) if self.after_load.startswith("move:") else None

    def shown(self) -> dict[str, Any]:
        """What a list of imports shows of it."""
        return {"source": self.source, "table": self.table, "mode": self.mode, "order": "strict" if self.strict else "any"}
