"""What all answers are made of."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

T = TypeVar("T")

Id = Annotated[str, Field(pattern="^[0-9]+$", description="A number of up to 64 bits, as a string.")]
# A date-time by RFC 3339, but for the years before 1000 and after 9999 that Postgres knows as well.
At = Annotated[datetime, WithJsonSchema({"type": "string", "format": "date-time"})]
Json = Annotated[Any, WithJsonSchema({"description": "Any JSON value."})]
Object = dict[str, Any]


class Answer(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(extra="allow")


class Anything(Answer):
    """A JSON object."""


class Page(Answer, Generic[T]):
    """A page of a list."""

    items: list[T]
    next_cursor: str | None = Field(description="Hand it back as `cursor` for the next page; null at the end.")


class Fault(Answer):
    """One thing that is wrong with a request."""

    pointer: str = Field(description="JSON pointer of the member, or name of the parameter.")
    detail: str


class Problem(Answer):
    """What went wrong, as a problem document."""

    type: str = Field(description="A URN that names the kind of problem.")
    title: str
    status: int
    detail: str
    instance: str
    correlation_id: str
    hint: str = Field(default="", description="What to do about it.")
    current_state: str = Field(default="", description="With 409: the state that forbids it.")
    job_id: str = Field(default="", description="The job that stands in the way.")
    errors: list[Fault] = []


class Started(Answer):
    """The job that does it."""

    job_id: Id
