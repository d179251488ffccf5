"""What nobody sends who means well: one list for every parameter, name, header and body there is."""

from __future__ import annotations

import json
from typing import Any

MEGABYTE = 1_000_000

# None of these is the name, tag, state or id of anything.
TEXTS: dict[str, str] = {
    "quote": "'",
    "always true": "' or '1'='1' --",
    "another statement": "x'; drop table ingestd.job; --",
    "union": "1 union select secret from ingestd.token",
    "sleep": "1; select pg_sleep(5)--",
    "dollar quote": "$$; select 1; $$",
    "parameter": "$1",
    "format": "%s%n%(x)s{0}{x.__class__}",
    "backslash": "\\'; --",
    "wildcards": "%_%",
    "traversal": "../../../../etc/passwd",
    "encoded traversal": "..%2f..%2fetc%2fpasswd",
    "windows traversal": "..\\..\\windows\\win.ini",
    "absolute": "/etc/passwd",
    "scheme": "file:///etc/passwd",
    "new lines": "x\r\nSet-Cookie: stolen=1\r\n\r\n<script>",
    "script": "<script>alert(1)</script>",
    "template": "{{7*7}}${7*7}",
    "nul": "a\0b",
    "separators": "\u2028\u202e\ufeff",
    "half a pair": "\ud800",
    "other digits": "٣",
    "big": "9" * 400,
    "negative": "-1",
    "not a number": "NaN",
    "exponent": "1e400",
    "nested quantifiers": "(a+)+$" + "a" * 2000,
    "cron bomb": "0 0 1--100000000 * *",
    "cron list": ",".join(["*/1"] * 1500) + " * * * *",
    "long": "x" * 6000,
    "empty": "",
    "blank": " \t ",
}


def bodies() -> dict[str, bytes]:
    """Whole bodies that are no object, no JSON, or too much of it."""
    return {
        "nothing of a sort": b"\xff\xfe\x00",
        "not UTF-8": b'{"kind": "\xc3\x28"}',
        "half": b'{"kind": ',
        "an array": b"[1]",
        "a number": b"1",
        "a string": b'"x"',
        "null": b"null",
        "deep arrays": b"[" * 100_000 + b"]" * 100_000,
        "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        "a huge number": b'{"kind": ' + b"9" * 100_000 + b"}",
        "infinity": b'{"kind": 1e999999}',
        "NaN": b'{"kind": NaN}',
        "a megabyte of one key": json.dumps({"x" * MEGABYTE: 1}).encode(),
        "many keys": json.dumps({f"key{number}": 1 for number in range(20_000)}).encode(),
        "half a pair": b'{"kind": "\\ud800"}',
        "three megabytes": b'{"kind": "' + b"x" * 3 * MEGABYTE + b'"}',
    }


def values() -> dict[str, Any]:
    """What a member of a body may be given instead of what it should be."""
    return TEXTS | {
        "an object": {"$ne": None},
        "an array": ["x"] * 100,
        "many": ["x"] * 50_000,
        "true": True,
        "null": None,
        "zero": 0,
        "below zero": -1,
        "more than 64 bits": 2**70,
        "a fraction": 0.5,
        "a megabyte": "x" * MEGABYTE,
        "prototype": {"__proto__": {"role": "admin"}, "constructor": {"prototype": {}}},
    }
