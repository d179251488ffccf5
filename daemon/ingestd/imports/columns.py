"""SQL types and Arrow types, and the strict conversion of cell texts from one to the other.

Arrow's casts refuse what Postgres would guess at (now, infinity, 1_000, leading spaces, rounding). The holes they leave are
closed here: 0x1F as a whole number, 1e3 as a decimal, 1 as true, 1e999 as infinity, the year 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ingestd.imports.shape import Column

_DECIMAL_DIGITS = 38
_SIMPLE: dict[str, Any] = {
    "bool": pa.bool_(),
    "int2": pa.int16(),
    "int4": pa.int32(),
    "int8": pa.int64(),
    "float4": pa.float32(),
    "float8": pa.float64(),
    "date": pa.date32(),
    "text": pa.string(),
    "varchar": pa.string(),
    "bpchar": pa.string(),
}
# Not finite, but written exactly as Postgres writes it.
_INFINITE = (["NaN"], ["Infinity"], ["-Infinity"])
_TRUE, _FALSE = pa.array(["true", "t"]), pa.array(["false", "f"])
_UNITS = {0: "s", 3: "ms", -1: "us", 6: "us"}
_NOUNS = {
    "bool": "true or false",
    "int2": "a whole number (smallint)",
    "int4": "a whole number (integer)",
    "int8": "a whole number (bigint)",
    "float4": "a number (real)",
    "float8": "a number (double precision)",
    "date": "a date (YYYY-MM-DD)",
    "timestamp": "a timestamp without zone (YYYY-MM-DD HH:MM:SS)",
    "timestamptz": "a timestamp with zone (YYYY-MM-DDTHH:MM:SSZ)",
}
# What a text must look like to be offered to Postgres for a type that Arrow cannot make; Postgres itself decides afterwards.
_TEXT_GUARDS = {
    "numeric": r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)$",
    "time": r"^[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?$",
    "timetz": r"^[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9:]+)$",
    "timestamp": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?)?$",
    "timestamptz": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9:]+)$",
}
# What nearly every good text looks like: when a whole slice does not cast, this finds most of the guilty ones at once.
_SHAPES = {
    "int2": r"^-?[0-9]+$",
    "int4": r"^-?[0-9]+$",
    "int8": r"^-?[0-9]+$",
    "float4": r"^([+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|NaN|-?Infinity)$",
    "date": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$",
    "numeric": _TEXT_GUARDS["numeric"],
    "timestamp": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9:.]+)?$",
    "timestamptz": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9:.]+(Z|[+-][0-9:]+)$",
}
_SHAPES["float8"] = _SHAPES["float4"]
_GUESSED_WORDS = re.compile(r"\b(now|today|tomorrow|yesterday|allballs|epoch)\b", re.IGNORECASE)
_ZONELESS = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d(:\d\d(:\d\d(\.\d+)?)?)?)?")


class NeedsText(Exception):
    """Values of a column do not fit what Arrow can hold, though Postgres could: the load must stage it as text.

    Args:
        name: the column.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def arrow_type(column: Column) -> Any:
    """The Arrow type that carries a column in binary; None: it travels as text and Postgres casts it."""
    if column.base in ("timestamp", "timestamptz"):
        unit = _UNITS.get(column.modifier)
        return unit and pa.timestamp(unit, tz="UTC" if column.base == "timestamptz" else None)
    if column.base == "numeric":
        if column.modifier < 0:
            return pa.decimal128(_DECIMAL_DIGITS, 0)
        precision, scale = column.numeric_bounds or (0, 0)
        return pa.decimal128(precision, scale) if 0 <= scale <= precision <= _DECIMAL_DIGITS else None
    return _SIMPLE.get(column.base)


class Converter:
    """Turns the cell texts of one column into its type; remembers what it learned from slice to slice.

    Args:
        column: where the values go.
        null: texts that mean null. Unquoted ones are null already; a quoted one is null unless the column holds text.
        as_text: carry it as text and let Postgres cast.
    """

    def __init__(self, column: Column, null: Sequence[str], *, as_text: bool = False) -> None:
        self.column = column
        self.type: Any = None if as_text else arrow_type(column)
        self.as_text = self.type is None
        self._null = pa.array(list(null), pa.string())
        self._open_scale = column.base == "numeric" and column.modifier < 0 and not as_text

    @property
    def wire_type(self) -> Any:
        """The Arrow type of what `convert` returns now; the scale of an unbounded numeric may grow."""
        return self.type if self.type is not None else pa.string()

    def convert(self, texts: Any) -> tuple[Any, list[int]]:
        """Convert one slice.

        Returns:
            The values, null where a text did not fit, and the positions of those.

        Raises:
            NeedsText: Postgres could hold a value that Arrow cannot.
        """
        if self.wire_type == pa.string():
            return self._as_texts(texts)
        values, bad = self._cast(texts)
        if bad:  # perhaps only because null texts stood in quotes
            cleaned = pc.if_else(pc.is_in(texts, value_set=self._null), pa.scalar(None, pa.string()), texts)
            if cleaned.null_count != texts.null_count:
                values, bad = self._cast(cleaned)
        return values, bad

    def explain(self, text: str) -> str:
        """Why a text does not fit the column."""
        shown = f'"{text[:200]}"'
        length = self.column.max_length
        if length is not None:
            return f"{len(text):,} characters, more than {self.column.sql_type} holds: {shown}"
        if self.column.base == "timestamptz" and _ZONELESS.fullmatch(text):
            return f"{shown} has no time zone: write it like {_with_zone(text)}"
        noun = _NOUNS.get(self.column.base) or f"a valid {self.column.sql_type}"
        return f"{shown} is not {noun}"

    def _as_texts(self, texts: Any) -> tuple[Any, list[int]]:
        if not self.as_text:
            length = self.column.max_length
            if length is None:
                return texts, []
            return _without(texts, pc.greater(pc.utf8_length(texts), length))
        texts = pc.if_else(pc.is_in(texts, value_set=self._null), pa.scalar(None, pa.string()), texts)
        guard = _numeric_guard(self.column) or _TEXT_GUARDS.get(self.column.base)
        if guard is not None:
            return _without(texts, pc.invert(pc.match_substring_regex(texts, guard)))
        if any(word in self.column.sql_type for word in ("time", "date", "range")):
            return _without(texts, pc.match_substring_regex(texts, _GUESSED_WORDS.pattern, ignore_case=True))
        return texts, []

    def _cast(self, texts: Any) -> tuple[Any, list[int]]:
        if self.column.base == "bool":
            return _booleans(texts)
        suspicious = self._suspicious(texts)
        if suspicious is None:
            values = self._try_cast(texts)
            if values is not None and self._sound(values):
                return values, []
            suspicious = pc.fill_null(pc.invert(pc.match_substring_regex(texts, _SHAPES[self.column.base])), False)
        return self._bisect(texts, suspicious)

    def _suspicious(self, texts: Any) -> Any:
        """A mask of texts that Arrow would take and must not, or None if there are none."""
        base = self.column.base
        if base in ("int2", "int4", "int8"):
            pattern = "[xX]"
        elif base == "numeric":
            pattern = "[eE]"
        elif base in ("date", "timestamp", "timestamptz"):
            pattern = "^0000"
        else:
            return None
        mask = pc.fill_null(pc.match_substring_regex(texts, pattern), False)
        return mask if pc.any(mask).as_py() else None

    def _sound(self, values: Any) -> bool:
        if self.column.base not in ("float4", "float8"):
            return True
        return pc.all(pc.is_finite(values)).as_py() is not False

    def _try_cast(self, texts: Any) -> Any:
        while True:
            try:
                return pc.cast(texts, self.type)
            except pa.ArrowInvalid:
                if not self._open_scale or not self._grow_scale(texts):
                    return None

    def _grow_scale(self, texts: Any) -> bool:
        """Widen the scale of an unbounded numeric to what these texts need; False if that is not what is wrong."""
        plain = pc.if_else(pc.match_substring_regex(texts, _TEXT_GUARDS["numeric"]), texts, pa.scalar(None, pa.string()))
        point = pc.find_substring(plain, ".")
        digits = pc.if_else(pc.less(point, 0), 0, pc.subtract(pc.subtract(pc.binary_length(plain), point), 1))
        scale = max(pc.max(digits).as_py() or 0, self.type.scale)
        longest = pc.max(pc.if_else(pc.less(point, 0), pc.binary_length(plain), point)).as_py() or 0
        if longest + scale > _DECIMAL_DIGITS:
            raise NeedsText(self.column.name)
        if scale == self.type.scale:
            return False
        self.type = pa.decimal128(_DECIMAL_DIGITS, scale)
        return True

    def _bisect(self, texts: Any, suspicious: Any) -> tuple[Any, list[int]]:
        """Cast what can be cast; the positions of the rest."""
        bad = _positions(suspicious)
        pieces: list[Any] = []
        self._halve(_nulled(texts, suspicious) if bad else texts, 0, pieces, bad)
        return pa.concat_arrays(piece.cast(self.type) for piece in pieces), sorted(bad)

    def _halve(self, texts: Any, start: int, pieces: list[Any], bad: list[int]) -> None:
        values = self._try_cast(texts)
        if values is not None and (self._sound(values) or texts.to_pylist() in _INFINITE):
            pieces.append(values)
        elif len(texts) <= 1:
            bad.extend(range(start, start + len(texts)))
            pieces.append(pa.nulls(len(texts), self.type))
        else:
            half = len(texts) // 2
            self._halve(texts.slice(0, half), start, pieces, bad)
            self._halve(texts.slice(half), start + half, pieces, bad)


def _numeric_guard(column: Column) -> str | None:
    """Refuses what Postgres would round to the column's scale."""
    bounds = column.numeric_bounds
    if bounds is None or bounds[1] < 0:
        return None
    whole, scale = max(bounds[0] - bounds[1], 0), bounds[1]
    return rf"^[+-]?0*[0-9]{{0,{whole}}}(\.[0-9]{{0,{scale}}}0*)?$" if whole <= 1000 and scale <= 1000 else None


def _booleans(texts: Any) -> tuple[Any, list[int]]:
    lower = pc.utf8_lower(texts)
    true = pc.is_in(lower, value_set=_TRUE)
    known = pc.or_(true, pc.is_in(lower, value_set=_FALSE))
    values = pc.if_else(known, true, pa.scalar(None, pa.bool_()))
    return values, _positions(pc.and_(pc.is_valid(texts), pc.invert(known)))


def _without(texts: Any, mask: Any) -> tuple[Any, list[int]]:
    mask = pc.fill_null(mask, False)
    bad = _positions(mask)
    return (_nulled(texts, mask) if bad else texts), bad


def _positions(mask: Any) -> list[int]:
    found: list[int] = pc.indices_nonzero(mask).to_pylist()
    return found


def _nulled(texts: Any, mask: Any) -> Any:
    return pc.if_else(mask, pa.scalar(None, pa.string()), texts)


def _with_zone(text: str) -> str:
    date, _, time = text.replace("T", " ").partition(" ")
    return f"{date}T{time or '00:00:00'}Z"
