"""Items that a handler could not take, kept short."""

from __future__ import annotations

from typing import Any

from ingestd.postgres.codecs import dump_json, storable

KEPT = 1000
ITEM_BYTES = 1500
REASON_BYTES = 400


class Rejects:
    """The first thousand rejected items and the number of all.

    Args:
        kept: `[{"item", "reason"}]`.
        total: how many there were.
    """

    def __init__(self, kept: list[dict[str, Any]] | None = None, total: int = 0) -> None:
        self.kept = kept or []
        self.total = total

    def add(self, item: Any, reason: str) -> None:
        """Keep one more, if there is room."""
        self.total += 1
        if len(self.kept) < KEPT:
            self.kept.append({"item": _short(item), "reason": _cut(str(reason), REASON_BYTES)})


def _short(item: Any) -> Any:
    """The item itself where it is small; else the beginning of its JSON text."""
    try:
        text = dump_json(item)
    except (TypeError, ValueError, RecursionError):
        return _cut(str(item), ITEM_BYTES)
    if len(text.encode()) <= ITEM_BYTES:
        return item
    return _cut(item if isinstance(item, str) else text, ITEM_BYTES)


def _cut(text: str, most: int) -> str:
    data = storable(text).encode()
    return text if len(data) <= most else f"{data[:most].decode(errors='ignore')}…"
