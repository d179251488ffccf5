"""The configuration of imports: what it means, and that each mistake is named with its place."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ingestd.errors import ConfigurationError
from ingestd.imports.settings import ImportSettings
from ingestd.settings import Name, Section, read_layers, validate


class Root(Section):
    imports: dict[Name, ImportSettings]


def load(folder: Path, text: str) -> dict[str, ImportSettings]:
    file = folder / "config.toml"
    file.write_text(text)
    return validate(Root, read_layers([file], {})).imports


def settings(**keys: Any) -> ImportSettings:
    return ImportSettings.model_validate({"source": "/in/*.csv", "table": "t"} | keys)


def test_the_example_of_the_contract_is_read_as_it_is_meant(tmp_path: Path) -> None:
    folder = tmp_path / "[odd] name"
    folder.mkdir()
    readings = load(
        folder,
        """
        [imports.readings]
        source = "inbox/*.csv"
        format = "csv"
        table = "public.readings"
        mode = "upsert"
        key = ["meter_id", "read_at"]
        null = ["", "NA"]
        columns = { read_at = "timestamptz", kwh = "numeric" }
        rename = { "Meter ID" = "meter_id" }
        max_reject_ratio = 0.05
        order = "strict"
        after_load = "move:done"
        poll = "5s"
        priority = "high"
        tags = ["energy"]
        """,
    )["readings"]
    assert readings.pattern is not None
    assert readings.pattern.base == folder / "inbox"
    assert readings.pattern.parts == ("*.csv",)
    assert readings.move_to == folder / "done"
    assert (readings.poll, readings.priority, readings.strict) == (timedelta(seconds=5), 10, True)


def test_defaults_are_careful() -> None:
    plain = settings()
    assert (plain.table, plain.mode, plain.strict, plain.after_load, plain.null) == ("public.t", "append", False, "keep", [""])
    assert settings(mode="upsert", key=["a"]).strict
    assert settings(mode="replace", key=["a"]).strict
    assert not settings(mode="replace", key=["a"], order="any").strict
    assert settings(poll="off").poll is None
    assert settings(source="upload").pattern is None


def test_a_parent_folder_may_be_named() -> None:
    pattern = settings(source="/etc/app/../inbox/*.csv").pattern
    assert pattern is not None
    assert pattern.base == Path("/etc/inbox")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"source": "s3://bucket/x"}, "not available in this version"),
        ({"source": "https://example.com/x.csv"}, "not available in this version"),
        ({"source": "ftp://example.com/x.csv"}, '"ftp://" is not a source'),
        ({"source": ""}, "a source is a folder"),
        ({"source": "inbox/"}, r"is a folder: write which files in it, such as \"inbox/\*\.csv\""),
        ({"source": "inbox/**"}, "write which files"),
        ({"source": "in*/../x.csv"}, '"..*" cannot come after a wildcard'.replace(".", r"\.").replace("*", "")),
        ({"table": "a.b.c"}, "is not a table name"),
        ({"table": 'x"; drop table y'}, "is not a table name"),
        ({"table": "ingestd.job"}, 'schema "ingestd" is not for imported tables'),
        ({"table": "t" * 64}, "longer than the 63"),
        ({"mode": "upsert"}, "needs a key"),
        ({"mode": "replace"}, "needs a key"),
        ({"key": ["a"]}, "a key does nothing"),
        ({"mode": "upsrt", "key": ["a"]}, 'did you mean "upsert"'),
        ({"mode": "upsert", "key": ["a", "a"]}, "twice"),
        ({"mode": "upsert", "key": ["A"], "rename": {"A": "b"}}, 'renamed to "b"'),
        ({"rename": {"A": "x", "B": "x"}}, "two columns"),
        ({"format": "xml"}, '"xml" is not available in this version'),
        ({"delimiter": ";;"}, "is not a delimiter"),
        ({"columns": {"a": " "}}, "has no type"),
        ({"max_reject_ratio": 1.5}, "less than or equal to 1"),
        ({"after_load": "mov:done"}, 'did you mean "move"'),
        ({"after_load": "move:"}, "move:FOLDER"),
        ({"after_load": "move:/in"}, "finds them again"),
        ({"poll": "5"}, "is not a duration"),
        ({"poll": "1ms"}, "shorter than 100ms"),
        ({"priority": "urgent"}, "is not a priority"),
        ({"order": "sorted"}, "strict"),
    ],
)
def test_each_mistake_has_its_own_message(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**keys)


def test_all_mistakes_are_named_at_once_with_their_places(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load(
            tmp_path,
            """
            [imports.a]
            source = "s3://x/y"
            table = "a b"
            pol = "1s"
            [imports.b]
            source = "inbox/*.csv"
            table = "t"
            mode = "upsert"
            """,
        )
    text = "\n".join(refused.value.problems)
    assert len(refused.value.problems) == 4
    assert 'did you mean "poll"?' in text
    assert '"source" in [imports.a]' in text
    assert '"table" in [imports.a]' in text
    assert '[imports.b]: mode = "upsert" needs a key' in text
