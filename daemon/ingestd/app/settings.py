"""The root of the configuration, and the checks that need more than one room."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from ingestd.admin.settings import AdminSettings
from ingestd.app.targets import no_such, unknown_names
from ingestd.app.workflows import WorkflowSettings
from ingestd.errors import ConfigurationError
from ingestd.imports.settings import ImportSettings
from ingestd.jobs.settings import QueueSettings, RetentionSettings, built_in_queues, queue_oddities, queue_problems
from ingestd.rollups.settings import RollupSettings, name_problems
from ingestd.schedule.ping_settings import HeartbeatSettings
from ingestd.schedule.settings import ScheduleSettings
from ingestd.settings import (
    ENV_PREFIX,
    ConfigPath,
    Duration,
    Layers,
    Name,
    Secret,
    Section,
    StrList,
    did_you_mean,
    examine,
    parse_duration,
    read_layers,
    split_list,
)

Duties = Annotated[list[Literal["work", "schedule", "serve"]], BeforeValidator(split_list)]
CORE_CONNECTIONS = 7  # claim and ack, enqueue, listen, heartbeat, and two spare for the moment a broken one is replaced
SERVICE_CONNECTIONS = 4
_PLACE = re.compile(r"(.+?):(\d+): ")


def default_state_dir() -> Path:
    """Where the daemon keeps its files if nobody says: systemd's folder, else root's or the user's."""
    systemd = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if systemd:
        return Path(systemd)
    if os.geteuid() == 0:
        return Path("/var/lib/ingestd")
    try:
        return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "ingestd"
    except RuntimeError:
        raise ConfigurationError(["this user has no home folder: set [daemon] state_dir (INGESTD_DAEMON__STATE_DIR)"]) from None


def _check_url(value: SecretStr) -> SecretStr:
    """Refuse what can never be a server's address; the message does not repeat it, for it may hold a password."""
    url = value.get_secret_value().strip()
    if not url:
        return SecretStr("")
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("postgresql", "postgres") and url.startswith(f"{parts.scheme}://")
        valid &= "," in parts.netloc or parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.netloc.count("@") > 1 or "@" in parts.path or parts.fragment:
        raise ValueError(
            "not a PostgreSQL URL: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with / ? # @ of a password as %2F %3F %23 %40"
        )
    return SecretStr(url)


DatabaseUrl = Annotated[Secret, AfterValidator(_check_url)]


class DaemonSettings(Section):
    """`[daemon]`"""

    state_dir: ConfigPath = Field(default_factory=default_state_dir, description="embedded Postgres, spool and files")
    environment: str = Field(default="production", max_length=40, description="shown on pages and in logs")
    handlers: StrList = Field(default_factory=list, description="modules with @job functions, importable from the working directory")
    duties: Duties = Field(default=["work", "schedule", "serve"], description="what this node does")
    queues: StrList = Field(default_factory=list, description="queues this node works on; empty: all")
    drain_timeout: Duration = Field(default=parse_duration("90s"), description="how long jobs may go on after SIGTERM")
    start_timeout: Duration = Field(default=parse_duration("60s"), description="how long to wait for Postgres at the start")
    stall_limit: Duration = Field(
        default=parse_duration("10m"),
        ge=parse_duration("5s"),
        description="a process that lives and gives no sign for so long loses its jobs",
    )
    stuck_after: Duration = Field(
        default=parse_duration("60m"), ge=parse_duration("1s"), description="a job that shows no progress for so long is stopped"
    )
    blocked_after: Duration = Field(
        default=parse_duration("1s"), ge=parse_duration("100ms"), description="an event loop silent for so long has its stack logged"
    )
    failures_in_a_row: int = Field(default=3, ge=1, le=1000, description="whatever failed so often in a row is shown as unhealthy")


class DatabaseSettings(Section):
    """`[database]`"""

    url: DatabaseUrl = Field(default=SecretStr(""), description="empty: embedded Postgres")
    direct_url: DatabaseUrl = Field(default=SecretStr(""), description="past a pooler, for LISTEN and locks")
    pool_max: int = Field(default=30, ge=14, le=1000, description="all connections of one node")
    acquire_timeout: Duration = Field(default=parse_duration("30s"), description="how long to wait for a free connection")
    max_lifetime: Duration = Field(default=parse_duration("1h"), description="an idle connection older than this is closed")


class LogSettings(Section):
    """`[logs]`"""

    level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(BaseSettings):
    """The whole configuration of one node."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, validate_default=True)

    daemon: DaemonSettings = Field(default_factory=DaemonSettings)
    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    admin: AdminSettings = Field(default_factory=AdminSettings)
    queues: dict[Name, QueueSettings] = Field(default_factory=dict)
    imports: dict[Name, ImportSettings] = Field(default_factory=dict)
    rollups: dict[Name, RollupSettings] = Field(default_factory=dict)
    schedules: dict[Name, ScheduleSettings] = Field(default_factory=dict)
    workflows: dict[Name, WorkflowSettings] = Field(default_factory=dict)
    heartbeat: HeartbeatSettings = Field(default_factory=HeartbeatSettings)
    retention: RetentionSettings = Field(default_factory=RetentionSettings)
    logs: LogSettings = Field(default_factory=LogSettings)

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_args: Any, **_kwargs: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `read_layers` merged: the stock environment source stops at the first bad value."""
        return (init_settings,)

    def all_queues(self) -> dict[str, QueueSettings]:
        """The built-in queues and the declared ones."""
        built_in = built_in_queues()
        # What is not said of a built-in queue stays as it is built in.
        return {
            **built_in,
            **{name: built_in[name].with_changes(queue) if name in built_in else queue for name, queue in self.queues.items()},
        }

    def slots(self) -> dict[str, int]:
        """Queue name -> slots of this node."""
        wanted = self.daemon.queues or list(self.all_queues())
        return {name: queue.concurrency for name, queue in self.all_queues().items() if name in wanted}

    def handler_connections(self) -> int:
        """Connections left for handlers: two a loader child are opened by those themselves."""
        loaders = 2 * self.slots().get("imports", 0)
        return max(2, min(20, self.database.pool_max - CORE_CONNECTIONS - SERVICE_CONNECTIONS - loaders))

    @property
    def drain_timeout_s(self) -> float:
        """Seconds that jobs may go on after SIGTERM."""
        return self.daemon.drain_timeout.total_seconds()


def load(files: Sequence[Path], environ: Mapping[str, str]) -> Settings:
    """Read, merge and check the configuration.

    Args:
        files: TOML files, later ones win.
        environ: the process environment.

    Raises:
        ConfigurationError: with every problem there is.
    """
    return build(read_layers(files, environ))


def build(layers: Layers) -> Settings:
    """Check merged layers.

    Raises:
        ConfigurationError: with every problem there is, in the order of the file.
    """
    settings, problems = look_at(layers)
    if settings is None or problems:
        raise ConfigurationError(problems)
    return settings


def look_at(layers: Layers) -> tuple[Settings | None, list[str]]:
    """What can be made of merged layers, without the keys and objects that have a problem; and every problem, in the order of the file."""
    settings, problems = examine(Settings, layers)
    if settings is not None:
        problems += _cross_checks(settings, layers)
    return settings, sorted(problems, key=_line_order)


def _line_order(problem: str) -> tuple[str, int]:
    place = _PLACE.match(problem)
    return (place[1], int(place[2])) if place else ("", 0)


def _cross_checks(settings: Settings, layers: Layers) -> list[str]:
    problems: list[str] = []

    def refuse(path: tuple[str, ...], message: str) -> None:
        problems.append(f"{layers.place(path)}: {message}")

    _check_queues(settings, layers, refuse)
    # An object that has a problem of its own is not in the settings, but it is there.
    known = {kind: _declared(layers, f"{kind}s") for kind in ("import", "rollup", "workflow")}
    for name, schedule in settings.schedules.items():
        for key, problem in unknown_names(name, schedule, known):
            refuse(("schedules", name, key), problem)
    for name, workflow in settings.workflows.items():
        for step_name, step in workflow.steps.items():
            runs, wanted = step.target
            if runs in known and wanted not in known[runs]:
                where = f"workflows.{name}.steps.{step_name}"
                refuse(("workflows", name, "steps", step_name, runs), no_such(runs, runs, where, wanted, known[runs]))
        for fault in workflow.faults(name, _written_steps(layers, name)):
            refuse(("workflows", name, "steps", *fault.place), fault.problem)
    for problem in name_problems(settings.rollups):
        refuse(("rollups",), problem)
    needed = CORE_CONNECTIONS + SERVICE_CONNECTIONS + 2 + 2 * settings.slots().get("imports", 0)
    if settings.database.pool_max < needed:
        refuse(("database", "pool_max"), f'"pool_max" in [database]: these queues need at least {needed} connections')
    return problems


def _check_queues(settings: Settings, layers: Layers, refuse: Callable[[tuple[str, ...], str], None]) -> None:
    queues = queue_names(settings, layers)
    for name in settings.daemon.queues:
        if name not in queues:
            refuse(("daemon", "queues"), f'"queues" in [daemon]: there is no queue "{name}"{did_you_mean(name, queues)}')
    for name, problem in queue_problems(settings.all_queues()).items():
        refuse(("queues", name, "min_concurrency"), f'"min_concurrency" in [queues.{name}]: {problem}')


def _written_steps(layers: Layers, workflow: str) -> dict[str, Any]:
    found: Any = layers.data
    for key in ("workflows", workflow, "steps"):
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def queue_names(settings: Settings, layers: Layers) -> set[str]:
    """The queues there are; one that has a problem of its own is one."""
    return set(settings.all_queues()) | _declared(layers, "queues")


def _declared(layers: Layers, section: str) -> set[str]:
    named = layers.data.get(section)
    return set(named) if isinstance(named, dict) else set()


def warnings(settings: Settings, environ: Mapping[str, str] | None = None) -> list[str]:
    """What is allowed but probably not meant.

    Args:
        environ: the process environment, searched for keys that nobody reads.
    """
    found = [f"{name} is not read: two underscores stand between section and key" for name in sorted(environ or {}) if _misspelt(name)]
    slots = sum(settings.slots().values())
    if slots > 4 * settings.handler_connections():
        shared = settings.handler_connections()
        found.append(f"{slots} job slots share {shared} handler connections: some may wait for one; raise [database] pool_max")
    found += [f"[queues.{name}] {odd}" for name, odd in queue_oddities(settings.queues).items()]
    scanned = {step.target[1] for workflow in settings.workflows.values() for step in workflow.steps.values()}
    scanned |= {schedule.target.name for schedule in settings.schedules.values() if schedule.target.type == "import"}
    for name, declared in settings.imports.items():
        if declared.poll is None and name not in scanned and declared.source != "upload":
            found.append(f'[imports.{name}] has poll = "off", and no schedule or workflow scans it: only a trigger does')
    now, kept = datetime.now(UTC), settings.retention.history
    found += [f"[schedules.{name}] {odd}" for name, one in settings.schedules.items() for odd in one.oddities(now, kept)]
    for name, workflow in settings.workflows.items():
        found += [
            f"[workflows.{name}.steps.{step}] has an undo, and no step says compensate: only a cancel with undo runs it"
            for step in workflow.idle_undos()
        ]
    if settings.daemon.drain_timeout > timedelta(hours=1):
        found.append("[daemon] drain_timeout is over an hour: a service manager will probably kill the daemon before that")
    return found


def _misspelt(variable: str) -> bool:
    section = variable.removeprefix(ENV_PREFIX).partition("_")[0].lower()
    return variable.startswith(ENV_PREFIX) and "__" not in variable and section in Settings.model_fields and variable.count("_") > 1
