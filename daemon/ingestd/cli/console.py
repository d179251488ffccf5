"""How values look on a terminal: tables, states in their colour, and nothing that data could do to the screen."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from ingestd.cli.shell import printable
from ingestd.settings import format_duration

_IDS = frozenset({"id", "job_id", "parent_id", "workflow_run", "run", "load_id", "duplicate_of", "blocked_by", "job_parent", "last_load"})
_ROWS = frozenset({"sample", "items", "children", "steps", "last_run", "last_slot"})
# Rows that rich lays out without being waited for: it needs the better part of a second for a thousand.
MOST_STYLED = 500
_STYLES = {
    "succeeded": "green",
    "healthy": "green",
    "current": "green",
    "fired": "green",
    "partial": "yellow",
    "degraded": "yellow",
    "retrying": "yellow",
    "late": "yellow",
    "skipped": "dim",
    "cancelled": "dim",
    "failed": "red",
    "critical": "red",
    "missed": "red",
    "running": "cyan",
}


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "") -> Table | str:
    """A table of plain values; numbers to the right, states in their colour. A long one is plain text, which takes no seconds."""
    materialised = [list(row) for row in rows]
    numeric = [bool(materialised) and all(isinstance(row[n], int | float | None) for row in materialised) for n in range(len(columns))]
    if len(materialised) > MOST_STYLED:
        return _plain(columns, materialised, numeric, title)
    made = Table(title=printable(title) or None, title_justify="left", box=None, pad_edge=False, header_style="bold", show_edge=False)
    for name, number in zip(columns, numeric, strict=True):
        made.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in materialised:
        made.add_row(*[cell(value) for value in row])
    return made


def _plain(columns: Sequence[str], rows: Sequence[Sequence[Any]], numeric: Sequence[bool], title: str) -> str:
    texts = [list(columns), *([cell(value).plain for value in row] for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*texts, strict=True)]
    lines = [printable(title)] if title else []
    for row in texts:
        padded = [
            " " * (width - cell_len(text)) + text if number else text + " " * (width - cell_len(text))
            for text, width, number in zip(row, widths, numeric, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def details(document: Mapping[str, Any]) -> Table:
    """Everything known about one thing, a line a fact; what is empty is left out."""
    made = Table(box=None, pad_edge=False, show_edge=False, show_header=False)
    made.add_column(style="bold")
    made.add_column(overflow="fold")
    for name, value in document.items():
        if value is not None and value != "" and value != [] and value != {} and value != ():
            made.add_row(Text(name), cell(value if isinstance(value, bool) or not isinstance(value, int) else str(value)))
    return made


def cell(value: Any) -> Text:
    """One value, as text that no data can style."""
    if value is None or value == "":
        return Text("-", style="dim")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, int):
        return Text(f"{value:,}")
    if isinstance(value, float):
        return Text(f"{value:,.1f}")
    if isinstance(value, datetime):
        return Text(value.astimezone().strftime("%Y-%m-%d %H:%M:%S"))
    if isinstance(value, timedelta):
        return Text(format_duration(value))
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return Text(printable(", ".join(value)))
    if isinstance(value, dict | list | tuple):
        return Text(printable(json.dumps(value, default=str, ensure_ascii=False)))
    text = printable(str(value))
    return Text(text, style=_STYLES.get(text, ""))


def error_line(error: Mapping[str, Any] | None) -> str | None:
    """Class and message of an attempt's error on one line."""
    return f"{error.get('class')}: {error.get('message')}" if error else None


def traceback_lines(error: Mapping[str, Any] | None) -> str | None:
    """An attempt's traceback line by line, an empty line before it; None: it has none."""
    text = (error or {}).get("traceback")
    return "\n" + "\n".join(printable(line) for line in str(text).splitlines()) if text else None


def milliseconds(value: int | None) -> str | None:
    """A duration in milliseconds, for people."""
    if value is None:
        return None
    if value < 1000:
        return f"{value} ms"
    return f"{value / 1000:.1f} s" if value < 120_000 else f"{value // 60_000} min {value // 1000 % 60} s"


def strings_for_ids(document: Any) -> Any:
    """The same rows as the HTTP API has them: 64-bit ids as strings, durations as people write them; what is users' stays as it is."""
    if isinstance(document, list):
        return [strings_for_ids(item) for item in document]
    if isinstance(document, timedelta):
        return format_duration(document)
    if not isinstance(document, Mapping):
        return document
    return {key: _as_in_api(key, value) for key, value in document.items()}


def _as_in_api(key: str, value: Any) -> Any:
    if key in _IDS and isinstance(value, int):
        return str(value)
    return strings_for_ids(value) if key in _ROWS or isinstance(value, timedelta) else value
