"""The queues' part of the configuration."""

from __future__ import annotations

from pydantic import Field

from ingestd.settings import Duration, Section, parse_duration


class QueueSettings(Section):
    """`[queues.NAME]`: a lane with slots of its own."""

    concurrency: int = Field(default=16, ge=0, le=1000, description="jobs of this queue one node runs at the same time")


class RetentionSettings(Section):
    """`[retention]`: how long what is over is kept."""

    history: Duration = Field(default=parse_duration("30d"), description="succeeded, cancelled and skipped jobs")
    failed: Duration = Field(default=parse_duration("90d"), description="failed jobs")


def built_in_queues() -> dict[str, QueueSettings]:
    """The queues that are always there."""
    slots = {"default": 16, "imports": 2, "rollups": 2, "maintenance": 2, "alerts": 4}
    return {name: QueueSettings(concurrency=count) for name, count in slots.items()}
