"""Checks merged layers against a model, and words everything that is wrong with them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ingestd.errors import ConfigurationError
from ingestd.settings.layers import Layers

M = TypeVar("M", bound=BaseModel)
Keys = tuple[str | int, ...]
_NEAR_KEY = 0.65
_LONGEST_WORD = 200
_PLAIN = {
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a number of fewer digits",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be a text in quotes",
    "list_type": "must be a list",
    "dict_type": "must be a section with keys of its own",
    "model_type": "must be a section with keys of its own",
    "greater_than_equal": "must be {ge} or more",
    "less_than_equal": "must be {le} or less",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "too_long": "must have {max_length} entries at most",
    "string_too_long": "must be at most {max_length} characters",
}


def did_you_mean(word: str, known: Iterable[str], nearness: float = 0.6) -> str:
    """Return `, did you mean "x"?` for the nearest known word, else an empty string.

    Args:
        nearness: how like it a word must be, 0..1.
    """
    # Comparing takes time by the square of the lengths, and nobody mistypes a name as long as that.
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=nearness) if len(word) <= _LONGEST_WORD else []
    return f', did you mean "{near[0]}"?' if near else ""


def validate(model: type[M], layers: Layers) -> M:
    """Build `model` from the layers, or say everything that is wrong with them.

    Raises:
        ConfigurationError: with one line for each problem.
    """
    settings, problems = examine(model, layers)
    if settings is None or problems:
        raise ConfigurationError(problems)
    return settings


def examine(model: type[M], layers: Layers) -> tuple[M | None, list[str]]:
    """Build `model` from what is right in the layers, and say what is wrong in them.

    With a model in hand although there are problems, further checks can tell of theirs in the same breath.

    Returns:
        The model without the keys and objects that have a problem, None if nothing can be made of the rest; the problems.
    """
    problems = list(layers.problems)
    data = layers.data
    # First without the bad keys alone, then without the steps, the objects and at last the sections that they belong to.
    for keep in (None, 4, 2, 1, 0):
        try:
            return model.model_validate(data), problems
        except ValidationError as error:
            if data is layers.data:
                problems += _lines(error, model, layers)
                data = _copy(data)
            for item in error.errors(include_url=False):
                _drop(data, _plain_path(item["loc"])[:keep])
    return None, problems


def _plain_path(loc: Sequence[str | int]) -> Keys:
    return tuple(part for part in loc if part != "[key]")


def _copy(data: Any) -> Any:
    return {key: _copy(value) for key, value in data.items()} if isinstance(data, dict) else data


def _drop(data: Any, path: Keys) -> None:
    for part in path[:-1]:
        data = data.get(part) if isinstance(data, dict) else None
    if isinstance(data, dict) and path:
        data.pop(path[-1], None)


def _lines(error: ValidationError, model: type[BaseModel], layers: Layers) -> Iterator[str]:
    for item in error.errors(include_url=False):
        path = _plain_path(item["loc"])
        place = layers.place(path)
        entry = next((number for number, part in enumerate(path) if isinstance(part, int)), None)
        which = "" if entry is None else f"entry {int(path[entry]) + 1}: "
        path = path[:entry]
        where, key = path[:-1], str(path[-1]) if path else ""
        section = f" in [{'.'.join(map(str, where))}]" if where else ""
        match item["type"]:
            case "extra_forbidden":
                known = known_keys(model, where)
                suggestion = (
                    _elsewhere(model, where, key)
                    or did_you_mean(key, known, _NEAR_KEY)
                    or (f", known keys: {', '.join(sorted(known))}" if known else "")
                )
                yield f'{place}: unknown {"key" if where else "section"} "{key}"{section}{suggestion}'
            case "missing":
                yield f'{place}: missing key "{key}"{section}'
            case "value_error" if not path:
                yield f"{place}: {item['ctx']['error']}"
            case _ if not where or _is_section(model, path):
                yield f"{place}: [{'.'.join(map(str, path))}]: {which}{_message(item)}"
            case _:
                yield f'{place}: "{key}"{section}: {which}{_message(item)}'


def _elsewhere(model: type[BaseModel], where: Sequence[str | int], key: str) -> str:
    """The section that has this very key, where no other has it: people remember a key before they remember its section."""
    homes = [name for name in sorted(known_keys(model, ())) if where != (name,) and len(where) == 1 and key in known_keys(model, (name,))]
    return f", it belongs in [{homes[0]}]" if len(homes) == 1 else ""


def _message(item: Any) -> str:
    kind, context, value = item["type"], item.get("ctx", {}), item["input"]
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        words = re.findall(r"'([^']*)'", context["expected"])
        choice = f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]
        return f'"{value}" is not {choice}{did_you_mean(str(value).lower(), words)}'
    if kind in ("dict_type", "model_type") and isinstance(value, str) and value.startswith("{"):
        return "not valid JSON"
    plain = _PLAIN.get(kind)
    return plain.format_map(context) if plain else str(item["msg"]).replace("Input should be", "must be")


def _is_section(model: type[BaseModel], path: Keys) -> bool:
    annotation = _annotation(model, path)
    return get_origin(annotation) is dict or bool(_models(annotation))


def known_keys(model: type[BaseModel], path: Sequence[str | int]) -> set[str]:
    """The keys that `model` knows at `path`, walking through sections, mappings and lists."""
    models = _models(_annotation(model, path))
    return {info.alias or name for candidate in models for name, info in candidate.model_fields.items()}


def _annotation(model: type[BaseModel], path: Sequence[str | int]) -> Any:
    current: Any = model
    for part in path:
        current = _inner(current, str(part))
    return current


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (dict, list):
        return []
    return [found for argument in get_args(annotation) for found in _models(argument)]


def _inner(annotation: Any, part: str) -> Any:
    """The type of one key: of a section's field, or of any entry of a mapping or list."""
    if get_origin(annotation) in (dict, list):
        return get_args(annotation)[-1]
    for candidate in _models(annotation):
        for name, info in candidate.model_fields.items():
            if part == (info.alias or name):
                return info.annotation
    return None
