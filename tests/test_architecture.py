"""The house keeps its shape: floors, rooms, where SQL and web code stand, how long a module gets."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "daemon" / "ingestd"
MOST_LINES = 400

# From the ground up. A room may import the rooms of the floors under its own, and nothing beside it.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset(
        {
            "children",
            "service",
            "events",
            "facts",
            "errors",
            "settings",
            "logging",
            "lines",
            "journal",
            "log_stream",
            "redaction",
            "cause",
            "notify",
        }
    ),
    frozenset({"postgres"}),
    frozenset({"access"}),
    frozenset({"jobs"}),
    frozenset({"work"}),
    frozenset({"files"}),
    frozenset({"imports", "rollups", "schedule", "logs", "health"}),
    frozenset({"alerts"}),
    frozenset({"admin"}),
    frozenset({"app"}),
    frozenset({"cli", "testing"}),  # testing is for users' tests; nothing of ours but our tests imports it
    frozenset({"__main__"}),
)
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}
GROUND = FLOORS[0]
# The demo, the service installer and the lab tools belong to the command line and are used by nothing else.
CLI_PARTS = frozenset({"demo", "operate", "lab"})
LOADER_ONLY = frozenset({"pyarrow", "pgpq"})
ADMIN_ONLY = frozenset({"aiohttp.web", "jinja2"})
COMMAND_LINE_ONLY = frozenset({"typer", "rich"})

SQL = re.compile(
    r"""\s*(
        select\s | insert\s+into\s | update\s+\S+\s+(as\s+\w+\s+|\w+\s+)?set\s | delete\s+from\s | merge\s+into\s
      | with\s+(recursive\s+)?\w+\s*(\([^)]*\)\s*)?as\s | truncate\s | copy\s+\S+.*\s(from|to)\s
      | (create|drop|alter)\s+(or\s+replace\s+|unique\s+|unlogged\s+|temp\s+)?
        (table|index|view|materialized|function|schema|database|trigger|type|role|sequence)\b
      | set\s+(local|session|role)\s | lock\s+table\s | (listen|notify|unlisten|analyze|vacuum|discard)\s+["\w]+\s*$
      | begin\s*;?$ | commit\s*;?$ | rollback\s*;?$ | reset\s+\w+\s*$
    )""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
# English that begins like a statement: the next words tell it from SQL.
PROSE = re.compile(
    r"\s*(select|copy|set|with|truncate)\s+(a|an|the|one|all|your|it|of|to|this|these)\s+(?!as\b)\w+(?!.*\bfrom\b)", re.IGNORECASE
)


@dataclass(frozen=True)
class Module:
    """One module of the package."""

    path: Path

    @property
    def name(self) -> str:
        parts = self.path.relative_to(PACKAGE).with_suffix("").parts
        return ".".join(("ingestd", *(part for part in parts if part != "__init__")))

    @property
    def room(self) -> str:
        """Its room, or its own name on the ground floor; the package's `__init__` has none."""
        parts = self.name.split(".")
        first = parts[1] if len(parts) > 1 else ""
        return "cli" if first in CLI_PARTS else first

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, str(self.path))

    def imports(self) -> Iterator[tuple[str, int]]:
        """Every name imported anywhere in it, inside functions and for type checkers too, and the line."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((alias.name, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.name}:{node.lineno}: relative import"
                base = node.module or ""
                yield base, node.lineno
                yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)

    def strings(self) -> Iterator[tuple[str, int]]:
        """Every string in it that is not a docstring, and the line; the first piece of one with holes in it."""
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        skipped = set()
        for node in ast.walk(self.tree):
            if isinstance(node, documented) and ast.get_docstring(node) is not None:
                skipped.add(id(node.body[0].value))  # type: ignore[attr-defined]
            elif isinstance(node, ast.JoinedStr):
                skipped |= {id(piece) for piece in node.values[1:]}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Constant) and id(node) not in skipped:
                if isinstance(node.value, str):
                    yield node.value, node.lineno
                elif isinstance(node.value, bytes):
                    yield node.value.decode("latin-1"), node.lineno


MODULES = [Module(path) for path in sorted(PACKAGE.rglob("*.py"))]
ROOMS = sorted({path.parent.name for path in PACKAGE.glob("*/__init__.py")})


def test_every_module_stands_on_a_floor() -> None:
    strangers = {module.name for module in MODULES if module.room and module.room not in FLOOR_OF}
    assert strangers == set()


def test_imports_point_down_and_rooms_of_one_floor_never_meet() -> None:
    wrong = []
    for module in MODULES:
        if not module.room:  # the public names, which `__init__` loads lazily
            continue
        for name, line in module.imports():
            target = name.split(".")[1] if name.startswith("ingestd.") else ""
            target = "cli" if target in CLI_PARTS else target
            if target not in FLOOR_OF or target == module.room:
                continue
            if module.room in GROUND and target in GROUND:
                continue
            if FLOOR_OF[target] >= FLOOR_OF[module.room]:
                wrong.append(f"{module.name}:{line} imports {name}")
    assert wrong == []


def test_importing_the_package_imports_no_room() -> None:
    loaded = modules_after("import ingestd")
    assert {name for name in loaded if name.startswith("ingestd")} == {"ingestd"}


def stores_sql(module: Module) -> bool:
    parts = module.path.relative_to(PACKAGE).parts
    return parts[0] == "postgres" or "store" in parts or module.path.name in ("store.py", "sql.py")


def test_sql_stands_only_in_stores_generators_and_postgres() -> None:
    wrong = [
        f"{module.name}:{line}: {text.strip()[:60]}"
        for module in MODULES
        if not stores_sql(module)
        for text, line in module.strings()
        if SQL.match(text) and not PROSE.match(text)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "statement", ["select 1", "set local jit = off", "with a as (select 1) select", " Insert into x values", "listen jobs"]
)
def test_the_search_for_sql_finds_sql(statement: str) -> None:
    assert SQL.match(statement)
    assert not PROSE.match(statement)


@pytest.mark.parametrize(
    "prose", ["select one of the jobs", "updated 3 rows", "copy the file", "begin with a letter", "with 3 rejects as reported"]
)
def test_the_search_for_sql_leaves_english_alone(prose: str) -> None:
    assert not SQL.match(prose) or PROSE.match(prose)


def test_no_pattern_repeats_a_group_possessively() -> None:
    """Python 3.11 before 3.11.5, which Debian 12 has, matches `(…)*+` wrongly; an atomic group `(?>(…)*)` is the same and right."""
    wrong = [f"{module.name}:{line}: {text[:60]}" for module in MODULES for text, line in module.strings() if re.search(r"\)[*+?]\+", text)]
    assert wrong == []


def test_no_module_grows_past_what_one_reads_in_one_go() -> None:
    long = {module.name: lines for module in MODULES if (lines := module.text.count("\n")) > MOST_LINES}
    assert long == {}


def test_every_module_says_what_it_is_for() -> None:
    silent = [module.name for module in MODULES if module.text.strip() and ast.get_docstring(module.tree) is None]
    assert silent == []


@pytest.mark.parametrize(("room", "libraries"), [("admin", ADMIN_ONLY), ("cli", COMMAND_LINE_ONLY)])
def test_a_library_of_one_room_is_imported_nowhere_else(room: str, libraries: frozenset[str]) -> None:
    wrong = [
        f"{module.name}:{line} imports {name}"
        for module in MODULES
        if module.room not in (room, "__main__")
        for name, line in module.imports()
        if any(name == library or name.startswith(f"{library}.") for library in libraries)
    ]
    assert wrong == []


@pytest.mark.parametrize("entrance", ["ingestd.app.app", "ingestd.__main__"])
def test_the_daemon_never_loads_what_only_the_loader_child_needs(entrance: str) -> None:
    if importlib.util.find_spec(entrance) is None:
        pytest.skip(f"{entrance} is not there yet")
    assert modules_after(f"import {entrance}") & LOADER_ONLY == set()


def test_only_generic_names_are_avoided() -> None:
    """A name that would fit any module says nothing about this one."""
    empty = {"common", "helpers", "manager", "misc", "util", "utils"}
    assert [module.name for module in MODULES if module.path.stem in empty or module.path.parent.name in empty] == []


@pytest.mark.parametrize(
    "module", [module for module in MODULES if stores_sql(module) and module.room not in ("postgres", "")], ids=lambda m: m.name
)
def test_a_store_takes_the_connection_first(module: Module) -> None:
    """The caller owns the transaction."""
    for function in (node for node in module.tree.body if isinstance(node, ast.AsyncFunctionDef)):
        names = [argument.arg for argument in function.args.args]
        assert names[:1] == ["conn"], f"{module.name}.{function.name}({', '.join(names)})"


ROOM_MODULES = {"facts": ("facts", "RoomFacts"), "handlers": ("handlers", "list[HandlerSpec]")}


@pytest.mark.parametrize(
    "module", [module for module in MODULES if module.path.stem in ROOM_MODULES and module.room not in GROUND], ids=lambda m: m.name
)
def test_a_room_offers_what_it_knows_and_runs_under_the_same_names(module: Module) -> None:
    name, answer = ROOM_MODULES[module.path.stem]
    found = {node.name: node for node in module.tree.body if isinstance(node, ast.FunctionDef)}
    assert name in found, f"{module.name} has no function {name}()"
    assert found[name].returns is not None
    assert ast.unparse(found[name].returns) == answer  # type: ignore[arg-type]


@pytest.mark.parametrize("module", [module for module in MODULES if module.path.name == "actions.py"], ids=lambda m: m.name)
def test_every_verb_of_a_room_knows_who_asks(module: Module) -> None:
    """An action leaves an audit row, and that names its actor."""
    for function in (node for node in module.tree.body if isinstance(node, ast.AsyncFunctionDef)):
        if not function.name.startswith("_"):
            assert "actor" in [argument.arg for argument in function.args.args], f"{module.name}.{function.name}"


def test_settings_of_a_room_are_sections() -> None:
    """A key that nobody knows must be a problem everywhere, and `Section` makes it one."""
    from pydantic import BaseModel

    from ingestd.settings import Section

    loose = []
    for room in ROOMS:
        if not (PACKAGE / room / "settings.py").exists() or room == "app":
            continue
        module = importlib.import_module(f"ingestd.{room}.settings")
        for name, found in inspect.getmembers(module, inspect.isclass):
            if found.__module__ == module.__name__ and issubclass(found, BaseModel) and not issubclass(found, Section):
                loose.append(f"{room}.{name}")
    assert loose == []


def modules_after(statement: str) -> set[str]:
    """Names of the modules that a fresh interpreter has loaded after a statement."""
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}\nimport sys\nprint(*sys.modules)"], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())
