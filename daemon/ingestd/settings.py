"""How configuration is read: layers of TOML files and environment, merged, then validated whole.

Every problem is reported at once, with its place and, where one is near, a "did you mean". Rooms declare their part as
`Section` models in their own `settings.py`; `app.settings` joins them into one root model.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, PlainSerializer, SecretStr, ValidationError

from ingestd.errors import ConfigurationError, FileMissing, Refused

ENV_PREFIX = "INGESTD_"
NAME_PATTERN = re.compile(r"[a-z][a-z0-9_]{0,62}")
PRIORITIES = {"low": -10, "normal": 0, "high": 10}
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")

M = TypeVar("M", bound=BaseModel)


class Placed(str):
    """A string that remembers the folder of the file it was written in, for relative paths."""

    __slots__ = ("base",)

    def __new__(cls, value: str, base: Path) -> Placed:
        self = super().__new__(cls, value)
        self.base = base
        return self

    base: Path


def parse_duration(value: object) -> timedelta:
    """Read a duration such as `90s`, `5m`, `1h30m`, `500ms` or `2d`.

    Raises:
        ValueError: it is anything else; the message shows the form.
    """
    if isinstance(value, timedelta):
        return value
    text = str(value).strip().lower()
    if text == "0":
        return timedelta()
    parts = _DURATION.findall(text)
    if not parts or _DURATION.sub("", text).strip():
        raise ValueError(f'"{value}" is not a duration: write a number and a unit, such as "90s", "5m", "1h30m" or "2d"')
    try:
        return timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in parts))
    except OverflowError:
        raise ValueError(f'"{value}" is too long for a duration') from None


def format_duration(value: timedelta) -> str:
    """Write a duration the way `parse_duration` reads it."""
    milliseconds = round(value.total_seconds() * 1000)
    words = []
    for unit in ("d", "h", "m", "s", "ms"):
        count, milliseconds = divmod(milliseconds, int(_UNITS[unit] * 1000))
        if count:
            words.append(f"{count}{unit}")
    return "".join(words) or "0s"


def parse_priority(value: object) -> int:
    """Read a priority: `low`, `normal`, `high` or -100..100, larger is sooner."""
    if isinstance(value, str) and value in PRIORITIES:
        return PRIORITIES[value]
    try:
        number = int(str(value))
    except ValueError:
        number = 1000
    if isinstance(value, bool) or not -100 <= number <= 100:
        raise ValueError(f'"{value}" is not a priority: low, normal, high, or a number from -100 to 100')
    return number


def priority_name(value: int) -> str | int:
    """Name a priority as users write it: a word where there is one."""
    return next((word for word, number in PRIORITIES.items() if number == value), value)


def parse_name(value: str) -> str:
    """Check the name of an object: names become environment keys, SQL names and URLs."""
    if not NAME_PATTERN.fullmatch(value) or "__" in value:
        raise ValueError(f'"{value}" is not a name: lower-case letters, digits and single underscores, a letter first')
    return value


def split_list(value: object) -> object:
    """Read `a,b` as a list, which is how the environment writes one; anything else stays."""
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",") if part.strip()]


def _resolve_path(value: object) -> object:
    if not isinstance(value, str) or not value:
        return value
    base = value.base if isinstance(value, Placed) else Path.cwd()
    return base / Path(value).expanduser()


def located(value: str) -> Path:
    """The folder that a relative path in `value` is relative to: its file's, else the working directory."""
    return value.base if isinstance(value, Placed) else Path.cwd()


def _read_secret(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    if len(value) != 1 or next(iter(value)) not in ("file", "env", "credential"):
        raise ValueError('a secret is a string, { file = "…" }, { env = "…" } or { credential = "…" }')
    how, name = next(iter(value.items()))
    if how == "env":
        if name not in os.environ:
            raise ValueError(f"environment variable {name} is not set")
        return os.environ[name]
    if how == "credential":
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        if not folder:
            raise ValueError(f'credential "{name}" is not there: $CREDENTIALS_DIRECTORY is not set (systemd sets it)')
        path = Path(folder) / Path(name).name
    else:
        path = located(name) / Path(name).expanduser()
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise ValueError(f"cannot read secret from {path}: {error.strerror}") from None


Duration = Annotated[
    timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration, return_type=str, when_used="json")
]
Priority = Annotated[int, BeforeValidator(parse_priority)]
Name = Annotated[str, AfterValidator(parse_name)]
StrList = Annotated[list[str], BeforeValidator(split_list)]
ConfigPath = Annotated[Path, BeforeValidator(_resolve_path)]
Secret = Annotated[SecretStr, BeforeValidator(_read_secret)]


class Section(BaseModel):
    """Base of every part of the configuration: frozen, and a key nobody knows is a problem."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `, did you mean "x"?` for the nearest known word, else an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f', did you mean "{near[0]}"?' if near else ""


@dataclass
class Layers:
    """The merged configuration and where each key came from.

    Args:
        data: nested mappings, later layers over earlier ones.
        origin: key path -> file name or environment variable that set it last.
        problems: what could not even be read.
    """

    data: dict[str, Any] = field(default_factory=dict)
    origin: dict[tuple[str, ...], str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def merge(self, layer: Mapping[str, Any], origin: str) -> None:
        """Lay `layer` over what is there: mappings merge, everything else replaces."""
        _merge(self.data, layer, (), origin, self.origin)

    def place(self, path: Sequence[str | int]) -> str:
        """Name the place of a key as its author wrote it."""
        keys = tuple(str(part) for part in path)
        for length in range(len(keys), 0, -1):
            if keys[:length] in self.origin:
                return self.origin[keys[:length]]
        return "configuration"


def _merge(
    into: dict[str, Any],
    layer: Mapping[str, Any],
    at: tuple[str, ...],
    origin: str,
    origins: dict[tuple[str, ...], str],
) -> None:
    for key, value in layer.items():
        path = (*at, key)
        origins[path] = origin
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value, path, origin, origins)
        elif isinstance(value, Mapping):
            into[key] = {}
            _merge(into[key], value, path, origin, origins)
        else:
            into[key] = value


def _place_strings(value: Any, base: Path) -> Any:
    if isinstance(value, str):
        return Placed(value, base)
    if isinstance(value, list):
        return [_place_strings(item, base) for item in value]
    if isinstance(value, dict):
        return {key: _place_strings(item, base) for key, item in value.items()}
    return value


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
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise FileMissing(f"no configuration file {file}") from None
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise Refused(f"cannot read {file}: {reason}") from None
        try:
            layers.merge(_place_strings(tomllib.loads(text), file.resolve().parent), str(file))
        except tomllib.TOMLDecodeError as error:
            layers.problems.append(f"{file}: not valid TOML: {error}")
    for name, value in sorted(environ.items()):
        if name.startswith(ENV_PREFIX) and "__" in name:
            layers.merge(_from_environment(name, value), name)
    return layers


def _from_environment(name: str, value: str) -> dict[str, Any]:
    item: Any = value
    if value[:1] in "[{" and value:
        try:
            item = json.loads(value)
        except ValueError:
            item = value
    for part in reversed(name.removeprefix(ENV_PREFIX).lower().split("__")):
        item = {part: item}
    result: dict[str, Any] = item
    return result


def validate(model: type[M], layers: Layers) -> M:
    """Build `model` from the layers, or say everything that is wrong with them.

    Raises:
        ConfigurationError: with one line for each problem.
    """
    problems = list(layers.problems)
    try:
        settings = model.model_validate(layers.data)
    except ValidationError as error:
        problems += _lines(error, model, layers)
    if problems:
        raise ConfigurationError(problems)
    return settings


def _lines(error: ValidationError, model: type[BaseModel], layers: Layers) -> Iterator[str]:
    for item in error.errors(include_url=False):
        path = [part for part in item["loc"] if part != "[key]"]
        where, key = path[:-1], str(path[-1]) if path else ""
        place = layers.place(path)
        section = f" in [{'.'.join(map(str, where))}]" if where else ""
        kind = item["type"]
        if kind == "extra_forbidden":
            known = known_keys(model, where)
            suggestion = did_you_mean(key, known) or (f", known keys: {', '.join(sorted(known))}" if known else "")
            noun = "key" if where else "section"
            yield f'{place}: unknown {noun} "{key}"{section}{suggestion}'
        elif kind == "missing":
            yield f'{place}: missing key "{key}"{section}'
        elif kind == "value_error" and not path:
            yield f"{place}: {item['ctx']['error']}"
        else:
            message = str(item["ctx"]["error"]) if kind == "value_error" else _plain(item["msg"])
            # an error about a whole section, not about one of its keys
            whole = isinstance(item["input"], Mapping) or not where
            subject = f"[{'.'.join(map(str, path))}]: " if whole else f'"{key}"{section}: '
            yield f"{place}: {subject}{message}"


def _plain(message: str) -> str:
    return message.replace("Input should be", "must be").replace("Input must be", "must be")


def known_keys(model: type[BaseModel], path: Sequence[str | int]) -> set[str]:
    """The keys that `model` knows at `path`, walking through sections, mappings and lists."""
    current: Any = model
    for part in path:
        current = _inner(current, str(part))
        if current is None:
            return set()
    found: set[str] = set()
    for candidate in _models(current):
        found |= {info.alias or name for name, info in candidate.model_fields.items()}
    return found


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in getattr(annotation, "__args__", ()) for found in _models(argument)]


def _inner(annotation: Any, part: str) -> Any:
    for candidate in _models(annotation) if isinstance(annotation, type) else []:
        for name, info in candidate.model_fields.items():
            if part in (name, info.alias):
                return info.annotation
    arguments = getattr(annotation, "__args__", ())
    if arguments:  # a mapping of names, a list, or a union: the value type holds the keys
        return (
            arguments[-1]
            if getattr(annotation, "__origin__", None) in (dict, list)
            else next((found for argument in arguments if (found := _inner(argument, part)) is not None), None)
        )
    return None
