"""What failed again and again, as a gauge and as a health check: the same words for imports, workflows and kinds."""

from __future__ import annotations

from collections.abc import Mapping

from ingestd.facts import Check, Gauge
from ingestd.jobs.records import Streak

_SHOWN = 5


def failure_gauges(what: str, streaks: Mapping[str, Streak]) -> list[Gauge]:
    """How many runs in a row failed, of each.

    Args:
        what: import, workflow or kind.
    """
    text = f"Runs of the {what} that failed in a row, from the newest back to the last success."
    return [Gauge(f"{what}_consecutive_failures", float(streak.failures), text, {what: name}) for name, streak in sorted(streaks.items())]


def failure_check(what: str, streaks: Mapping[str, Streak], failures_in_a_row: int) -> Check:
    """Whether anything failed so often in a row that somebody should look.

    Args:
        what: import, workflow or kind.
        failures_in_a_row: so many are too many.
    """
    bad = {name: streak for name, streak in sorted(streaks.items(), key=_worst_first) if streak.failures >= failures_in_a_row}
    told = [f"{name} failed {streak.failures} times in a row" for name, streak in list(bad.items())[:_SHOWN]]
    if len(bad) > _SHOWN:
        told.append(f"and {len(bad) - _SHOWN} more")
    first = next(iter(bad), None)
    return Check(
        f"{what}s_failing",
        "degraded" if bad else "healthy",
        "; ".join(told) or f"none failed {failures_in_a_row} times in a row",
        str(failures_in_a_row),
        hint=f"`ingestd {what}s last {first}` tells why" if first else "",
    )


def _worst_first(item: tuple[str, Streak]) -> tuple[int, str]:
    return -item[1].failures, item[0]
