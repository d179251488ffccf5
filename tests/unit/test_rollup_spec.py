"""What may be written in [rollups.NAME], and what is said about everything else."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from ingestd.errors import ConfigurationError
from ingestd.rollups import sql
from ingestd.rollups.buckets import format_bucket, parse_bucket
from ingestd.rollups.settings import RollupSettings, name_problems
from ingestd.rollups.spec import Spec, parse_measure
from ingestd.settings import Layers, Name, validate

GOOD: dict[str, Any] = {
    "source": "public.readings",
    "time": "read_at",
    "bucket": "1 day",
    "timezone": "Europe/London",
    "group_by": ["meter_id"],
    "where": "kwh is not null",
    "measures": {"kwh": "sum(kwh)", "peak": "max(kwh)", "n": "count(*)"},
}


class Root(BaseModel):
    rollups: dict[Name, RollupSettings]


def problem(**changes: Any) -> str:
    layers = Layers()
    layers.merge({"rollups": {"daily": {**GOOD, **changes}}}, "config.toml")
    with pytest.raises(ConfigurationError) as caught:
        validate(Root, layers)
    assert len(caught.value.problems) == 1
    return str(caught.value.problems[0])


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("1 day", 86400),
        ("day", 86400),
        ("24 hours", 86400),
        ("1h", 3600),
        ("15 minutes", 900),
        ("15m", 900),
        ("90 min", 5400),
        ("1 second", 1),
        ("HOUR", 3600),
    ],
)
def test_widths_that_divide_a_day_are_buckets(text: str, width: int) -> None:
    assert parse_bucket(text) == timedelta(seconds=width)
    assert parse_bucket(format_bucket(parse_bucket(text))) == timedelta(seconds=width)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 week", "is not a bucket"),
        ("month", "is not a bucket"),
        ("", "is not a bucket"),
        ("7 hours", "does not divide a day evenly"),
        ("0 hours", "does not divide a day evenly"),
        ("2 days", "longer than a day"),
        ("-1 hour", "is not a bucket"),
        ("1 hour; drop table x", "is not a bucket"),
    ],
)
def test_other_widths_are_refused_with_what_to_use(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_bucket(text)


@pytest.mark.parametrize(
    ("text", "function", "column"),
    [
        ("count(*)", "count", None),
        (" SUM ( kwh ) ", "sum", "kwh"),
        ('avg("Dep Delay")', "avg", "Dep Delay"),
        ('max("a""b")', "max", 'a"b'),
        ("min(größe)", "min", "größe"),
    ],
)
def test_measures_name_a_function_and_a_column(text: str, function: str, column: str | None) -> None:
    measure = parse_measure("m", text)
    assert (measure.function, measure.column) == (function, column)
    assert parse_measure("m", measure.text) == measure


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("average(kwh)", 'did you mean "avg"'),
        ("median(kwh)", "use count"),
        ("sum(*)", "takes one column name"),
        ("sum(kwh * 2)", "takes one column name"),
        ("count(distinct meter)", "distinct values cannot be kept"),
        ("kwh", "is not a measure"),
        ("sum(kwh); drop table x", "is not a measure"),
        ('sum("a"b")', "takes one column name"),
    ],
)
def test_other_measures_are_refused_with_the_forms_there_are(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        parse_measure("m", text)
    assert "count(*)" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"timezone": "Europe/Londn"},
            'config.toml: "timezone" in [rollups.daily]: "Europe/Londn" is not a time zone, did you mean "Europe/London"?',
        ),
        ({"bucket": "1 fortnight"}, '"bucket" in [rollups.daily]: "1 fortnight" is not a bucket'),
        ({"group_by": ["a", "b", "a"]}, '"a" is there twice'),
        ({"group_by": [""]}, "is not a column name"),
        ({"source": "a.b.c"}, 'write "schema.table"'),
        ({"source": ""}, "is not a table"),
        ({"measures": {}}, "at least one measure"),
        ({"measures": {"kwh": "total(kwh)"}}, '[rollups.daily.measures]: "total" is not an aggregate'),
        ({"measures": {"K": "sum(kwh)"}}, '"K" is not a name'),
        ({"measures": {"bucket": "sum(kwh)"}}, 'cannot be named "bucket"'),
        ({"measures": {"meter_id": "sum(kwh)"}}, "would share a name"),
        ({"group_by": ["kwh__sum"], "measures": {"kwh": "avg(kwh)"}}, "would share a name"),
        ({"where": "at > now() - interval '1 day'"}, 'cannot use "now"'),
        ({"where": "d = CURRENT_DATE"}, 'cannot use "CURRENT_DATE"'),
        ({"where": "id in (select 1)"}, "cannot contain a subquery"),
        ({"where": "true; drop table x"}, "without semicolons"),
        ({"where": "true -- or not"}, "without semicolons or comments"),
        ({"max_staleness": "0s"}, "at least 1s"),
        ({"flag": "maybe"}, "is not on, off, shadow or frozen"),
        ({"from": "other"}, 'unknown key "from"'),
    ],
)
def test_a_mistake_is_one_line_with_its_place(changes: dict[str, Any], said: str) -> None:
    assert said in problem(**changes)


def test_words_within_strings_of_a_where_are_only_words() -> None:
    assert RollupSettings.model_validate({**GOOD, "where": "note <> 'now() -- select;' and \"select\" > 1"})


def test_the_version_tells_what_buckets_hold_and_nothing_else() -> None:
    version = RollupSettings.model_validate(GOOD).spec().version
    same = {**GOOD, "flag": "frozen", "max_staleness": "5m", "bucket": "24h", "source": "readings", "group_by": "meter_id"}
    assert RollupSettings.model_validate(same).spec().version == version
    for key, value in {"bucket": "1 hour", "timezone": "UTC", "where": "", "group_by": [], "measures": {"n": "count(*)"}}.items():
        assert RollupSettings.model_validate({**GOOD, key: value}).spec().version != version


def test_a_spec_survives_the_database() -> None:
    spec = RollupSettings.model_validate({**GOOD, "measures": {"x": 'avg("Odd ""name")', "n": "count(*)"}}).spec()
    assert Spec.from_json(spec.as_json()) == spec


def test_names_that_would_meet_in_one_table_are_refused() -> None:
    rollup = RollupSettings.model_validate(GOOD)
    assert name_problems({"daily": rollup, "other": rollup}) == []
    (said,) = name_problems({"daily": rollup, "daily_stored": rollup})
    assert said.startswith("[rollups.daily_stored]")
    assert len(name_problems({"x" * 49: rollup})) == 1


def test_a_refresh_reads_the_text_of_its_ranges_once_and_not_for_every_row() -> None:
    spec = RollupSettings.model_validate(GOOD).spec()
    statement = sql.refresh(sql.Shape(spec, {"read_at": "timestamptz", "meter_id": "int4", "kwh": "numeric"}), "daily_stored")
    assert statement.count("$2") == statement.count("(select $2::text::tstzmultirange)") == 2


@pytest.mark.parametrize("text", ["plain", "it's", "back\\slash", "both ' and \\", 'double "'])
def test_literals_and_identifiers_end_where_they_should(text: str) -> None:
    assert sql.ident(text).count('"') % 2 == 0
    assert sql.literal(text).count("'") % 2 == 0
    assert ("\\" in text) == sql.literal(text).lstrip().startswith("E'")
