"""A declaration as one would write it into the configuration. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def section(title: str, keys: Mapping[str, Any]) -> str:
    """A table with its keys; what is nothing is left out."""
    lines = [f"[{title}]", *(f"{_key(name)} = {_value(value)}" for name, value in keys.items() if value is not None)]
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(str(name))} = {_value(item)}" for name, item in value.items() if item is not None)
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(item) for item in value if item is not None)}]"
    # A string of JSON is one of TOML but for DEL, which TOML wants escaped as well.
    return json.dumps(value, ensure_ascii=False, default=str).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _value(name)
