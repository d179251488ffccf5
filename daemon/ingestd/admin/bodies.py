"""What the members of request bodies may be: JSON says of each what type it is, so nothing is guessed from another type."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from ingestd.settings import Duration


def only_text(value: Any) -> Any:
    """Refuse what is not a string.

    Raises:
        ValueError: it is not.
    """
    # Left to itself, pydantic takes numbers for moments and durations.
    if value is not None and not isinstance(value, str):
        raise ValueError("must be a string")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(only_text)]
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
