"""What the members of request bodies may be: JSON says of each what type it is, so nothing is guessed from another type."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from ingestd.errors import InvalidInput
from ingestd.jobs.checks import EARLIEST, LATEST
from ingestd.settings import Duration


def check_unambiguous(raw: bytes) -> None:
    """Refuse JSON that would silently become something else: of a name given twice the last one counts, and what passes 64 bits is rounded.

    Args:
        raw: JSON that has been read and found not to be too deep.

    Raises:
        InvalidInput: it says two things at once, or a whole number is too large.
    """
    json.loads(raw, object_pairs_hook=_named_once, parse_int=_exact)


def _named_once(members: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for name, _ in members:
        if name in seen:
            raise InvalidInput(f'member "{name[:100]}" is given twice')
        seen.add(name)


def _exact(digits: str) -> None:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise InvalidInput(f"{digits[:40]} has more than 64 bits and would be rounded", hint="send it as a string")


def _within_reach(moment: datetime) -> datetime:
    # At the very ends of the calendar, Postgres or a reader in another time zone cannot take it.
    if not EARLIEST <= moment < LATEST:
        raise ValueError(f"must be in the years {EARLIEST.year} to {LATEST.year - 1}")
    return moment.astimezone(UTC)


def only_text(value: Any) -> Any:
    """Refuse what is not a string.

    Raises:
        ValueError: it is not.
    """
    # Left to itself, pydantic takes numbers for moments and durations.
    if value is not None and not isinstance(value, str):
        raise ValueError("must be a string")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(only_text), AfterValidator(_within_reach)]
Span = Annotated[Duration, BeforeValidator(only_text)]
Flag = Annotated[bool, Field(strict=True)]
Number = Annotated[int, Field(strict=True)]
Reason = Annotated[str, Field(max_length=1000)]


class Body(BaseModel):
    """Base of all bodies: a member nobody knows is a problem."""

    model_config = ConfigDict(extra="forbid")


class Empty(Body):
    """The body of an action that takes none: an empty object, or nothing at all."""


class Why(Body):
    """The body of an action that may be explained."""

    reason: Reason | None = None
