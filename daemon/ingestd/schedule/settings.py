"""The configuration of `[schedules.*]`."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from ingestd.schedule.cron import read_expression
from ingestd.schedule.rules import at_text, every_text
from ingestd.schedule.zones import parse_zone
from ingestd.settings import Duration, Priority, Section, StrList, did_you_mean

TargetType = Literal["job", "import", "rollup", "workflow", "command"]
Overlap = Literal["skip", "queue", "allow"]
CatchUp = Literal["none", "latest", "all"]
COMMANDS = ("cleanup", "health")
MOST_CATCH_UP = 1000
_LONGEST_INTERVAL = timedelta(days=3660)


def _read_moment(value: object) -> object:
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime.combine(value, time())
    try:
        return datetime.fromisoformat(str(value).strip())
    except ValueError:
        raise ValueError(f'"{str(value)[:60]}" is not a moment: write it as 2027-01-01T02:00:00Z') from None


def _check_interval(value: timedelta) -> timedelta:
    if value < timedelta(seconds=1) or value % timedelta(seconds=1):
        raise ValueError("an interval is a whole number of seconds, 1s at least")
    if value > _LONGEST_INTERVAL:
        raise ValueError("an interval is ten years at most")
    return value


def _check_limit(value: timedelta) -> timedelta:
    if value <= timedelta():
        raise ValueError("must be longer than 0s")
    return value


@dataclass(frozen=True, slots=True)
class ScheduleTarget:
    """What a schedule starts, as its owner wrote it.

    Args:
        type: what kind of thing.
        name: of the job's kind, the import, the rollup, the workflow or the command.
        args: handed to it.
    """

    type: TargetType
    name: str
    args: dict[str, Any] = field(default_factory=dict)


class ScheduleSettings(Section):
    """One schedule: when, what, and what becomes of slots that could not run in time."""

    cron: Annotated[str, AfterValidator(read_expression)] | None = Field(
        default=None, description='crontab(5): five fields, or "@hourly" … "@yearly"'
    )
    every: Annotated[Duration, AfterValidator(_check_interval)] | None = Field(
        default=None, description="an interval; its slots are the multiples of it since 1970-01-01T00:00Z"
    )
    at: Annotated[datetime, BeforeValidator(_read_moment)] | None = Field(
        default=None, description="one moment, once; without an offset it is read in the time zone"
    )
    timezone: Annotated[str, AfterValidator(parse_zone)] = Field(default="UTC", description="IANA name; cron and at are read in it")
    job: str | None = Field(default=None, min_length=1, description="kind of job to enqueue")
    import_: str | None = Field(default=None, min_length=1, alias="import", description="import to scan")
    rollup: str | None = Field(default=None, min_length=1, description="rollup to refresh")
    workflow: str | None = Field(default=None, min_length=1, description="workflow to start")
    command: str | None = Field(default=None, description="cleanup or health")
    args: dict[str, Any] = Field(default_factory=dict, description="arguments of the job")
    priority: Priority | None = Field(default=None, description="low, normal, high or -100..100; default: the target's")
    tags: StrList = Field(default_factory=list, description="put on every job it starts")
    enabled: bool = Field(default=True, description="false: no slots at all")
    overlap: Overlap = Field(default="skip", description="while its last job is open: skip | queue | allow")
    catch_up: CatchUp = Field(default="latest", description="slots missed while nothing ran: none | latest | all")
    max_catch_up: int = Field(default=100, ge=1, le=MOST_CATCH_UP, description='how many of them "all" runs, the newest')
    start_within: Annotated[Duration, AfterValidator(_check_limit)] | None = Field(
        default=None, description="a slot found later than that is missed"
    )

    @field_validator("command")
    @classmethod
    def _known_command(cls, value: str | None) -> str | None:
        if value is not None and value not in COMMANDS:
            raise ValueError(f'"{value}" is not a command: {" or ".join(COMMANDS)}{did_you_mean(value, COMMANDS)}')
        return value

    @field_validator("overlap", "catch_up", mode="before")
    @classmethod
    def _known_word(cls, value: object, info: Any) -> object:
        words = ("skip", "queue", "allow") if info.field_name == "overlap" else ("none", "latest", "all")
        if value not in words:
            raise ValueError(f'"{value}" is not {", ".join(words[:-1])} or {words[-1]}{did_you_mean(str(value), words)}')
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> ScheduleSettings:
        rules = [name for name in ("cron", "every", "at") if getattr(self, name) is not None]
        if len(rules) != 1:
            raise ValueError(_not_one(rules, "cron, every or at", "when it runs"))
        targets = self._targets()
        if len(targets) != 1:
            raise ValueError(_not_one(list(targets), "job, import, rollup, workflow or command", "what it starts"))
        return self

    def _targets(self) -> dict[TargetType, str]:
        named: dict[TargetType, str | None] = {
            "job": self.job,
            "import": self.import_,
            "rollup": self.rollup,
            "workflow": self.workflow,
            "command": self.command,
        }
        return {kind: name for kind, name in named.items() if name is not None}

    @property
    def target(self) -> ScheduleTarget:
        """What it starts."""
        ((kind, name),) = self._targets().items()
        return ScheduleTarget(kind, name, self.args)

    @property
    def rule(self) -> str:
        """When, as the database keeps it and `rules.parse_rule` reads it; a schedule with another rule is another schedule."""
        if self.cron is not None:
            return f"cron {self.cron}"
        if self.every is not None:
            return every_text(self.every)
        assert self.at is not None
        return at_text(self.at, self.timezone)


def _not_one(found: list[str], choices: str, purpose: str) -> str:
    if not found:
        return f"says nothing about {purpose}: give it one of {choices}"
    return f"{' and '.join(found)} exclude each other: give it one of {choices}"
