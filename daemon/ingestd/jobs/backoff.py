"""How long to wait before the next attempt."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ingestd.settings import did_you_mean, parse_duration

Wait = float | str | timedelta

_NAMES = ("base", "factor", "cap", "jitter", "base_s", "cap_s")
_EXAMPLE = '{"base": "1m", "factor": 2, "cap": "1h", "jitter": 0.1}'


@dataclass(frozen=True, slots=True, init=False)
class Backoff:
    """Exponential backoff: `base * factor**(attempt - 1)`, capped, then spread by jitter.

    Args:
        base: the wait before the second attempt: a duration such as "1m", or seconds.
        factor: growth from one attempt to the next, 1 or more.
        cap: the longest wait: a duration such as "1h", or seconds.
        jitter: share of the wait that is random, 0..1; the wait is spread evenly around itself.
        base_s: `base` in seconds, as a job's row keeps it.
        cap_s: `cap` in seconds, as a job's row keeps it.

    Raises:
        ValueError: one of them makes no sense.
    """

    base_s: float
    factor: float
    cap_s: float
    jitter: float

    def __init__(
        self,
        base: Wait = 60.0,
        factor: float = 2.0,
        cap: Wait = 3600.0,
        jitter: float = 0.1,
        *,
        base_s: Wait | None = None,
        cap_s: Wait | None = None,
    ) -> None:
        object.__setattr__(self, "base_s", _seconds("base", base if base_s is None else base_s))
        object.__setattr__(self, "factor", _number("factor", factor, at_least=1.0))
        object.__setattr__(self, "cap_s", _seconds("cap", cap if cap_s is None else cap_s))
        object.__setattr__(self, "jitter", _number("jitter", jitter, at_most=1.0))

    def delay(self, attempt: int) -> timedelta:
        """The wait after the given attempt (from 1) has failed."""
        exponent = min(max(attempt - 1, 0), 64)
        wait = min(self.cap_s, self.base_s * self.factor**exponent)
        return timedelta(seconds=wait * random.uniform(1 - self.jitter / 2, 1 + self.jitter / 2))  # noqa: S311 - jitter

    def to_json(self) -> dict[str, float]:
        """As a job's row keeps it."""
        return {"base_s": self.base_s, "factor": self.factor, "cap_s": self.cap_s, "jitter": self.jitter}


def read_backoff(given: Backoff | Mapping[str, Any]) -> Backoff:
    """The backoff that an enqueue asks for.

    Raises:
        ValueError: it makes no sense; says why.
    """
    if isinstance(given, Backoff):
        return given
    if not isinstance(given, Mapping):
        raise ValueError(f"{given!r:.100} is no object such as {_EXAMPLE}")
    for name in given:
        if name not in _NAMES:
            raise ValueError(f'unknown "{name!s:.100}"{did_you_mean(str(name), _NAMES)}; write it like {_EXAMPLE}')
    return Backoff(**given)


def stored_backoff(row: Mapping[str, Any] | None, otherwise: Backoff) -> Backoff:
    """The backoff of a job's row; the kind's where it has none, or one that makes no sense: anybody may have written it."""
    if not row:
        return otherwise
    try:
        return Backoff(**row)
    except (TypeError, ValueError):
        return otherwise


def _seconds(name: str, value: Wait) -> float:
    if isinstance(value, str | timedelta):
        value = parse_duration(value).total_seconds()
    return _number(name, value)


def _number(name: str, value: float, *, at_least: float = 0.0, at_most: float = 1e9) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not at_least <= value <= at_most:
        raise ValueError(f"{name} of a backoff must be {at_least:g} to {at_most:g}, not {value!r}")
    return float(value)
