"""How often somebody may ask, and how often somebody may be wrong about who they are.

Each node counts for itself, in memory: a limit shared by all would make every request wait for the database.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict

from ingestd.access.roles import Actor
from ingestd.errors import TooOften
from ingestd.jobs.settings import Rate, parse_rate

WRONG = parse_rate("10/1m")
REMEMBERED = 10_000
TRIGGERS = ("trigger", "start", "refresh", "bulk", "backfill", "again")


class OverLimit(TooOften):
    """Somebody asks more often than the server answers."""


class Buckets:
    """A bucket for each key that so many requests fit in, and that empties evenly over the period.

    Args:
        rate: how many in any period; a count of 0 is no limit.
    """

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._every_s = rate.period.total_seconds() / rate.count if rate.count else 0.0
        # The moment at which a key's bucket is empty again; the longest untouched go first, so that keys cannot fill the memory.
        self._empty_at: OrderedDict[str, float] = OrderedDict()

    def wait_s(self, key: str, now: float) -> float:
        """Seconds until there is room for one more; 0: there is."""
        if not self._rate.count:
            return 0.0
        full_by = self._rate.period.total_seconds() - self._every_s
        return max(self._empty_at.get(key, now) - now - full_by, 0.0)

    def add(self, key: str, now: float) -> None:
        """Put one in."""
        if not self._rate.count:
            return
        self._empty_at[key] = max(self._empty_at.get(key, now), now) + self._every_s
        self._empty_at.move_to_end(key)
        while len(self._empty_at) > REMEMBERED:
            self._empty_at.popitem(last=False)

    def __str__(self) -> str:
        return str(self._rate)


class Limits:
    """The limits of one server.

    Args:
        rate: requests of one token, or of one address without.
        trigger_rate: those of them that start work by hand.
    """

    def __init__(self, rate: Rate, trigger_rate: Rate) -> None:
        self._wrong = Buckets(WRONG)
        self.renew(rate, trigger_rate)

    def renew(self, rate: Rate, trigger_rate: Rate) -> None:
        """Count by other rates, from the beginning."""
        self._requests = Buckets(rate)
        self._triggers = Buckets(trigger_rate)

    def check(self, actor: Actor, method: str, path: str) -> None:
        """Count a request of somebody who is known, or refuse it.

        Args:
            path: the route's pattern.

        Raises:
            OverLimit: they ask more often than they may.
        """
        if actor.name.startswith("local:") and actor.may("operate"):
            return  # the daemon's own user could as well write to the database
        key, now = _key(actor), time.monotonic()
        for buckets, what in ((self._requests, "requests"), (self._triggers, "requests that start work")):
            if buckets is self._triggers and not starts_work(method, path):
                continue
            if wait_s := buckets.wait_s(key, now):
                raise OverLimit(f"more than {buckets} {what} of {_whose(actor)}", retry_after_s=wait_s)
            buckets.add(key, now)

    def check_guesses(self, address: str) -> None:
        """Refuse to look at what an address brings after it was wrong too often.

        Raises:
            OverLimit: it has to wait.
        """
        if wait_s := self._wrong.wait_s(network(address), time.monotonic()):
            raise OverLimit(f"more than {self._wrong} wrong tokens from this address", retry_after_s=wait_s)

    def was_wrong(self, address: str) -> None:
        """Count a wrong token."""
        self._wrong.add(network(address), time.monotonic())


def starts_work(method: str, path: str) -> bool:
    """Whether a route starts work that may be much, by hand."""
    return method == "POST" and path.rpartition("/")[2] in TRIGGERS


def _key(actor: Actor) -> str:
    if actor.token_id is not None:
        return f"token:{actor.token_id}"
    return actor.name if actor.name.startswith("token:") else f"from:{network(actor.address or '')}"


def network(address: str) -> str:
    """What is counted as one address: of IPv6 a /64, for whoever has one of its addresses has them all."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return address if found.version == 4 or found.is_loopback else str(ipaddress.ip_network((found, 64), strict=False))


def _whose(actor: Actor) -> str:
    return "one token" if actor.name.startswith("token:") else "one address without a token"
