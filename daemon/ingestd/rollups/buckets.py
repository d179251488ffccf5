"""The width of a bucket, as a user writes it and as Postgres reads it. Boundaries are computed by Postgres alone."""

from __future__ import annotations

import re
from datetime import timedelta

DAY = timedelta(days=1)
_FORM = re.compile(r"(\d{1,5})?\s*(s|sec|seconds?|m|min|minutes?|h|hours?|d|days?)", re.IGNORECASE)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_bucket(value: object) -> timedelta:
    """Read the width of a bucket: `1 day`, or a part of a day such as `15 minutes` or `1 hour`.

    Raises:
        ValueError: it is anything else, or does not divide a day evenly.
    """
    if isinstance(value, timedelta):
        width = value
    else:
        match = _FORM.fullmatch(str(value).strip())
        if not match:
            raise ValueError(f'"{value}" is not a bucket: use "1 day", or a part of a day such as "15 minutes" or "1 hour"')
        width = timedelta(seconds=int(match[1] or 1) * _SECONDS[match[2][0].lower()])
    if width > DAY:
        raise ValueError(f'a bucket of "{value}" is longer than a day: the longest is "1 day"')
    if not width or DAY % width:
        raise ValueError(f'a bucket of "{value}" does not divide a day evenly: use for example "15 minutes", "1 hour" or "6 hours"')
    return width


def format_bucket(width: timedelta) -> str:
    """Write a width as Postgres and people read it."""
    seconds = int(width.total_seconds())
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds % size == 0:
            count = seconds // size
            return f"{count} {unit}" if count == 1 else f"{count} {unit}s"
    return f"{seconds} second" if seconds == 1 else f"{seconds} seconds"
