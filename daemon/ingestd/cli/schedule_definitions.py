"""`schedules create|edit|delete`: schedules that are not the configuration file's, by the keys of the file."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from ingestd.cli.options import ScheduleName, parse_object
from ingestd.cli.schedule_actions import Reason, check_reason
from ingestd.cli.shell import Shell
from ingestd.cli.sources.schedules import reach
from ingestd.errors import InvalidInput, UsageError
from ingestd.settings import did_you_mean

# key of a schedule -> (metavar, what the help says)
_KEYS: dict[str, tuple[str, str]] = {
    "cron": ("CRON", 'When: crontab(5), such as "0 2 * * *", or @daily.'),
    "every": ("DURATION", "When: an interval, such as 15m."),
    "at": ("TIME", "When: one moment, once."),
    "timezone": ("ZONE", "IANA name that cron, at, start and end are read in; default: UTC."),
    "job": ("KIND", "What: a job of this kind."),
    "import": ("NAME", "What: a declared import is scanned."),
    "rollup": ("NAME", "What: a rollup is refreshed."),
    "workflow": ("NAME", "What: a declared workflow is started."),
    "command": ("NAME", "What: cleanup, health or maintenance."),
    "args": ("JSON", "Arguments of the job, a JSON object."),
    "after": ("THING", "What must have succeeded first, such as 'import=NAME ok_within=12h on_failure=wait'; may be repeated."),
    "start": ("TIME", "No slot before this date or moment."),
    "end": ("TIME", "No slot after this date or moment."),
    "jitter": ("DURATION", "Each job waits a share of this."),
    "overlap": ("WORD", "While its last job is open: skip, queue or allow."),
    "catch_up": ("WORD", "Slots missed while nothing ran: none, latest or all."),
    "max_catch_up": ("N", 'How many of them "all" runs.'),
    "start_within": ("DURATION", "A slot found later than that is missed."),
    "finish_within": ("DURATION", "Its job should have ended so long after the slot."),
    "target_runtime": ("DURATION", "A job that runs longer is told of as slow."),
    "priority": ("PRIORITY", "low, normal, high or -100..100."),
    "tags": ("TAGS", "Put on every job, with commas between them."),
}  # fmt: skip
_SEVERAL = ("after",)


def add_to(schedules: typer.Typer) -> None:
    """Enter the commands."""

    @schedules.command()
    @keyed
    def create(ctx: typer.Context, name: ScheduleName, keys: dict[str, Any]) -> None:
        """Put a new schedule in service, with keys as in the file."""
        shell: Shell = ctx.obj
        shell.run(_create(shell, name, keys))

    @schedules.command()
    @keyed
    def edit(
        ctx: typer.Context,
        name: ScheduleName,
        keys: dict[str, Any],
        unset: Annotated[list[str] | None, typer.Option("--unset", metavar="KEY", help="Take this key away; may be repeated.")] = None,
    ) -> None:
        """Change keys of a schedule that is not the file's."""
        shell: Shell = ctx.obj
        shell.run(_edit(shell, name, keys | _unset(unset or [], keys)))

    @schedules.command()
    def delete(ctx: typer.Context, name: ScheduleName, reason: Reason = "") -> None:
        """Take a schedule out of service that is not the file's."""
        shell: Shell = ctx.obj
        shell.run(_delete(shell, name, check_reason(reason)))


def keyed(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command an option for each key of a schedule; it gets those that were given as one argument, `keys`."""
    own = [parameter for parameter in inspect.signature(command, eval_str=True).parameters.values() if parameter.name != "keys"]
    options = [
        inspect.Parameter(
            f"key_{key}",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                list[str] | None if key in _SEVERAL else str | None, typer.Option(_option(key), metavar=shown, help=words)
            ],
        )
        for key, (shown, words) in _KEYS.items()
    ]
    enabled = inspect.Parameter(
        "key_enabled",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[bool | None, typer.Option("--enabled/--disabled", help="Whether it has slots at all.")],
    )

    def call(**given: Any) -> Any:
        values = {name.removeprefix("key_"): given.pop(name) for name in list(given) if name.startswith("key_")}
        return command(**given, keys=_read({key: value for key, value in values.items() if value is not None and value != []}))

    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + [*options, enabled]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # a function takes it, and typer reads it
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    call.__name__, call.__doc__ = command.__name__, command.__doc__
    return call


def _option(key: str) -> str:
    return "--" + key.replace("_", "-")


def _read(given: dict[str, Any]) -> dict[str, Any]:
    """Texts as they are, for the schedule reads them; what has a shape of its own is read here."""
    keys = dict(given)
    if "args" in keys:
        keys["args"] = parse_object("--args", keys["args"], '{"supplier": "acme"}')
    if "after" in keys:
        keys["after"] = [_dependency(text) for text in keys["after"]]
    return keys


def _dependency(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in text.replace(",", " ").split():
        key, equals, value = word.partition("=")
        if not equals or not key or key in found:
            raise InvalidInput(
                f'--after: "{word}" is not KEY=VALUE' if not equals or not key else f'--after: "{key}" is given twice',
                pointer="--after",
                hint="write it like --after 'import=products ok_within=12h on_failure=wait'",
            )
        found[key] = value
    return found


def _unset(names: list[str], keys: dict[str, Any]) -> dict[str, None]:
    gone: dict[str, None] = {}
    for name in names:
        key = name.removeprefix("--").replace("-", "_")
        known = [*_KEYS, "enabled"]
        if key not in known:
            raise InvalidInput(f'--unset: a schedule has no key "{name}"{did_you_mean(key, known)}', pointer="--unset")
        if key in keys:
            raise InvalidInput(f'--unset: "{name}" is given a value as well', pointer="--unset")
        gone[key] = None
    return gone


async def _create(shell: Shell, name: str, keys: dict[str, Any]) -> None:
    async with reach(shell) as source:
        await source.create(name, keys)
    shell.answer({"name": name, "created": True}, f"{name} is in service")


async def _edit(shell: Shell, name: str, keys: dict[str, Any]) -> None:
    if not keys:
        raise UsageError("say what to change", hint="such as --every 30m, or --unset start_within")
    async with reach(shell) as source:
        changed = await source.edit(name, keys)
    shell.answer({"name": name, "changed": changed}, f"{name} is changed" if changed else f"{name} is like that already")


async def _delete(shell: Shell, name: str, reason: str | None) -> None:
    async with reach(shell) as source:
        await source.delete(name, reason)
    shell.answer({"name": name, "deleted": True}, f"{name} is deleted; its slots stay")
