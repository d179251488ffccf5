"""The layers of a configuration: files in order, then the environment, merged, each key with the place it came from."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ingestd.errors import FileMissing, Refused, UsageError
from ingestd.settings.values import Placed

ENV_PREFIX = "INGESTD_"
Keys = tuple[str, ...]
_KEY = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_DOTTED = rf"{_KEY}(?:\s*\.\s*{_KEY})*"
_HEADER = re.compile(rf"\s*\[\s*({_DOTTED})\s*\]")
_ASSIGNMENT = re.compile(rf"\s*({_DOTTED})\s*=")
_SPOT = re.compile(r"\s*\(at line (\d+), column (\d+)\)")


@dataclass
class Layers:
    """The merged configuration and where each key came from.

    Args:
        data: nested mappings, later layers over earlier ones.
        origin: key path -> file name or environment variable that set it last.
        texts: file name -> what it says; only a message about one of its keys asks in which line that stands.
        problems: what could not even be read.
    """

    data: dict[str, Any] = field(default_factory=dict)
    origin: dict[Keys, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    _lines: dict[str, dict[Keys, int]] = field(default_factory=dict)

    def merge(self, layer: Mapping[str, Any], origin: str) -> None:
        """Lay `layer` over what is there: mappings merge, everything else replaces."""
        self._merge(self.data, layer, (), origin)

    def _merge(self, into: dict[str, Any], layer: Mapping[str, Any], at: Keys, origin: str) -> None:
        for key, value in layer.items():
            path = (*at, key)
            self.origin[path] = origin
            if isinstance(value, Mapping):
                if not isinstance(into.get(key), dict):
                    into[key] = {}
                self._merge(into[key], value, path, origin)
            else:
                into[key] = value

    def place(self, path: Sequence[str | int]) -> str:
        """Name the place of a key as its author wrote it: `config.toml:12`, or the environment variable."""
        for keys in _prefixes(path):
            if keys in self.origin:
                origin = self.origin[keys]
                line = self._line(origin, path)
                return f"{origin}:{line}" if line else origin
        return "configuration"

    def _line(self, origin: str, path: Sequence[str | int]) -> int | None:
        if origin not in self._lines:
            self._lines[origin] = key_lines(self.texts.get(origin, ""))
        lines = self._lines[origin]
        return next((lines[keys] for keys in _prefixes(path) if keys in lines), None)


def _prefixes(path: Sequence[str | int]) -> Iterator[Keys]:
    keys = tuple(str(part) for part in path)
    for length in range(len(keys), 0, -1):
        yield keys[:length]


def read_layers(files: Sequence[Path], environ: Mapping[str, str]) -> Layers:
    """Read the configuration files in order, then the environment, into one set of layers.

    Args:
        files: TOML files, later ones win.
        environ: the process environment; keys `INGESTD_SECTION__KEY` count.

    Raises:
        FileMissing: a file is not there.
        Refused: a file cannot be read.
    """
    layers = Layers()
    for file in files:
        _read_file(layers, file)
    for name, value in sorted(environ.items()):
        if name.startswith(ENV_PREFIX) and "__" in name:
            _read_variable(layers, name, value)
    return layers


def _read_file(layers: Layers, file: Path) -> None:
    text = _text(file)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        spot = _SPOT.search(str(error))
        place = f"{file}:{spot[1]}" if spot else str(file)
        layers.problems.append(f"{place}: not valid TOML: {_SPOT.sub('', str(error))}{f', column {spot[2]}' if spot else ''}")
    except RecursionError:
        layers.problems.append(f"{file}: not valid TOML: brackets are nested too deeply")
    else:
        layers.texts[str(file)] = text
        layers.merge(_place_strings(document, file.resolve().parent), str(file))


def _text(file: Path) -> str:
    if not file.name:
        raise UsageError("a configuration file needs a name", hint="write --config FILE")
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileMissing(f"there is no configuration file {file}") from None
    except UnicodeDecodeError:
        raise Refused(f"cannot read {file}: it is not UTF-8 text") from None
    except (OSError, ValueError) as error:
        raise Refused(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from None


def key_lines(text: str) -> dict[Keys, int]:
    """In which line each key of a TOML document stands, for messages.

    A look at headers and assignments, not a parser: a text in three quotes that looks like one may mislead it, and then a
    message names a line that is near.
    """
    found: dict[Keys, int] = {}
    section: Keys = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            section = _keys(header[1])
            found.setdefault(section, number)
        elif assignment := _ASSIGNMENT.match(line):
            found.setdefault(section + _keys(assignment[1]), number)
    return found


def _keys(dotted: str) -> Keys:
    return tuple(part.strip("\"'") for part in re.findall(_KEY, dotted))


def _place_strings(value: Any, base: Path) -> Any:
    if isinstance(value, str):
        return Placed(value, base)
    if isinstance(value, list):
        return [_place_strings(item, base) for item in value]
    if isinstance(value, dict):
        return {key: _place_strings(item, base) for key, item in value.items()}
    return value


def _read_variable(layers: Layers, name: str, value: str) -> None:
    keys = name.removeprefix(ENV_PREFIX).lower().split("__")
    if not all(keys):
        layers.problems.append(f"{name}: not a key: write {ENV_PREFIX}SECTION__KEY")
        return
    item: Any = value
    if value[:1] in ("[", "{"):
        try:
            item = json.loads(value)
        except ValueError:
            item = value
    for part in reversed(keys):
        item = {part: item}
    layers.merge(item, name)
