"""`[rollups.NAME]` of the configuration."""

from __future__ import annotations

import zoneinfo
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, field_validator, model_validator

from ingestd.rollups.buckets import format_bucket, parse_bucket
from ingestd.rollups.spec import FORMS, MAX_NAME, Spec, check_condition, parse_measure
from ingestd.settings import Duration, Section, StrList, did_you_mean, parse_name

Flag = Literal["on", "off", "shadow", "frozen"]
BUCKET_COLUMN = "bucket"


def _check_identifier(value: str) -> str:
    if not value or "\x00" in value or len(value.encode()) > 63:
        raise ValueError(f'"{value}" is not a column name: 1 to 63 bytes')
    return value


def _check_source(value: str) -> str:
    parts = value.split(".")
    if len(parts) > 2 or not all(parts):
        raise ValueError(f'"{value}" is not a table: write "schema.table", or "table" for one in the schema public')
    for part in parts:
        _check_identifier(part)
    return value


def _check_zone(value: str) -> str:
    known = zoneinfo.available_timezones()
    # A machine without zone data cannot judge; Postgres, which has its own, will.
    if known and value not in known:
        raise ValueError(f'"{value}" is not a time zone{did_you_mean(value, known) or ": use a name such as Europe/London"}')
    return value


Bucket = Annotated[timedelta, BeforeValidator(parse_bucket), PlainSerializer(format_bucket, return_type=str, when_used="json")]
Column = Annotated[str, AfterValidator(_check_identifier)]


class RollupSettings(Section):
    """One rollup; its view is rollups.NAME, the table behind it rollups.NAME_stored."""

    source: Annotated[str, AfterValidator(_check_source)] = Field(description="table to aggregate; the rollup waits until it exists")
    time: Column = Field(
        description="its column that says when a row happened: timestamptz, or timestamp or date read in the time zone below"
    )
    bucket: Bucket = Field(description='"1 day", or a part of a day such as "15 minutes" or "1 hour"')
    timezone: Annotated[str, AfterValidator(_check_zone)] = Field(default="UTC", description="whose midnights divide days")
    group_by: StrList = Field(default_factory=list, description="columns that make a row of their own in each bucket")
    where: str = Field(default="", description="SQL condition on the rows that count")
    measures: dict[str, str] = Field(description=f"column of the view = {FORMS}")
    max_staleness: Duration = Field(
        default=timedelta(seconds=60), description="how old a change may get before the table has it; the view always has it"
    )
    flag: Flag = Field(
        default="on", description="on; off: not refreshed, view exact; shadow: refreshed, no view; frozen: not refreshed, view as stored"
    )

    @field_validator("group_by")
    @classmethod
    def _check_groups(cls, value: list[str]) -> list[str]:
        for column in value:
            _check_identifier(column)
        doubles = sorted({column for column in value if value.count(column) > 1})
        if doubles:
            raise ValueError(f'"{doubles[0]}" is there twice')
        return value

    @field_validator("where")
    @classmethod
    def _check_where(cls, value: str) -> str:
        return check_condition(value)

    @field_validator("measures")
    @classmethod
    def _check_measures(cls, value: dict[str, str]) -> dict[str, str]:
        if not value:
            raise ValueError(f'a rollup needs at least one measure, such as n = "count(*)"; there are {FORMS}')
        for name, text in value.items():
            parse_measure(parse_name(name), text)
        return value

    @field_validator("max_staleness")
    @classmethod
    def _check_staleness(cls, value: timedelta) -> timedelta:
        if value < timedelta(seconds=1):
            raise ValueError("must be at least 1s; the view is exact at any time")
        return value

    @model_validator(mode="after")
    def _check_columns(self) -> RollupSettings:
        for name in (*self.group_by, *self.measures):
            if name == BUCKET_COLUMN:
                raise ValueError(f'a group or measure cannot be named "{BUCKET_COLUMN}": that column is the start of the bucket')
        for name, text in self.measures.items():
            columns = {name} | ({f"{name}__sum", f"{name}__count"} if parse_measure(name, text).function == "avg" else set())
            clash = sorted(columns & set(self.group_by))
            if clash:
                raise ValueError(f'measure "{name}" and group_by column "{clash[0]}" would share a name: rename the measure')
        return self

    def spec(self) -> Spec:
        """The rollup without what may change from one minute to the next."""
        schema, _, table = self.source.rpartition(".")
        return Spec(
            schema=schema or "public",
            table=table,
            time=self.time,
            width=self.bucket,
            zone=self.timezone,
            group_by=tuple(self.group_by),
            where=self.where,
            measures=tuple(parse_measure(name, text) for name, text in self.measures.items()),
        )


def name_problems(rollups: Mapping[str, RollupSettings]) -> list[str]:
    """What is wrong with the names of rollups taken together; one line each."""
    problems = [
        f"[rollups.{name}]: the name is longer than {MAX_NAME} characters, too long for its table"
        for name in rollups
        if len(name) > MAX_NAME
    ]
    problems += [
        f'[rollups.{name}{suffix}]: that is the name of the table of rollup "{name}": choose another'
        for name in rollups
        for suffix in ("_stored", "_stored_next")
        if name + suffix in rollups
    ]
    return problems
