"""The configuration of `[schedules.*]`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from itertools import islice, pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from ingestd.schedule.cron import CronRule, read_expression
from ingestd.schedule.rules import EPOCH, Rule, at_text, bound, every_text, first_of, last_of, parse_rule
from ingestd.schedule.zones import find_zone, parse_zone
from ingestd.settings import Duration, Priority, Section, StrList, did_you_mean, format_duration

TargetType = Literal["job", "import", "rollup", "workflow", "command"]
Overlap = Literal["skip", "queue", "allow"]
CatchUp = Literal["none", "latest", "all"]
DependencyType = Literal["import", "job", "workflow"]
OnFailure = Literal["skip", "run", "wait"]
COMMANDS = ("cleanup", "health", "maintenance")
MOST_CATCH_UP = 1000
MOST_DEPENDENCIES = 20
MOST_DAYS = 36500
LONGEST_NAME = 200
_LONGEST_INTERVAL = timedelta(days=3660)
_LONGEST_JITTER = timedelta(days=1)
_SHORTEST_REST = timedelta(minutes=1)  # of an expression
_WHILE_WAITING = {"skip": "are skipped", "queue": "queue behind it", "allow": "may overtake it"}
_YEARS = range(1970, 9000)
# Targets that people know from elsewhere, and that nothing here could carry out.
RULES = ("cron", "every", "at")
TARGETS = ("job", "import", "rollup", "workflow", "command")
_ONE_TARGET = "job, import, rollup, workflow or command"
_NOT_YET = {"matview": "refreshes no materialized views", "report": "writes no reports", "backfill": "has no backfills to start"}


def _read_moment(value: object) -> object:
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime.combine(value, time())
    try:
        return datetime.fromisoformat(str(value).strip())
    except ValueError:
        raise ValueError(f'"{str(value)[:60]}" is not a moment: write it as 2027-01-01T02:00:00Z') from None


def _read_bound(value: object) -> object:
    if isinstance(value, date):
        return value
    try:
        return date.fromisoformat(str(value).strip())
    except ValueError:
        return _read_moment(value)


def _check_bound(value: date) -> date:
    if value.year not in _YEARS:
        raise ValueError(f'"{value.isoformat()}" is beyond the calendar of schedules: {_YEARS[0]} to {_YEARS[-1]}')
    return value


def _check_jitter(value: timedelta) -> timedelta:
    if value > _LONGEST_JITTER:
        raise ValueError("a jitter is a day at most")
    return value


def _check_interval(value: timedelta) -> timedelta:
    if value < timedelta(seconds=1) or value % timedelta(seconds=1):
        raise ValueError("an interval is a whole number of seconds, 1s at least")
    if value > _LONGEST_INTERVAL:
        raise ValueError("an interval is ten years at most")
    return value


def _check_limit(value: timedelta) -> timedelta:
    if value < timedelta(milliseconds=1):
        raise ValueError("must be longer than 0s")
    # Added to a slot's time, or taken from it, it must not lead beyond the calendar: that would stop all schedules.
    if value > _LONGEST_INTERVAL:
        raise ValueError("must be ten years at most")
    return value


def _read_dependencies(value: object) -> object:
    """Keys of the entries, which a list would tell with the name of the list alone."""
    for number, entry in enumerate(value[:MOST_DEPENDENCIES], start=1) if isinstance(value, list) else ():
        known = {info.alias or name for name, info in DependencySettings.model_fields.items()}
        for key in entry if isinstance(entry, dict) else ():
            if key not in known:
                near = did_you_mean(str(key), known) or f": it takes {', '.join(sorted(known))}"
                raise ValueError(f'entry {number}: unknown key "{key}"{near}')
    return value


def _check_thing(value: str) -> str:
    if not 0 < len(value) <= LONGEST_NAME or "\0" in value:
        raise ValueError(f"must be a name of 1 to {LONGEST_NAME} characters")
    return value


Thing = Annotated[str, AfterValidator(_check_thing)]
Bound = Annotated[datetime | date, BeforeValidator(_read_bound), AfterValidator(_check_bound)]
Limit = Annotated[Duration, AfterValidator(_check_limit)]


class DependencySettings(Section):
    """What must have succeeded before a slot runs."""

    import_: Thing | None = Field(default=None, alias="import", description="an import")
    job: Thing | None = Field(default=None, description="a kind of job")
    workflow: Thing | None = Field(default=None, description="a workflow")
    ok_within: Limit = Field(default=timedelta(hours=24), description="how old its success may be when the slot is due")
    on_failure: OnFailure = Field(default="skip", description="without such a success: skip the slot | run all the same | wait for it")

    @model_validator(mode="after")
    def _one_thing(self) -> DependencySettings:
        named = [kind for kind, name in self._things().items() if name is not None]
        if len(named) != 1:
            raise ValueError(_not_one(named, "import, job or workflow", "what it waits for"))
        return self

    def _things(self) -> dict[DependencyType, str | None]:
        return {"import": self.import_, "job": self.job, "workflow": self.workflow}

    @property
    def thing(self) -> tuple[DependencyType, str]:
        """What must have succeeded: type and name."""
        return next((kind, name) for kind, name in self._things().items() if name is not None)

    def stored(self) -> dict[str, Any]:
        """As the database keeps it."""
        kind, name = self.thing
        return {"type": kind, "name": name, "ok_within_s": self.ok_within.total_seconds(), "on_failure": self.on_failure}


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
    at: Annotated[datetime, BeforeValidator(_read_moment), AfterValidator(_check_bound)] | None = Field(
        default=None, description="one moment, once; without an offset it is read in the time zone"
    )
    timezone: Annotated[str, AfterValidator(parse_zone)] = Field(
        default="UTC", description="IANA name; cron, at, start and end are read in it"
    )
    start: Bound | None = Field(default=None, description="a date or moment: no slot before it")
    end: Bound | None = Field(default=None, description="a date or moment: no slot after it; a date alone includes that day")
    job: Thing | None = Field(default=None, description="kind of job to enqueue")
    import_: Thing | None = Field(default=None, alias="import", description="import to scan")
    rollup: Thing | None = Field(default=None, description="rollup to refresh")
    workflow: Thing | None = Field(default=None, description="workflow to start")
    command: str | None = Field(default=None, description="cleanup, health or maintenance")
    args: dict[str, Any] = Field(default_factory=dict, description="arguments of the job; of cleanup: days")
    after: Annotated[list[DependencySettings], BeforeValidator(_read_dependencies)] = Field(
        default_factory=list, max_length=MOST_DEPENDENCIES, description="what must have succeeded first"
    )
    jitter: Annotated[Duration, AfterValidator(_check_jitter)] = Field(
        default=timedelta(), description="each job waits a share of this, fixed by the schedule's name and the slot's time"
    )
    priority: Priority | None = Field(default=None, description="low, normal, high or -100..100; default: the target's")
    tags: StrList = Field(default_factory=list, description="put on every job it starts")
    enabled: bool = Field(default=True, description="false: no slots at all")
    overlap: Overlap = Field(default="skip", description="while its last job is open: skip | queue | allow")
    catch_up: CatchUp = Field(default="latest", description="slots missed while nothing ran: none | latest | all")
    max_catch_up: int = Field(default=100, ge=1, le=MOST_CATCH_UP, description='how many of them "all" runs, the newest')
    start_within: Limit | None = Field(
        default=None, description="a slot found later than that is missed; its job should have started by then"
    )
    finish_within: Limit | None = Field(default=None, description="its job should have ended so long after the slot was due")
    target_runtime: Limit | None = Field(default=None, description="a job that runs longer is told of as slow")

    @model_validator(mode="before")
    @classmethod
    def _none_of_what_is_to_come(cls, keys: Any) -> Any:
        for key, lack in _NOT_YET.items() if isinstance(keys, dict) else ():
            if key in keys:
                raise ValueError(f'"{key}" cannot be scheduled: this version {lack}; give it one of {_ONE_TARGET}')
        return keys

    @field_validator("command")
    @classmethod
    def _known_command(cls, value: str | None) -> str | None:
        if value is not None and value not in COMMANDS:
            raise ValueError(f'"{value}" is not a command: {", ".join(COMMANDS[:-1])} or {COMMANDS[-1]}{did_you_mean(value, COMMANDS)}')
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
        rules = [name for name in RULES if getattr(self, name) is not None]
        if len(rules) != 1:
            raise ValueError(_not_one(rules, "cron, every or at", "when it runs"))
        targets = self._targets()
        if len(targets) != 1:
            raise ValueError(_not_one(list(targets), _ONE_TARGET, "what it starts"))
        self._check_args()
        self._check_bounds()
        self._check_deadlines()
        things = [dependency.thing for dependency in self.after]
        for kind, name in things:
            if things.count((kind, name)) > 1:
                raise ValueError(f'"after" names {kind} "{name}" twice')
        return self

    def _check_args(self) -> None:
        if not self.args or self.job is not None:
            return
        if self.command != "cleanup":
            raise ValueError("args are handed to a job, and this starts none of yours")
        days = self.args.get("days")
        if len(self.args) > 1 or type(days) is not int or not 1 <= days <= MOST_DAYS:
            raise ValueError(f"args of cleanup are {{ days = N }}, 1 to {MOST_DAYS}")

    def _check_bounds(self) -> None:
        if self.start is None and self.end is None:
            return
        if self.at is not None:
            raise ValueError("start and end belong to cron or every: at is one moment")
        if self.starts_at is not None and self.ends_at is not None and self.ends_at < self.starts_at:
            if self.start == self.end:
                raise ValueError(f"it has no slot: there is no {self.start} in {self.timezone}, whose clock jumps over that day")
            raise ValueError("its end lies before its start")
        if self.start is not None and self.end is not None and self.parsed_rule().next_after(EPOCH) is None:
            raise ValueError("it has no slot between its start and its end")

    def _check_deadlines(self) -> None:
        if self.every is not None and self.jitter >= self.every:
            raise ValueError("its jitter must be shorter than its interval")
        for limit in ("start_within", "finish_within"):
            allowed = getattr(self, limit)
            if allowed is not None and self.jitter >= allowed:
                raise ValueError(f"its jitter must be shorter than {limit}, which counts from the slot's time")
        if self.start_within is not None and self.finish_within is not None and self.finish_within < self.start_within:
            raise ValueError("finish_within must not be shorter than start_within: both count from the slot's time")

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
    def starts_at(self) -> datetime | None:
        """The first moment at which it may have a slot."""
        return None if self.start is None else first_of(self.start, self.timezone)

    @property
    def ends_at(self) -> datetime | None:
        """The last moment at which it may have a slot."""
        return None if self.end is None else last_of(self.end, self.timezone)

    def parsed_rule(self) -> Rule:
        """Its rule within its start and end."""
        # An expression is checked once, when it is read: thousands of schedules are computed at each start.
        rule = parse_rule(self.rule, self.timezone) if self.cron is None else CronRule(self.cron, find_zone(self.timezone))
        return bound(rule, self.starts_at, self.ends_at)

    def oddities(self, now: datetime, kept: timedelta = timedelta.max) -> Iterator[str]:
        """What is allowed and hardly meant, each worded to stand behind the schedule's name.

        Args:
            kept: how long successful jobs are.
        """
        if self.enabled and (self.at is not None or self.end is not None) and self.parsed_rule().next_after(now) is None:
            yield "has no slot to come: its time is over"
        rest = self._rest(now) if self.cron is not None and self.jitter > _SHORTEST_REST else None
        if rest is not None and self.jitter > rest:
            yield (
                f"has a jitter of {format_duration(self.jitter)}, and only {format_duration(rest)} between two slots: "
                f"while a job waits its share, the next slots {_WHILE_WAITING[self.overlap]}"
            )
        for dependency in self.after:
            if dependency.on_failure != "run" and dependency.thing == (self.target.type, self.target.name):
                kind, name = dependency.thing
                yield f'waits for a success of {kind} "{name}", which it starts itself: something else must do so first'
            if dependency.job is not None and dependency.ok_within > kept:
                within, only = format_duration(dependency.ok_within), format_duration(kept)
                yield f'looks back {within} for a success of job "{dependency.job}", but [retention] history keeps jobs for {only}'

    def _rest(self, now: datetime) -> timedelta | None:
        """The shorter of the two rests between the next three slots, None where there are fewer than two."""
        ahead = list(islice(self.parsed_rule().after(now), 3))
        return min((later - sooner for sooner, later in pairwise(ahead)), default=None)

    @property
    def rule(self) -> str:
        """When, as the database keeps it and `rules.parse_rule` reads it; with another rule, zone, start or end it is another schedule."""
        if self.cron is not None:
            return f"cron {self.cron}"
        if self.every is not None:
            return every_text(self.every)
        assert self.at is not None
        return at_text(self.at, self.timezone)


def _not_one(found: Sequence[str], choices: str, purpose: str) -> str:
    if not found:
        return f"says nothing about {purpose}: give it one of {choices}"
    return f"{' and '.join(found)} exclude each other: give it one of {choices}"
