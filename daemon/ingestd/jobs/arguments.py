"""The arguments of a kind as a JSON schema, and what is wrong with a call.

A small part of JSON Schema is enough for what Python signatures say: type, enum, const, anyOf, properties, required,
additionalProperties, items, $ref into $defs, and the bounds that pydantic writes. Anything else a schema says is taken as fulfilled.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal, Union
from uuid import UUID

from ingestd.settings import did_you_mean

Schema = Mapping[str, Any]
SIMPLE: dict[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    list: "array",
    dict: "object",
    type(None): "null",
}
WORDS = {
    "string": "a string",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
# Stored as text, so that they are strings to whoever reads them.
TEXTUAL = (str, datetime, date, time, timedelta, UUID, Decimal)
DEEPEST = 50


def arguments_schema(handler: Callable[..., Any]) -> dict[str, Any]:
    """The JSON schema of the object a handler is called with.

    Args:
        handler: `def handler(ctx, …)`; the context is left out. Names and defaults say what is known and required;
            an annotation that has no simple JSON form accepts anything.
    """
    parameters = list(inspect.signature(handler).parameters.values())[1:]
    hints, definitions = _hints(handler), {}  # type: dict[str, Any], dict[str, Any]
    properties: dict[str, Any] = {}
    required: list[str] = []
    open_ended = False
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            open_ended = True
        elif parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            properties[parameter.name] = _of(hints.get(parameter.name, Any), definitions)
            if parameter.default is parameter.empty:
                required.append(parameter.name)
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": required, "additionalProperties": open_ended}
    return schema | {"$defs": definitions} if definitions else schema


def takes_argument_first(handler: Callable[..., Any]) -> bool:
    """Whether what stands where the context belongs is declared as something that only an argument can be."""
    first = next(iter(inspect.signature(handler).parameters.values()), None)
    return first is not None and _of(_hints(handler).get(first.name, Any), {}) != {}


def models(handler: Callable[..., Any]) -> dict[str, Any]:
    """The arguments that are annotated with a pydantic model, and which."""
    names = list(inspect.signature(handler).parameters)[1:]
    return {name: hint for name, hint in _hints(handler).items() if name in names and _is_model(hint)}


def _hints(handler: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(handler)
    except Exception:  # noqa: BLE001 - names that only a type checker sees; each is then looked at alone
        return dict(_readable_hints(handler))


def _readable_hints(handler: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    function: Any = inspect.unwrap(getattr(handler, "__func__", handler))
    for name, written in getattr(function, "__annotations__", {}).items():
        alone = types.SimpleNamespace(__annotations__={name: written})
        try:
            yield name, typing.get_type_hints(alone, getattr(function, "__globals__", {}))[name]
        except Exception:  # noqa: BLE001, S112 - this one says nothing we can read: anything is accepted
            continue


def _is_model(hint: Any) -> bool:
    return isinstance(hint, type) and hasattr(hint, "model_json_schema") and hasattr(hint, "model_validate")


def _of(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is None:
        return {"type": "null"}
    if hint in SIMPLE if isinstance(hint, type) else False:
        return {"type": SIMPLE[hint]}
    if _is_model(hint):
        schema = dict(hint.model_json_schema())
        definitions |= schema.pop("$defs", {})
        return schema
    if origin is typing.Annotated:
        return _of(inner[0], definitions)
    if origin in (Union, types.UnionType):
        branches = [_of(one, definitions) for one in inner]
        return {} if {} in branches else {"anyOf": branches}
    if origin is Literal:
        return {"enum": list(inner)}
    if origin is list or origin is Sequence or origin is Iterable:
        items = _of(inner[0], definitions) if inner else {}
        return {"type": "array", "items": items} if items else {"type": "array"}
    if origin is dict or origin is Mapping:
        values = _of(inner[1], definitions) if len(inner) == 2 else {}
        return {"type": "object", "additionalProperties": values} if values else {"type": "object"}
    return {}


def problems(schema: Schema, args: Any) -> list[str]:
    """What is wrong with these arguments, one clear line each; empty if they fit.

    Args:
        schema: as `arguments_schema` makes it, or a row of `ingestd.kind` keeps it.
        args: a JSON value, or what becomes one.
    """
    return list(_check(schema, args, None, schema, 0))


def _check(schema: Any, value: Any, place: str | None, root: Schema, depth: int) -> Iterator[str]:
    if not isinstance(schema, Mapping):
        if schema is False:
            yield f"{_named(place)} is not allowed"
        return
    if depth > DEEPEST:
        return
    if "$ref" in schema:
        yield from _check(_resolved(schema["$ref"], root), value, place, root, depth + 1)
    if "anyOf" in schema and isinstance(schema["anyOf"], list):
        yield from _check_any(schema["anyOf"], value, place, root, depth)
    allowed = schema.get("type")
    wanted = [allowed] if isinstance(allowed, str) else list(allowed or ())
    if wanted and not any(_is(value, name) for name in wanted):
        yield f"{_named(place)} must be {_either(wanted)}, not {_word(value)}"
        return
    if isinstance(schema.get("enum"), list) and not any(_same(value, one) for one in schema["enum"]):
        yield f"{_named(place)} must be one of {', '.join(map(repr, schema['enum']))}, not {_short(value)}"
    if "const" in schema and not _same(value, schema["const"]):
        yield f"{_named(place)} must be {schema['const']!r}, not {_short(value)}"
    if isinstance(value, Mapping):
        yield from _check_object(schema, value, place, root, depth)
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            yield from _check(schema.get("items"), item, f"{place or ''}[{position}]", root, depth + 1)
    yield from _check_bounds(schema, value, place)


def _check_object(schema: Schema, value: Mapping[str, Any], place: str | None, root: Schema, depth: int) -> Iterator[str]:
    properties = schema.get("properties") or {}
    for name in schema.get("required") or ():
        if name not in value:
            yield f"missing {_named(_inside(place, name))}"
    others = schema.get("additionalProperties", True)
    for name, item in value.items():
        if name in properties:
            yield from _check(properties[name], item, _inside(place, name), root, depth + 1)
        elif others is False:
            yield f"unexpected {_named(_inside(place, name))}{did_you_mean(str(name), properties)}"
        else:
            yield from _check(others, item, _inside(place, name), root, depth + 1)


def _check_any(branches: Sequence[Schema], value: Any, place: str | None, root: Schema, depth: int) -> Iterator[str]:
    answers = [list(_check(branch, value, place, root, depth + 1)) for branch in branches]
    if not answers or not all(answers):
        return
    names = [branch["type"] for branch in branches if isinstance(branch.get("type"), str)]
    if len(names) == len(branches) and not any(_is(value, name) for name in names):
        yield f"{_named(place)} must be {_either(names)}, not {_word(value)}"
        return
    # Whoever came furthest says what is wrong: a branch of the right type knows more than the others.
    right = [answer for branch, answer in zip(branches, answers, strict=True) if _is(value, str(branch.get("type", "object")))]
    yield from min(right or answers, key=len)


_BOUNDS: tuple[tuple[str, Callable[[Any, Any], bool], str], ...] = (
    ("minimum", lambda value, bound: value >= bound, "at least"),
    ("maximum", lambda value, bound: value <= bound, "at most"),
    ("exclusiveMinimum", lambda value, bound: value > bound, "more than"),
    ("exclusiveMaximum", lambda value, bound: value < bound, "less than"),
)
_LENGTHS = (("minLength", "minItems", 1, "at least"), ("maxLength", "maxItems", -1, "at most"))


def _check_bounds(schema: Schema, value: Any, place: str | None) -> Iterator[str]:
    if _is(value, "number"):
        for key, holds, words in _BOUNDS:
            if _is(schema.get(key), "number") and not holds(value, schema[key]):
                yield f"{_named(place)} must be {words} {schema[key]}, not {value}"
    elif isinstance(value, str | list | tuple):
        for of_text, of_list, sign, words in _LENGTHS:
            key, unit = (of_text, "characters") if isinstance(value, str) else (of_list, "items")
            if _is(schema.get(key), "integer") and sign * len(value) < sign * schema[key]:
                yield f"{_named(place)} must have {words} {schema[key]} {unit}, not {len(value)}"


def _resolved(reference: Any, root: Schema) -> Any:
    if isinstance(reference, str) and reference.startswith("#/$defs/"):
        return (root.get("$defs") or {}).get(reference.removeprefix("#/$defs/"))
    return None


def _is(value: Any, name: str) -> bool:
    match name:
        case "null":
            return value is None
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "string":
            return isinstance(value, TEXTUAL)
        case "array":
            return isinstance(value, list | tuple)
        case "object":
            return isinstance(value, Mapping)
    return True


def _same(value: Any, other: Any) -> bool:
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def _word(value: Any) -> str:
    for name in ("null", "boolean", "number", "string", "array", "object"):
        if _is(value, name):
            return f"{value}" if name == "number" else WORDS[name]
    return f"a {type(value).__name__}"


def _either(names: Sequence[str]) -> str:
    words = [WORDS.get(str(name), str(name)) for name in names]
    return " or ".join(words) if len(words) < 3 else f"{', '.join(words[:-1])} or {words[-1]}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _named(place: str | None) -> str:
    return "the arguments" if place is None else f'"{place}"'


def _inside(place: str | None, name: object) -> str:
    return str(name) if place is None else f"{place}.{name}"
