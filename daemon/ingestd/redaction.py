"""Secrets taken out of what is written or shown: by the name of their field, by their form, and by their value.

Whatever looks like one goes where people and programs look: pages, API answers, log lines. Values are known only to a process that
has read the configuration; they are taken out of its log and out of the errors that it keeps.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, unquote, urlsplit

from pydantic import BaseModel, SecretStr

MASK = "••••••"
CUT = "…"
MAX_DEPTH = 64
# A shorter one is an ordinary word, which would blot out harmless lines; it is still taken out of fields and URLs.
SHORTEST_KNOWN = 6
MOST_KNOWN = 1000
_SECRET_NAME = re.compile(
    r"(?i)(?:^|[_\-. ])(?:pass(?:word|wd|phrase)?|secret|token|api[_-]?key|private[_-]?key|authorization|credentials?|cookie)s?$"
    r"|^[a-z]+(?:Password|Secret|Token|ApiKey)$"
)
_URL_PASSWORD = re.compile(r"(?i)\b([a-z][a-z0-9+.-]{0,30}://[^/\s:@]*):[^/\s@]+@")
_WORDS = r"(?:pass(?:word|wd|phrase)?|pwd|secret|token|(?:api|private|access)[_-]?key|authorization|credentials?|cookie)s?"
# By a sign that is quickly looked for: what to look for then, and what stands there afterwards.
_FORMS: tuple[tuple[tuple[str, ...], re.Pattern[str], str], ...] = (
    (("://",), _URL_PASSWORD, rf"\1:{MASK}@"),
    # Tokens of ours, and those of others where they are sent.
    (("igd_",), re.compile(r"\bigd_[a-z]+_\w+"), MASK),
    (("earer ", "EARER "), re.compile(r"(?i)\b(bearer) [\w.~+/=-]+"), rf"\1 {MASK}"),
    (
        ("=",),
        re.compile(
            r"(?i)\b((?:[a-z_]*(?:password|passwd|passphrase|pwd|secret|token|signature)|sig|(?:api|access)_?key)=)"
            r"(?:'[^']*'|\"[^\"]*\"|[^\s&,;)\]}'\"]+)"
        ),
        rf"\1{MASK}",
    ),
    # Headers, one a line or in a sentence.
    (
        ("uthorization", "UTHORIZATION", "-"),
        re.compile(
            r"(?i)(?<![\w-])((?:proxy-)?authorization|x-[a-z]{1,20}(?:-[a-z]{1,20}){0,3}(?:-key|-token|-secret)|x-token)(: ?)"
            r"((?:basic|bearer|digest|token|negotiate) +)?[^\s,;'\"]+"
        ),
        rf"\1\2\3{MASK}",
    ),
    (("ookie: ", "OOKIE: "), re.compile(r"(?i)(?<![\w-])((?:set-)?cookie: )[^\r\n'\"]+"), rf"\1{MASK}"),
    # JSON, and how Python shows a dict; once more inside of a text that is quoted itself.
    (
        ('": ', '":', "': "),
        re.compile(
            rf"""(?is)((["'])[\w.-]{{0,40}}{_WORDS}\2\s{{0,4}}:\s{{0,4}}b?)(?:(")(?:[^"\\]|\\.)*+(?:"|$)|(')(?:[^'\\]|\\.)*+(?:'|$))"""
        ),
        rf"\1\3\4{MASK}\3\4",
    ),
    (
        ('\\":', "\\':"),
        re.compile(rf"""(?i)(\\{{1,3}}["'][\w.-]{{0,40}}{_WORDS}\\{{1,3}}["']\s{{0,4}}:\s{{0,4}}\\{{1,3}}["'])[^"'\\]+"""),
        rf"\1{MASK}",
    ),
)


def masked(value: Any, depth: int = 0) -> Any:
    """The value with everything that looks like a secret replaced: by the name of its key, or as a password in a URL.

    What is nested deeper than anybody reads is cut off: rows come from callers in any language.
    """
    if depth > MAX_DEPTH and isinstance(value, Mapping | list | tuple):
        return CUT
    if isinstance(value, Mapping):
        return {key: MASK if item and is_secret_name(str(key)) else masked(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked(item, depth + 1) for item in value]
    if isinstance(value, str) and "://" in value:
        return _URL_PASSWORD.sub(rf"\1:{MASK}@", value)
    return value


def is_secret_name(name: str) -> bool:
    """Whether a field of this name holds a secret."""
    return _SECRET_NAME.search(name) is not None


class Redactor:
    """Takes secrets out of text; knows those of the configuration by their value."""

    def __init__(self) -> None:
        self._known: dict[str, None] = {}
        self._pattern: re.Pattern[str] | None = None

    def know(self, secrets: Iterable[str]) -> None:
        """Add secrets; earlier ones stay, for what was said with them may still be on its way."""
        self._known |= dict.fromkeys(form for secret in secrets for form in _forms(secret) if len(form) >= SHORTEST_KNOWN)
        while len(self._known) > MOST_KNOWN:
            del self._known[next(iter(self._known))]
        # The longest first: a secret may be part of another one.
        words = sorted(self._known, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, words))) if words else None

    def text(self, text: str) -> str:
        """The text without secrets."""
        if self._pattern is not None:
            text = self._pattern.sub(MASK, text)
        for signs, pattern, instead in _FORMS:
            if any(sign in text for sign in signs):
                text = pattern.sub(instead, text)
        return text


def secrets_in(settings: Any) -> Iterator[str]:
    """Every secret that a configuration holds."""
    if isinstance(settings, SecretStr):
        yield settings.get_secret_value()
    elif isinstance(settings, BaseModel):
        for name in type(settings).model_fields:
            yield from secrets_in(getattr(settings, name))
    elif isinstance(settings, Mapping):
        for item in settings.values():
            yield from secrets_in(item)
    elif isinstance(settings, list | tuple):
        for item in settings:
            yield from secrets_in(item)


def _forms(secret: str) -> Iterator[str]:
    """A secret in every form in which somebody may repeat it; of a URL, its password as well."""
    yield from _written(secret)
    if "://" not in secret:
        return
    try:
        parts = urlsplit(secret)
    except ValueError:
        return
    # Where user and password are the same word, it names the user in many harmless lines.
    if parts.password and parts.password != parts.username:
        yield parts.password
        yield from _written(unquote(parts.password))


def _written(secret: str) -> Iterator[str]:
    """As it is, in a URL, in JSON, and as Python shows it."""
    yield secret
    yield quote(secret, safe="")
    yield quote_plus(secret)
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield repr(secret)[1:-1]
