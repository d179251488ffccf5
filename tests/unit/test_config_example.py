"""`config.example.toml` documents every key there is, truly."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ingestd.app.settings import Settings, build
from ingestd.settings import Layers, read_layers

EXAMPLE = Path(__file__).parent.parent.parent / "config.example.toml"
SWITCHED_OFF = re.compile(r"^#(?=\[|\w+ = )", re.MULTILINE)
KEY_LINE = re.compile(r"^#?(?P<key>\w+) = (?P<value>.+?)\s+# (?P<why>.+)$")


def switched_on() -> str:
    """The example with every key in use."""
    return SWITCHED_OFF.sub("", EXAMPLE.read_text(encoding="utf-8"))


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a value of this type holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in models_in(argument)]


def keys_of(model: type[BaseModel], at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Every key of a section and of those in it; a name that users choose is `*`."""
    for name, field in model.model_fields.items():
        path = (*at, field.alias or name)
        inner = models_in(field.annotation)
        if not inner:
            yield path, field
        named = ("*",) if get_origin(field.annotation) is dict else ()
        for section in inner:
            yield from keys_of(section, path + named)


KEYS = dict(keys_of(Settings))


def shown(document: dict[str, Any], path: tuple[str, ...]) -> list[Any]:
    """The values the example has for a key, one for each object of its kind."""
    found = [document]
    for part in path:
        tables = [table for value in found for table in (value if isinstance(value, list) else [value]) if isinstance(table, dict)]
        found = [value for table in tables for value in (table.values() if part == "*" else [table[part]] if part in table else [])]
    return found


def comments() -> dict[tuple[str, str], str]:
    """(section, key) -> what stands behind it."""
    found, section = {}, ""
    for line in EXAMPLE.read_text(encoding="utf-8").splitlines():
        header = re.match(r"^#?\[{1,2}([\w.]+)\]{1,2}$", line)
        if header:
            section = header[1]
        elif match := KEY_LINE.match(line):
            found[section, match["key"]] = match["why"]
    return found


def test_the_example_as_it_is_changes_nothing() -> None:
    loaded = build(read_layers([EXAMPLE], {}))
    plain = build(Layers())
    assert loaded.model_dump(exclude={"queues"}) == plain.model_dump(exclude={"queues"})
    assert loaded.all_queues() == plain.all_queues()


def test_the_example_with_everything_switched_on_is_valid(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(switched_on(), encoding="utf-8")
    settings = build(read_layers([file], {}))
    assert settings.imports.keys() == {"readings"}
    assert settings.schedules.keys() >= {"nightly", "frequent"}


@pytest.mark.parametrize("path", KEYS, ids=".".join)
def test_every_key_is_in_the_example(path: tuple[str, ...]) -> None:
    assert shown(tomllib.loads(switched_on()), path), f"config.example.toml does not show {'.'.join(path)}"


@pytest.mark.parametrize("path", KEYS, ids=".".join)
def test_every_key_says_why_and_shows_its_default(path: tuple[str, ...]) -> None:
    document, said = tomllib.loads(switched_on()), comments()
    pattern = re.compile(r"\.".join(r"\w+" if part == "*" else part for part in path[:-1]))
    reasons = [why for (section, key), why in said.items() if key == path[-1] and pattern.fullmatch(section)]
    assert reasons, f"nothing is said about {'.'.join(path)}"
    field = KEYS[path]
    if field.is_required():
        assert any("required" in why for why in reasons)
    elif not any("default:" in why for why in reasons) and not is_a_choice(path):
        shown_values = [as_settings_see(field, value) for value in shown(document, path)]
        assert field.get_default(call_default_factory=True) in shown_values


def is_a_choice(path: tuple[str, ...]) -> bool:
    """One of several keys of which each object has exactly one, so that none has a default."""
    return path[-1] in ("cron", "every", "at", "job", "import", "rollup", "workflow", "command")


def as_settings_see(field: FieldInfo, value: Any) -> Any:
    """A value from the file after the checks of its field."""
    from pydantic import TypeAdapter

    return TypeAdapter(field.rebuild_annotation()).validate_python(value)


def test_the_example_knows_no_key_that_is_gone() -> None:
    known = {path[-1] for path in KEYS} | {"steps"}
    assert {key for _, key in comments()} <= known
