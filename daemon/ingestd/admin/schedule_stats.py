"""The numbers of a schedule's last days: tiles, a picture of the days, and the same as a table. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

from ingestd.admin.words import NONE, duration, number

# From the ground up, as they are drawn and told.
LAYERS = ("succeeded", "partial", "failed", "missed", "skipped")
_LAYER_OF = {"cancelled": "skipped"}
# The picture's own units: a day is DAY wide, of which GAP stay empty, and the fullest one HEIGHT high.
DAY, GAP, HEIGHT = 20, 4, 100
LEAST = 3


class Bar(NamedTuple):
    """One layer of one day.

    Args:
        look: its layer's name.
    """

    x: int
    y: float
    width: int
    height: float
    look: str


class Tile(NamedTuple):
    """One number."""

    label: str
    value: str
    note: str
    tone: str = ""


def tiles_of(totals: Mapping[str, Any], threshold: int) -> list[Tile]:
    """The numbers that tell how it goes.

    Args:
        threshold: so many failures in a row are worth telling as bad.
    """
    states, rate, spread, row = totals["by_state"], totals["success_rate"], totals["duration_ms"], totals["consecutive_failures"]
    good, bad = states.get("succeeded", 0) + states.get("partial", 0), states.get("failed", 0)
    missed, skipped = states.get("missed", 0), states.get("skipped", 0)
    days = f"{totals['days']} days"
    return [
        Tile(
            "Success rate",
            NONE if rate is None else f"{_percent(rate)} %",
            f"{number(good)} of {number(good + bad)} runs in {days}" if rate is not None else f"no run has ended in {days}",
            "" if rate is None else "good" if rate == 1 else "warn" if rate >= 0.9 else "bad",
        ),
        Tile(
            "Takes",
            duration(spread["mean"]),
            f"mean; 95 % end within {duration(spread['p95'])}" if spread["mean"] is not None else "nothing measured yet",
        ),
        Tile("Failures in a row", number(row), "now" if row else "the last run went well" if good else NONE, _alarm(row, threshold)),
        Tile("Missed", number(missed), f"and {number(skipped)} skipped in {days}", "bad" if missed else ""),
    ]


def _percent(rate: float) -> str:
    """Never 100 where something failed."""
    return "100" if rate == 1 else f"{min(rate * 100, 99.9):.1f}".removesuffix(".0")


def _alarm(row: int, threshold: int) -> str:
    return "" if not row else "bad" if row >= threshold else "warn"


def timeline_of(totals: Mapping[str, Any]) -> dict[str, Any]:
    """The picture: bars, the words under it, and its table, today last."""
    days = [_day(one) for one in totals["timeline"]]
    top = max((day["runs"] for day in days), default=0)
    return {
        "width": DAY * len(days) - GAP,
        "height": HEIGHT,
        "columns": [{"x": DAY * i - GAP // 2, "title": day["title"], "bars": _bars(i, day["counts"], top)} for i, day in enumerate(days)],
        "column_width": DAY,
        "days": days,
        "empty": top == 0,
        "top": top,
        "first": days[0]["label"] if days else "",
        "words": _words(days),
    }


def _day(one: Mapping[str, Any]) -> dict[str, Any]:
    counts = dict.fromkeys(LAYERS, 0)
    for state, runs in one["by_state"].items():
        layer = _LAYER_OF.get(state, state)
        if layer in counts:
            counts[layer] += runs
    when = date.fromisoformat(one["date"])
    label = f"{when:%a} {when.day} {when:%b}"
    told = ", ".join(f"{number(count)} {layer}" for layer, count in counts.items() if count) or "nothing"
    mean = f", mean {duration(one['mean_ms'])}" if one["mean_ms"] is not None else ""
    return {"label": label, "counts": counts, "runs": sum(counts.values()), "mean_ms": one["mean_ms"], "title": f"{label}: {told}{mean}"}


def _bars(position: int, counts: Mapping[str, int], top: int) -> list[Bar]:
    """The layers of a day; what is there at all can be seen, be it one failure among ten thousand successes."""
    total = sum(counts.values())
    if not total:
        return []
    room = max(HEIGHT * total / top, LEAST * sum(1 for count in counts.values() if count))
    heights = {layer: max(room * count / total, LEAST) for layer, count in counts.items() if count}
    scale = min(room, HEIGHT) / sum(heights.values())
    bars, ground = [], float(HEIGHT)
    for layer, height in heights.items():
        ground -= height * scale
        bars.append(Bar(position * DAY, round(ground, 2), DAY - GAP, round(height * scale, 2), layer))
    return bars


def _words(days: Sequence[Mapping[str, Any]]) -> str:
    ill = [day["label"] for day in days if day["counts"]["failed"] or day["counts"]["missed"]]
    busy = sum(1 for day in days if day["runs"])
    if not busy:
        return f"No slots in {len(days)} days."
    if not ill:
        return f"Slots on {busy} of {len(days)} days, none failed or missed."
    return f"Slots on {busy} of {len(days)} days; failed or missed on {len(ill)}, last on {ill[-1]}."
