"""Cursors: where a page of a list ended, signed and bound to the list and its filter, so that nobody can make one up."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from ingestd.errors import UsageError

MAC_BYTES = 12
MAX_CURSOR = 600
NOT_FILTERS = ("cursor", "limit")


class Cursors:
    """Reads and writes the cursors of one list under one filter.

    Args:
        key: signs them; all nodes share it, so that the next page may come from another one.
        place: the list's path.
        query: the query, with the filter that cursors are bound to and the one that was handed back.
    """

    def __init__(self, key: bytes, place: str, query: Mapping[str, str]) -> None:
        self._key = key
        self._given = query.get("cursor")
        filters = sorted((name, value) for name, value in query.items() if name not in NOT_FILTERS)
        self._mark = hashlib.sha256(orjson.dumps([place, filters])).hexdigest()[:12]

    def read_id(self) -> int | None:
        """Where the next page begins: only ids below the returned one; None: at the first page.

        Raises:
            UsageError: the cursor is not one of ours, or of another list or filter.
        """
        last = self._read()
        if last is not None and (type(last) is not int or not 0 < last < 2**63):
            raise _no_cursor()
        return last

    def read_name(self) -> str | None:
        """Where the next page begins: only names behind the returned one; None: at the first page.

        Raises:
            UsageError: the cursor is not one of ours, or of another list or filter.
        """
        last = self._read()
        if last is not None and (type(last) is not str or "\0" in last):
            raise _no_cursor()
        return last

    def write(self, last: int | str) -> str:
        """The mark of a page that ended behind an id, or behind a name."""
        told = orjson.dumps([self._mark, last])
        return _text(self._mac(told) + told)

    def page(self, items: Sequence[Mapping[str, Any]], limit: int, shape: Callable[[Mapping[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """A page of a list that was read with one row more than shown, which tells whether there is another page.

        Args:
            items: up to `limit + 1` rows, newest first, each with its `id`.
            shape: one row as the API shows it.
        """
        shown = list(items[:limit])
        more = len(items) > limit and bool(shown)
        return {"items": [shape(item) for item in shown], "next_cursor": self.write(int(shown[-1]["id"])) if more else None}

    def _read(self) -> Any:
        if self._given is None:
            return None
        try:
            if len(self._given) > MAX_CURSOR or not self._given.isascii():
                raise ValueError(self._given)
            raw = base64.b64decode(self._given + "=" * (-len(self._given) % 4), b"-_", validate=True)
            mac, told = raw[:MAC_BYTES], raw[MAC_BYTES:]
            # The last letter has bits to spare, which would let several texts mean the same.
            if not hmac.compare_digest(mac, self._mac(told)) or _text(raw) != self._given:
                raise ValueError(self._given)
            mark, last = orjson.loads(told)
        except (ValueError, TypeError, binascii.Error):
            raise _no_cursor() from None
        if mark != self._mark:
            raise UsageError("the cursor belongs to another list or filter; start again without it")
        if last is None:
            raise _no_cursor()
        return last

    def _mac(self, told: bytes) -> bytes:
        return hmac.digest(self._key, told, "sha256")[:MAC_BYTES]


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _no_cursor() -> UsageError:
    return UsageError("the cursor is not valid; start again without it")
