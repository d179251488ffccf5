"""What a handler's signature says about its arguments, and what is wrong with a call."""

from __future__ import annotations

from typing import Any, Literal, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from ingestd.jobs.arguments import arguments_schema, models, problems


class Line(BaseModel):
    sku: str
    count: int = Field(gt=0)


class Order(BaseModel):
    number: int
    lines: list[Line] = []


async def sync_prices(
    ctx: Any,
    supplier: str,
    limit: int = 10,
    ratio: float = 1.0,
    dry: bool = False,
    tags: list[str] | None = None,
    options: dict[str, int] = {},  # noqa: B006 - only its type matters
    mode: Literal["full", "delta"] = "full",
    note: Optional[str] = None,  # noqa: UP045 - users write it
    anything: object = None,
    unknown: "NobodyKnows" = None,  # type: ignore[name-defined] # noqa: F821, UP037
) -> None: ...


SCHEMA = arguments_schema(sync_prices)


def test_names_and_defaults_say_what_is_known_and_required() -> None:
    assert SCHEMA["required"] == ["supplier"]
    assert SCHEMA["additionalProperties"] is False
    assert list(SCHEMA["properties"])[:3] == ["supplier", "limit", "ratio"]


def test_simple_annotations_become_types_and_others_accept_anything() -> None:
    properties = SCHEMA["properties"]
    assert properties["limit"] == {"type": "integer"}
    assert properties["tags"] == {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]}
    assert properties["options"] == {"type": "object", "additionalProperties": {"type": "integer"}}
    assert properties["mode"] == {"enum": ["full", "delta"]}
    assert properties["anything"] == {}
    assert properties["unknown"] == {}


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"supplier": "acme"}, []),
        ({"supplier": "acme", "limit": 5, "ratio": 2, "note": None, "tags": ["a"], "unknown": [1, {}]}, []),
        ({}, ['missing "supplier"']),
        ({"suplier": "acme"}, ['missing "supplier"', 'unexpected "suplier", did you mean "supplier"?']),
        ({"supplier": "a", "limit": "5"}, ['"limit" must be a whole number, not a string']),
        ({"supplier": "a", "limit": 5.5}, ['"limit" must be a whole number, not 5.5']),
        ({"supplier": "a", "limit": True}, ['"limit" must be a whole number, not true or false']),
        ({"supplier": "a", "ratio": "1"}, ['"ratio" must be a number, not a string']),
        ({"supplier": "a", "dry": 1}, ['"dry" must be true or false, not 1']),
        ({"supplier": None}, ['"supplier" must be a string, not null']),
        ({"supplier": "a", "tags": ["x", 3]}, ['"tags[1]" must be a string, not 3']),
        ({"supplier": "a", "tags": "x"}, ['"tags" must be a list or null, not a string']),
        ({"supplier": "a", "options": {"n": "x"}}, ['"options.n" must be a whole number, not a string']),
        ({"supplier": "a", "mode": "half"}, ["\"mode\" must be one of 'full', 'delta', not 'half'"]),
        ({"supplier": "a", "": 1}, ['unexpected ""']),
        ({"supplier": "a", "options": {"": "x"}}, ['"options." must be a whole number, not a string']),
        ([], ["the arguments must be an object, not a list"]),
    ],
)
def test_each_mistake_is_one_clear_line(args: Any, told: list[str]) -> None:
    assert problems(SCHEMA, args) == told


def test_a_pydantic_model_brings_its_own_schema_with_what_it_refers_to() -> None:
    def ship(ctx: Any, order: Order) -> None: ...

    ship.__annotations__["order"] = Order
    schema = arguments_schema(ship)
    assert models(ship) == {"order": Order}
    assert problems(schema, {"order": {"number": 1, "lines": [{"sku": "x", "count": 2}]}}) == []
    assert problems(schema, {"order": {"number": 1, "lines": [{"sku": "x"}]}}) == ['missing "order.lines[0].count"']
    assert problems(schema, {"order": {"number": 1, "lines": [{"sku": "x", "count": 0}]}}) == [
        '"order.lines[0].count" must be more than 0, not 0'
    ]


def test_a_handler_that_takes_anything_accepts_anything() -> None:
    def any_of_it(ctx: Any, **args: Any) -> None: ...

    assert problems(arguments_schema(any_of_it), {"x": 1, "y": [None]}) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
TYPES = ("string", "integer", "number", "boolean", "array", "object", "null")
SCHEMAS = st.recursive(
    st.builds(lambda name: {"type": name}, st.sampled_from(TYPES)) | st.builds(lambda value: {"enum": [value]}, JSON) | st.just({}),
    lambda inner: (
        st.builds(lambda one: {"type": "array", "items": one}, inner)
        | st.builds(lambda some: {"anyOf": some}, st.lists(inner, min_size=1, max_size=3))
        | st.builds(
            lambda some, strict: {"type": "object", "properties": some, "required": list(some)[:1], "additionalProperties": strict},
            st.dictionaries(st.text(max_size=5), inner, max_size=3),
            st.booleans(),
        )
    ),
    max_leaves=8,
)


def fits(schema: dict[str, Any], value: Any) -> bool:
    """The same question answered the plainest way, as the model to compare with."""
    kinds = {
        "string": isinstance(value, str),
        "boolean": isinstance(value, bool),
        "number": isinstance(value, int | float) and not isinstance(value, bool),
        "integer": (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer()),
        "array": isinstance(value, list),
        "object": isinstance(value, dict),
        "null": value is None,
    }
    if "type" in schema and not kinds[schema["type"]]:
        return False
    if "enum" in schema and not any(one == value and isinstance(one, bool) == isinstance(value, bool) for one in schema["enum"]):
        return False
    if "anyOf" in schema and not any(fits(one, value) for one in schema["anyOf"]):
        return False
    if isinstance(value, list) and "items" in schema and not all(fits(schema["items"], one) for one in value):
        return False
    if isinstance(value, dict) and "properties" in schema:
        if not set(schema["required"]) <= value.keys():
            return False
        if not schema["additionalProperties"] and not value.keys() <= schema["properties"].keys():
            return False
        return all(fits(schema["properties"][name], one) for name, one in value.items() if name in schema["properties"])
    return True


@given(schema=SCHEMAS, value=JSON)
def test_there_is_a_problem_exactly_where_the_value_does_not_fit(schema: dict[str, Any], value: Any) -> None:
    assert (problems(schema, value) == []) == fits(schema, value)


@given(schema=JSON, value=JSON)
def test_a_schema_that_is_none_never_raises(schema: Any, value: Any) -> None:
    problems(schema, value)
