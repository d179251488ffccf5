"""The values that keys may have: durations, priorities, names, paths, secrets, lists."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, PlainSerializer, SecretStr, WithJsonSchema

NAME_PATTERN = re.compile(r"[a-z][a-z0-9_]{0,62}")
PRIORITIES = {"low": -10, "normal": 0, "high": 10}
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)", re.ASCII)
# Looking for numbers with units takes time by the square of the length.
_LONGEST_DURATION = 60
# Python also reads digits of other scripts, underscores between them, and a plus, as nothing else that is asked for a priority does.
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,3}")
_FORMS = 'a secret is a string, { file = "…" }, { env = "…" } or { credential = "…" }'


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
    if len(text) > _LONGEST_DURATION:
        raise ValueError(f'"{text[:_LONGEST_DURATION]}…" is too long for a duration: write a number and a unit, such as "90s" or "1h30m"')
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
    if isinstance(value, int) and not isinstance(value, bool) and -100 <= value <= 100:
        return int(value)
    if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value) and -100 <= int(value) <= 100:
        return int(value)
    raise ValueError(f'"{value}" is not a priority: low, normal, high, or a number from -100 to 100')


def priority_name(value: int) -> str | int:
    """Name a priority as users write it: a word where there is one."""
    return next((word for word, number in PRIORITIES.items() if number == value), value)


def parse_name(value: str) -> str:
    """Check the name of an object: names become environment keys, SQL names and URLs."""
    if not NAME_PATTERN.fullmatch(value) or "__" in value:
        raise ValueError(f'"{value}" is not a name: lower-case letters, digits and single underscores, a letter first')
    return value


def split_list(value: object) -> object:
    """Read `a,b` or a JSON list as a list, which is how the environment writes one; anything else stays."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError as error:
            raise ValueError(f"not a JSON list ({error}); words with commas between them will do") from None
    return [part.strip() for part in value.split(",") if part.strip()]


def _resolve_path(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not value.strip() or "\0" in value:
        raise ValueError("a path must not be empty" if not value.strip() else "a path cannot hold a zero byte")
    return located(value) / _expanded(value)


def _expanded(value: str) -> Path:
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError(f'"{value}": there is no home folder to put in place of "~"') from None


def located(value: str) -> Path:
    """The folder that a relative path in `value` is relative to: its file's, else the working directory."""
    return value.base if isinstance(value, Placed) else Path.cwd()


def _read_secret(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    how, name = next(iter(value.items()), ("", ""))
    if len(value) != 1 or how not in ("file", "env", "credential") or not isinstance(name, str) or not name:
        raise ValueError(_FORMS)
    secret, origin = _secret_from_environment(name) if how == "env" else _secret_from_file(how, name)
    if not secret:
        # Taken for "none", a lost password file would start another database than the one that was meant.
        raise ValueError(f"{origin} is empty")
    return secret


def _secret_from_environment(name: str) -> tuple[str, str]:
    if name not in os.environ:
        raise ValueError(f"environment variable {name} is not set")
    return os.environ[name], f"environment variable {name}"


def _secret_from_file(how: str, name: str) -> tuple[str, str]:
    if how == "credential":
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        if not folder:
            raise ValueError(f'credential "{name}" is not there: $CREDENTIALS_DIRECTORY is not set (systemd sets it)')
        path = Path(folder) / Path(name).name
    else:
        path = located(name) / _expanded(name)
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n"), str(path)
    except OSError as error:
        raise ValueError(f"cannot read the secret from {path}: {error.strerror}") from None
    except ValueError:
        raise ValueError(f"cannot read the secret from {path}: it is not UTF-8 text") from None


DURATION_SCHEMA = {
    "type": "string",
    "pattern": r"^(([0-9]+([.][0-9]+)?(ms|s|m|h|d|w))+|0)$",
    "maxLength": _LONGEST_DURATION,
    "examples": ["90s", "1h30m"],
}
PRIORITY_SCHEMA = {"anyOf": [{"type": "integer", "minimum": -100, "maximum": 100}, {"type": "string", "enum": [*PRIORITIES]}]}
NAME_SCHEMA = {"type": "string", "pattern": "^[a-z](_?[a-z0-9])*_?$", "maxLength": 63}
Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
    WithJsonSchema(DURATION_SCHEMA),
]
Priority = Annotated[int, BeforeValidator(parse_priority), WithJsonSchema(PRIORITY_SCHEMA)]
Name = Annotated[str, AfterValidator(parse_name), WithJsonSchema(NAME_SCHEMA)]
StrList = Annotated[list[str], BeforeValidator(split_list)]
ConfigPath = Annotated[Path, BeforeValidator(_resolve_path)]
Secret = Annotated[SecretStr, BeforeValidator(_read_secret)]


class Section(BaseModel):
    """Base of every part of the configuration: frozen, and a key nobody knows is a problem."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
