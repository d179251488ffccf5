"""How long to wait before the next attempt."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff: `base * factor**(attempt - 1)`, capped, then spread by jitter.

    Args:
        base_s: seconds before the second attempt.
        factor: growth from one attempt to the next.
        cap_s: longest wait in seconds.
        jitter: share of the wait that is random, 0..1; the wait is spread evenly around itself.
    """

    base_s: float = 60.0
    factor: float = 2.0
    cap_s: float = 3600.0
    jitter: float = 0.1

    def delay(self, attempt: int) -> timedelta:
        """The wait after the given attempt (from 1) has failed."""
        exponent = min(max(attempt - 1, 0), 64)
        wait = min(self.cap_s, self.base_s * self.factor**exponent)
        return timedelta(seconds=wait * random.uniform(1 - self.jitter / 2, 1 + self.jitter / 2))  # noqa: S311 - jitter
