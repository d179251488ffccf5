"""Which SQL types the columns of a new table get: decided by every row of the file, never by a sample.

The ladder: boolean (true/false) → bigint → numeric, or double precision → date → timestamptz (with an offset) → timestamp →
uuid → text. Numbers with leading zeros or more than 18 digits before the point are text: they are identifiers. Fractions
are `numeric`, which is exact, unless some value has an exponent or 16 and more digits and all of those come back from a
double unchanged: then they were written by a program that held doubles, and `double precision` is both exact and small.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_INT = r"^-?(0|[1-9][0-9]{0,17})$"
_NUMBER = r"^-?(0|[1-9][0-9]{0,17})(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?$"
_UUID = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
_LADDER = ("boolean", "bigint", "numeric", "date", "timestamptz", "timestamp", "uuid")
_WIDER = {"bigint": ("numeric",), "date": ("timestamp",)}
_SURELY_DOUBLE_SAFE = 15


class ColumnGuess:
    """What is known so far about one column.

    Args:
        null: texts that mean null even in quotes, unless the column turns out to be text.
    """

    def __init__(self, null: Sequence[str]) -> None:
        self._null = pa.array(list(null), pa.string())
        self._type: str | None = None
        self._exponent = False
        self._long = False
        self._exact_as_double = True

    def look(self, texts: Any) -> None:
        """Take one more slice of cells into account."""
        if self._type == "text":
            return
        texts = texts.drop_null()
        if len(texts) and not self._fits(texts):
            texts = texts.filter(pc.invert(pc.is_in(texts, value_set=self._null)))
            if len(texts) and not self._fits(texts):
                self._type = "text"

    @property
    def sql_type(self) -> str:
        """The type to create the column with."""
        if self._type == "numeric" and (self._exponent or self._long) and (self._exact_as_double or self._exponent):
            return "double precision"
        return self._type or "text"

    def _fits(self, texts: Any) -> bool:
        candidates = _LADDER if self._type is None else (self._type, *_WIDER.get(self._type, ()))
        for candidate in candidates:
            if self._is(candidate, texts):
                self._type = candidate
                return True
        return False

    def _is(self, candidate: str, texts: Any) -> bool:
        if candidate == "boolean":
            return _all(pc.is_in(pc.utf8_lower(texts), value_set=pa.array(["true", "false"])))
        if candidate == "bigint":
            if not _all(pc.match_substring_regex(texts, _INT)):
                return False
            self._note_long(texts)  # should the column turn out to be numeric later
            return True
        if candidate == "numeric":
            return self._numbers(texts)
        if candidate == "uuid":
            return _all(pc.match_substring_regex(texts, _UUID))
        wanted = {"date": pa.date32(), "timestamptz": pa.timestamp("us", tz="UTC"), "timestamp": pa.timestamp("us")}[candidate]
        return _casts(texts, wanted) and not pc.any(pc.starts_with(texts, "0000")).as_py()

    def _numbers(self, texts: Any) -> bool:
        if not _all(pc.match_substring_regex(texts, _NUMBER)):
            return False
        self._exponent = self._exponent or bool(pc.any(pc.match_substring_regex(texts, "[eE]")).as_py())
        self._note_long(texts)
        return True

    def _note_long(self, texts: Any) -> None:
        if (pc.max(pc.binary_length(texts)).as_py() or 0) <= _SURELY_DOUBLE_SAFE:
            return
        digits = pc.replace_substring_regex(texts, r"^-?0*\.?0*|\.|[eE].*$", "")
        long = texts.filter(pc.greater(pc.binary_length(digits), _SURELY_DOUBLE_SAFE))
        self._long = self._long or len(long) > 0
        back = pc.cast(pc.cast(long, pa.float64()), pa.string())
        self._exact_as_double = self._exact_as_double and _all(pc.equal(back, long))


def infer(slices: Iterable[Sequence[Any]], width: int, null: Sequence[str]) -> list[str]:
    """The SQL type of each column of a file.

    Args:
        slices: the cells, one array of texts for each column.
        width: number of columns.
        null: texts that mean null.
    """
    guesses = [ColumnGuess(null) for _ in range(width)]
    for cells in slices:
        for guess, texts in zip(guesses, cells, strict=True):
            guess.look(texts)
    return [guess.sql_type for guess in guesses]


def _all(mask: Any) -> bool:
    return pc.all(mask).as_py() is not False


def _casts(texts: Any, wanted: Any) -> bool:
    try:
        pc.cast(texts, wanted)
    except pa.ArrowInvalid:
        return False
    return True
