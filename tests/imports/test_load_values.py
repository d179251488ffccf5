"""Conversion of single values, and types from values: each trap alone, so that no other value gives it away."""

from __future__ import annotations

import pyarrow as pa
import pytest

from ingestd.imports.columns import Converter
from ingestd.imports.infer import infer
from ingestd.imports.shape import Column

NUMERIC_12_2 = Column("v", "numeric(12,2)", "numeric", (12 << 16) + 2 + 4)
COLUMNS = {
    "smallint": Column("v", "smallint", "int2"),
    "int": Column("v", "integer", "int4"),
    "bigint": Column("v", "bigint", "int8"),
    "numeric": Column("v", "numeric", "numeric"),
    "numeric(12,2)": NUMERIC_12_2,
    "real": Column("v", "real", "float4"),
    "double": Column("v", "double precision", "float8"),
    "bool": Column("v", "boolean", "bool"),
    "date": Column("v", "date", "date"),
    "timestamp": Column("v", "timestamp without time zone", "timestamp"),
    "timestamptz": Column("v", "timestamp with time zone", "timestamptz"),
    "varchar(3)": Column("v", "character varying(3)", "varchar", 3 + 4),
    "time": Column("v", "time without time zone", "time"),
}
REFUSED = [
    *(("int", text) for text in ("0x1F", "0X1f", "1_000", " 1", "1 ", "1.0", "1e3", "+", "", "٣", "2147483648", "NaN")),
    ("smallint", "32768"),
    ("bigint", "9223372036854775808"),
    *(("numeric", text) for text in ("1e3", "1E3", "NaN", "0x1F", "1_0", " 1", "1,5", ".", "Infinity")),
    *(("numeric(12,2)", text) for text in ("1.239", "1e3", "12345678901.2", "NaN")),
    *(("double", text) for text in ("1e999", "-1e999", "nan", "inf", "infinity", "0x1p3", " 1", "1d", "1_0")),
    ("real", "1e39"),
    *(("bool", text) for text in ("1", "0", "yes", "of", "on", " true")),
    *(("date", text) for text in ("now", "infinity", "0000-01-01", "2023-02-29", "2024-1-1", "20240101", "01/02/2024")),
    *(("timestamp", text) for text in ("now", "2024-01-01T00:00:00Z", "0000-01-01 00:00", "2024-01-01 24:00:00")),
    *(("timestamptz", text) for text in ("2024-01-01", "2024-01-01 00:00:00", "epoch", "0000-01-01T00:00Z", "2024-01-01 00:00+25")),
    ("varchar(3)", "abcd"),
    *(("time", text) for text in ("now", "allballs", "10", "10:00Z")),
]


@pytest.mark.parametrize(("sql_type", "text"), REFUSED)
def test_a_value_is_refused_alone_and_among_good_ones(sql_type: str, text: str) -> None:
    converter = Converter(COLUMNS[sql_type], ("NA",))
    assert converter.convert(pa.array([text]))[1] == [0]
    values, bad = converter.convert(pa.array([None, text, None, text]))
    assert bad == [1, 3]
    assert values.null_count == 4
    assert text[:20] in converter.explain(text)


@pytest.mark.parametrize("sql_type", COLUMNS)
def test_a_quoted_null_text_is_null_in_every_type_but_text(sql_type: str) -> None:
    values, bad = Converter(COLUMNS[sql_type], ("", "NA")).convert(pa.array(["NA", None]))
    assert bad == []
    assert values.null_count == (1 if sql_type == "varchar(3)" else 2)


def test_the_scale_of_an_unbounded_numeric_grows_with_its_values() -> None:
    converter = Converter(COLUMNS["numeric"], ())
    assert [str(value) for value in converter.convert(pa.array(["1", "2"]))[0]] == ["1", "2"]
    values, bad = converter.convert(pa.array(["1.25", "x", "0.1", None]))
    assert [value.as_py() and str(value) for value in values] == ["1.25", None, "0.10", None]
    assert bad == [1]


@pytest.mark.parametrize(
    ("texts", "sql_type"),
    [
        (["true", "False", None], "boolean"),
        (["t", "f"], "text"),
        (["1", "-2", "0"], "bigint"),
        (["1", "2.5"], "numeric"),
        (["2.5", "1"], "numeric"),
        (["10.357019999999999", "5.75"], "double precision"),
        (["10.357019999999999123", "5.75"], "numeric"),
        (["1", "123456789012345678", "0.5"], "numeric"),
        (["1e3", "2"], "double precision"),
        (["007", "1"], "text"),
        (["1234567890123456789"], "text"),
        (["0x1F"], "text"),
        (["1", "true"], "text"),
        (["2024-01-01", None], "date"),
        (["2024-01-01", "2024-01-01 10:00"], "timestamp"),
        (["2024-01-01T10:00:00Z", "2024-01-01 10:00:00+02"], "timestamptz"),
        (["2024-01-01T10:00:00Z", "2024-01-01 10:00:00"], "text"),
        (["2024-02-30"], "text"),
        (["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"], "uuid"),
        ([None, None], "text"),
        ([""], "text"),
        (["1", "NA"], "bigint"),
        (["x", "NA"], "text"),
    ],
)
@pytest.mark.parametrize("apart", [False, True])
def test_a_type_is_what_every_value_fits(texts: list[str | None], sql_type: str, apart: bool) -> None:
    slices = [[pa.array([text], pa.string())] for text in texts] if apart else [[pa.array(texts, pa.string())]]
    null = ("NA",)
    assert infer(slices, 1, null) == [sql_type]
