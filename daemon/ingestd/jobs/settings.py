"""The queues' part of the configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer

from ingestd.settings import Duration, Section, format_duration, parse_duration

MOST_PER_PERIOD = 1_000_000
SHORTEST_PERIOD = timedelta(milliseconds=100)
LONGEST_PERIOD = timedelta(days=31)
_RATE = re.compile(r"(\d+)\s*/\s*(\S.*)")
_FORM = 'write a number of jobs and a duration, such as "100/1m"'


@dataclass(frozen=True, slots=True)
class Rate:
    """So many starts in any period of this length, and not one more.

    Args:
        count: starts; 0 is no limit.
    """

    count: int = 0
    period: timedelta = timedelta()

    def __str__(self) -> str:
        return f"{self.count}/{format_duration(self.period)}" if self.count else ""


def parse_rate(value: object) -> Rate:
    """Read a rate such as `100/1m`; an empty text is no limit.

    Raises:
        ValueError: it is anything else; the message shows the form.
    """
    if isinstance(value, Rate):
        return value
    if value is None or value == "":
        return Rate()
    found = _RATE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f'"{value}" is not a rate: {_FORM}')
    count = int(found[1]) if len(found[1]) <= 9 else MOST_PER_PERIOD + 1
    # "100/m" is said by many: a unit alone is one of it
    period = parse_duration(found[2] if found[2][0].isdigit() else f"1{found[2]}")
    if not 1 <= count <= MOST_PER_PERIOD:
        raise ValueError(f'"{value}": a rate lets through 1 to {MOST_PER_PERIOD} jobs a period; to stop a queue, pause it')
    if not SHORTEST_PERIOD <= period <= LONGEST_PERIOD:
        shortest, longest = format_duration(SHORTEST_PERIOD), format_duration(LONGEST_PERIOD)
        raise ValueError(f'"{value}": the period of a rate is {shortest} to {longest}')
    return Rate(count, period)


RateLimit = Annotated[Rate, BeforeValidator(parse_rate), PlainSerializer(str, return_type=str, when_used="json")]


class QueueSettings(Section):
    """`[queues.NAME]`: a lane with slots of its own."""

    concurrency: int = Field(default=16, ge=0, le=1000, description="jobs of this queue one node runs at the same time")
    min_concurrency: int = Field(
        default=0, ge=0, le=1000, description="a node has between this and concurrency slots; 0: always concurrency"
    )
    global_concurrency: int = Field(default=0, ge=0, le=100_000, description="jobs of this queue all nodes run together; 0: no limit")
    key_concurrency: int = Field(default=0, ge=0, le=1000, description="jobs of one key at the same time; 0: one")
    rate: RateLimit = Field(default=Rate(), description="starts in any period, all nodes together")

    def with_changes(self, given: QueueSettings) -> QueueSettings:
        """This queue with whatever keys were given for it."""
        return self.model_copy(update={name: getattr(given, name) for name in given.model_fields_set})


class RetentionSettings(Section):
    """`[retention]`: how long what is over is kept."""

    history: Duration = Field(default=parse_duration("30d"), description="succeeded, cancelled and skipped jobs")
    failed: Duration = Field(default=parse_duration("90d"), description="failed jobs")
    statistics: Duration = Field(default=parse_duration("90d"), description="numbers of jobs by minute, kind and outcome")
    audit: Duration = Field(default=parse_duration("365d"), description="who did what")


def built_in_queues() -> dict[str, QueueSettings]:
    """The queues that are always there."""
    slots = {"default": 16, "imports": 2, "rollups": 2, "maintenance": 2, "alerts": 4}
    return {name: QueueSettings(concurrency=count) for name, count in slots.items()}


def queue_problems(queues: Mapping[str, QueueSettings]) -> dict[str, str]:
    """Queues whose bounds contradict each other."""
    return {
        name: f"{queue.min_concurrency} is more than its concurrency of {queue.concurrency}"
        for name, queue in queues.items()
        if queue.min_concurrency > queue.concurrency
    }


def queue_oddities(queues: Mapping[str, QueueSettings]) -> dict[str, str]:
    """Queues that are set up in a way that is allowed but probably not meant."""
    return {
        name: f"keeps {queue.min_concurrency} slots on each node, and all nodes together may only use {queue.global_concurrency}"
        for name, queue in queues.items()
        if queue.min_concurrency > queue.global_concurrency > 0
    }
