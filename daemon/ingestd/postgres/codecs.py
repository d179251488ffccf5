"""How values travel: JSON both ways, and text without what Postgres cannot hold."""

from __future__ import annotations

import json
import sys

import asyncpg
import orjson


def dump_json(value: object) -> str:
    """Encode for jsonb, dates and UUIDs included.

    NUL cannot be stored in jsonb, so it becomes U+FFFD; half a surrogate pair becomes a question mark. Integers beyond 64 bits
    fall back to the stdlib encoder. What no double can hold becomes null, be it infinite or only too large: jsonb would take the
    latter, and nobody could read the row again.

    Raises:
        TypeError: a key is no text, or a value has no text of its own.
        ValueError: it contains itself.
        RecursionError: it is nested too deeply.
    """
    try:
        text = orjson.dumps(value, default=_text, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_NAIVE_UTC).decode()
    except TypeError:
        given = json.dumps(value, default=_text, ensure_ascii=False)
        readable = json.loads(given, parse_int=_readable, parse_constant=lambda _: None)
        text = storable(json.dumps(readable, ensure_ascii=False))
    return text.replace("\\u0000", "\\ufffd")


def _text(value: object) -> str:
    try:
        return str(value)
    except BaseException as error:
        # Its own __str__ may do anything, sys.exit() as well, which would end the daemon.
        raise TypeError(f"the text of a {type(value).__name__} raises {type(error).__name__}") from error


def _readable(digits: str) -> int | None:
    return int(digits) if len(digits.lstrip("-")) <= sys.float_info.max_10_exp else None


def storable(text: str) -> str:
    """The text without what a Postgres text cannot hold: NUL becomes U+FFFD, half a surrogate pair a question mark."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


async def set_codecs(conn: asyncpg.Connection) -> None:
    """Let json and jsonb travel as Python values."""
    for name in ("json", "jsonb"):
        await conn.set_type_codec(name, schema="pg_catalog", encoder=dump_json, decoder=orjson.loads)
