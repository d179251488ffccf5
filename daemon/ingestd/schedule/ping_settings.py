"""The configuration of `[heartbeat]`."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

from ingestd.settings import Duration, Secret, Section

_SHORTEST = timedelta(seconds=10)
_LONGEST = timedelta(days=1)


def _check_url(value: SecretStr) -> SecretStr:
    """The message does not repeat it: whoever knows the URL can feign a heartbeat."""
    url = value.get_secret_value().strip()
    if not url:
        return SecretStr("")
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or any(character.isspace() for character in url):
        raise ValueError("not a URL that can be called: write https://HOST/PATH")
    return SecretStr(url)


def _check_every(value: timedelta) -> timedelta:
    if not _SHORTEST <= value <= _LONGEST:
        raise ValueError("between 10s and 1d")
    return value


class HeartbeatSettings(Section):
    """`[heartbeat]`: a sign of life for somebody outside, who tells when it stays away."""

    url: Annotated[Secret, AfterValidator(_check_url)] = Field(
        default=SecretStr(""), description="called with GET while slots are fired; empty: nothing is"
    )
    every: Annotated[Duration, AfterValidator(_check_every)] = Field(default=timedelta(seconds=60), description="how often it is called")
