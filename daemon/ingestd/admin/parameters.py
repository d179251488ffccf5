"""What the words of queries and paths mean: one meaning each, wherever a route understands it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ingestd.jobs.filters import TRIGGERS

MAX_LIMIT = 500
MAX_DAYS = 366
MAX_COUNT = 1000

MOMENT: Mapping[str, Any] = {"type": "string", "examples": ["2027-01-31T06:00:00Z"]}
# An empty one is one not given: the page's form sends all of its fields.
ID_OR_NONE: Mapping[str, Any] = {"type": "string", "pattern": "^([0-9]{1,19})?$"}
TEXT: Mapping[str, Any] = {"type": "string"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One word of a query or a path.

    Args:
        description: what it chooses, in one sentence.
        schema: JSON schema of its value.
    """

    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: TEXT)


def number(description: str, low: int, high: int) -> Parameter:
    """A whole number."""
    return Parameter(description, {"type": "integer", "minimum": low, "maximum": high})


PATH: Mapping[str, Parameter] = {
    "id": Parameter("The object's number, as a string of digits.", {"type": "string", "pattern": "^[0-9]{1,19}$"}),
    "name": Parameter("The object's name.", {"type": "string", "minLength": 1}),
}
QUERY: Mapping[str, Parameter] = {
    "limit": number("At most so many items.", 1, MAX_LIMIT),
    "cursor": Parameter("The next_cursor of the page before, with the same filter."),
    "before": Parameter("Begin behind this id: only older ones. A cursor goes on from there.", PATH["id"].schema),
    "state": Parameter("Only those in this state; several with commas between them. For jobs `waiting`, `open` and `final` are groups."),
    "kind": Parameter("Only jobs of this kind."),
    "queue": Parameter("Only jobs of this queue."),
    "tag": Parameter("Only jobs with this tag."),
    "triggered_by": Parameter(f"Only what came through this door: {', '.join(TRIGGERS[:-1])} or {TRIGGERS[-1]}."),
    "correlation_id": Parameter("Only what one request caused."),
    "workflow": Parameter("Only what belongs to this workflow."),
    "error_class": Parameter("Only jobs whose last error is of this class."),
    "error_group": Parameter("Only jobs whose last error reads like this one, by the mark that `jobs/dead` tells."),
    "run": Parameter("Only jobs of this workflow run.", ID_OR_NONE),
    "parent": Parameter("Only jobs that this job brought about.", ID_OR_NONE),
    "from": Parameter("Only what was created at this moment or later.", MOMENT),
    "to": Parameter("Only what was created before this moment.", MOMENT),
    "finished_from": Parameter("Only what ended at this moment or later.", MOMENT),
    "finished_to": Parameter("Only what ended before this moment.", MOMENT),
    "id": Parameter("Only these ids, with commas between them."),
    "import": Parameter("Only loads of this import."),
    "status": Parameter(
        "Only loads with this status.", {"type": "string", "enum": ["pending", "succeeded", "partial", "failed", "skipped"]}
    ),
    "reason": Parameter("Why, for the audit log."),
    "window": Parameter("How far back, such as 24h; from 1m to 31d.", {"type": "string", "examples": ["24h"]}),
    "days": number("Of the last so many days, today included.", 1, MAX_DAYS),
    "timezone": Parameter("Where days begin, such as Europe/Skopje.", {"type": "string", "examples": ["Europe/Skopje"]}),
    "object_type": Parameter("Only what was done to objects of this type, such as job."),
    "object_id": Parameter("Only what was done to the object with this id or name."),
    "type": Parameter(
        "Only events with these names, with commas between them; `load.*` means all that begin so. A name that no event has is refused."
    ),
    "after": Parameter("Only events behind this one.", PATH["id"].schema),
    "count": number("So many.", 1, MAX_COUNT),
    "all": Parameter("Whether those that ended are told too.", {"type": "string", "enum": ["true", "false"]}),
    "actor": Parameter("Only what this person or token did."),
    "action": Parameter("Only what was done by this verb, such as retry."),
    "outcome": Parameter("Only what was done, or what was refused.", {"type": "string", "enum": ["done", "denied"]}),
}
