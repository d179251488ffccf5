"""References in a step's arguments to what earlier steps resulted in: `{ from = "fetch", path = "rows.0.id" }`. Pure.

Any table inside the arguments that has the key `from` and nothing besides but `path`, both texts, is one. The arguments as a
whole never are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ingestd.errors import InvalidInput

SHOWN = 12


@dataclass(frozen=True, slots=True)
class Reference:
    """A place in arguments that takes its value from a result.

    Args:
        at: where it stands, such as `files.0`.
        step: whose result.
        path: what of it, names and numbers joined by dots; empty: all of it.
    """

    at: str
    step: str
    path: str = ""


def references(args: Mapping[str, Any]) -> list[Reference]:
    """All references in a step's arguments."""
    return [found for key, value in args.items() for found in _find(value, str(key))]


def _find(value: Any, at: str) -> Iterator[Reference]:
    if (reference := _as_reference(value, at)) is not None:
        yield reference
        return
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, item in inner:
        yield from _find(item, f"{at}.{key}")


def _as_reference(value: Any, at: str) -> Reference | None:
    if not isinstance(value, Mapping) or "from" not in value or not value.keys() <= {"from", "path"}:
        return None
    step, path = value["from"], value.get("path", "")
    return Reference(at, str(step), str(path)) if isinstance(step, str) and isinstance(path, str) else None


def resolve(args: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with every reference replaced by what it refers to.

    Args:
        results: step -> result, of the steps that have succeeded.

    Raises:
        InvalidInput: a step has not succeeded, or its result has nothing at that place.
    """
    return {key: _resolved(value, str(key), results) for key, value in args.items()}


def _resolved(value: Any, at: str, results: Mapping[str, Any]) -> Any:
    if (reference := _as_reference(value, at)) is not None:
        return _look_up(reference, results)
    if isinstance(value, Mapping):
        return {key: _resolved(item, f"{at}.{key}", results) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_resolved(item, f"{at}.{number}", results) for number, item in enumerate(value)]
    return value


def _look_up(reference: Reference, results: Mapping[str, Any]) -> Any:
    if reference.step not in results:
        raise InvalidInput(f'argument "{reference.at}" needs the result of step "{reference.step}", which has not succeeded')
    found, way = results[reference.step], reference.step
    for part in reference.path.split(".") if reference.path else ():
        if isinstance(found, Mapping) and part in found:
            found = found[part]
        elif isinstance(found, list) and part.isascii() and part.isdigit() and len(part) < SHOWN and int(part) < len(found):
            found = found[int(part)]
        else:
            raise InvalidInput(f'argument "{reference.at}": the result of {way} has no "{part}", it {_contents(found)}')
        way = f"{way}.{part}"
    return found


def _contents(value: Any) -> str:
    if isinstance(value, Mapping):
        names = [str(name) for name in value]
        more = ", …" if len(names) > SHOWN else ""
        return f"has {', '.join(names[:SHOWN])}{more}" if names else "is empty"
    if isinstance(value, list):
        return f"is a list of {len(value)}"
    return "is null" if value is None else "is a single value"
