"""The first record of a file: which delimiter, which labels, and which column each of them means."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ingestd.imports.request import FileProblem
from ingestd.settings import did_you_mean

DELIMITERS = (",", ";", "\t", "|")
RESERVED = "_ingestd_"
LONGEST_NAME = 63
_BOM = b"\xef\xbb\xbf"
_NOT_TEXT = {
    b"\x1f\x8b": "gzip data: unpack it first",
    b"PK\x03\x04": "a zip archive or an Excel workbook, not CSV",
    b"\xff\xfe": "UTF-16: save it as UTF-8",
    b"\xfe\xff": "UTF-16: save it as UTF-8",
    b"PAR1": "Parquet, not CSV",
}
_RECORD = re.compile(rb'(?>(?:[^"\r\n]++|(?<![^,;\t|\r\n])"[^"]*+(?>(?:""[^"]*+)*)"|(?<=[^,;\t|\r\n])")*)(\r\n|\n|\r|\Z)')


@dataclass(frozen=True)
class Header:
    """What the first record says.

    Args:
        labels: its cells, as written.
        delimiter: what stands between cells.
        body: offset in bytes of the first record after it.
    """

    labels: tuple[str, ...]
    delimiter: str
    body: int

    @property
    def shown(self) -> str:
        """The labels for people."""
        return listed(self.labels)


def read_header(head: bytes, *, delimiter: str | None) -> Header:
    """Read the header from the first bytes of a file.

    Args:
        head: the file's beginning; the whole file if it is shorter than the longest record allowed.
        delimiter: None: the candidate that the header uses most outside quotes.

    Raises:
        FileProblem: there is no usable header.
    """
    if not head:
        raise FileProblem("empty file: not even a header")
    for magic, meaning in _NOT_TEXT.items():
        if head.startswith(magic):
            raise FileProblem(f"the file is {meaning}")
    start = len(_BOM) if head.startswith(_BOM) else 0
    match = _RECORD.match(head, start)
    if match is None:
        raise FileProblem("record 0 (line 1): a quote in the header is never closed")
    raw = head[start : match.start(1)]
    if not match[1] and match.end() == len(head) > (1 << 20):
        raise FileProblem(f"the header is longer than {len(raw):,} bytes: is this a CSV file?")
    if b"\0" in raw:
        raise FileProblem("the header holds a NUL byte: this is not a text file")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileProblem(f"the header is not UTF-8 (byte {error.start + start}): save the file as UTF-8") from None
    if not text.strip():
        raise FileProblem("the first line is blank where the header should be")
    chosen = delimiter or _most_used(text)
    return Header(tuple(_cells(text, chosen)), chosen, match.end())


def _most_used(text: str) -> str:
    bare = re.sub(r'"[^"]*"', "", text)
    return max(DELIMITERS, key=lambda candidate: (bare.count(candidate), -DELIMITERS.index(candidate)))


def _cells(text: str, delimiter: str) -> list[str]:
    cells, at = [], 0
    one = re.compile(rf'"((?:[^"]|"")*)"([^{re.escape(delimiter)}]*)|([^{re.escape(delimiter)}]*)')
    while True:
        match = one.match(text, at)
        assert match is not None
        cells.append(match[3] if match[1] is None else match[1].replace('""', '"') + match[2])
        at = match.end() + 1
        if at > len(text):
            return cells


def normalise(label: str) -> str:
    """Turn a label into a column name: NFKC, lower case, words joined by underscores.

    Raises:
        FileProblem: nothing is left of it, it is reserved, or it is longer than Postgres allows.
    """
    text = unicodedata.normalize("NFKC", label).strip()
    # Two small letters before a capital part words (readAt), one does not (kWh).
    text = re.sub(r"([a-z0-9]{2})([A-Z])", r"\1_\2", text).lower()
    text = re.sub(r"\W+", "_", text).strip("_") if not text.startswith(RESERVED) else text
    if not text:
        raise FileProblem(f'the header label "{label}" has no letter or digit: give it a name with rename')
    if text[0].isdigit():
        text = f"_{text}"
    return checked(text, label)


def checked(name: str, label: str) -> str:
    """The name itself, if it may be a column's.

    Raises:
        FileProblem: it is reserved, or longer than Postgres allows.
    """
    if name.startswith(RESERVED):
        raise FileProblem(f'the header label "{label}": names that begin with {RESERVED} are reserved')
    if len(name.encode()) > LONGEST_NAME:
        raise FileProblem(f'the header label "{shorten(label)}" is longer than {LONGEST_NAME} bytes: shorten it with rename')
    return name


def column_names(labels: Sequence[str], rename: Mapping[str, str], existing: Sequence[str] = ()) -> tuple[str, ...]:
    """The column each label means, in file order.

    Args:
        labels: header cells as written.
        rename: column name by label; looked up before anything else.
        existing: columns of the table, if there is one: a label that is one of them exactly means it.

    Raises:
        FileProblem: a label is blank, or two labels mean the same column.
    """
    names: list[str] = []
    for position, label in enumerate(labels, 1):
        if label in rename or label.strip() in rename:
            names.append(checked(rename.get(label) or rename[label.strip()], label))
        elif not label.strip():
            raise FileProblem(f"blank label: column {position} of {len(labels)} has no name in the header")
        else:
            names.append(_existing_name(label, existing) or normalise(label))
    for position, name in enumerate(names):
        first = names.index(name)
        if first != position:
            raise FileProblem(
                f'duplicate label: columns {first + 1} ("{shorten(labels[first])}") and {position + 1} '
                f'("{shorten(labels[position])}") of the header both mean {name}'
            )
    return tuple(names)


def _existing_name(label: str, existing: Sequence[str]) -> str | None:
    if label in existing:
        return label
    if label.strip().lower() in existing:
        return label.strip().lower()
    return None


def require_columns(names: Sequence[str], header: Header, wanted: Sequence[str], *, what: str) -> None:
    """Check that the file has certain columns.

    Args:
        names: columns that the file has.
        wanted: columns it must have.
        what: how to speak of a missing one, such as "key column".

    Raises:
        FileProblem: one is missing; names the nearest.
    """
    for column in wanted:
        if column not in names:
            raise FileProblem(f"wrong header: {what} {column} is not in the file{did_you_mean(column, names)} (found: {header.shown})")


def listed(words: Sequence[str], most: int = 12) -> str:
    """Words for people, cut after `most`."""
    shown = ", ".join(shorten(word) for word in words[:most])
    return f"{shown}, … ({len(words)} in all)" if len(words) > most else shown


def shorten(text: str, most: int = 60) -> str:
    """At most `most` characters of a text, on one line."""
    line = " ".join(text.split()) if text.strip() else text.strip()
    return line if len(line) <= most else f"{line[: most - 1]}…"
