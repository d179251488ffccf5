"""Says in one line why a user's module of handlers cannot be imported, where, and what was probably meant."""

from __future__ import annotations

import pkgutil
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from ingestd.settings import did_you_mean


def why_not_imported(name: str, error: BaseException, folders: Sequence[Path]) -> str:
    """The reason as a person needs it.

    Args:
        name: the module, as the configuration names it.
        error: what importing it raised.
        folders: where it was looked for first.
    """
    if not name.strip("."):
        return f'"{name}" is not the name of a module: write one such as "myapp.jobs"'
    missing = _missing(name, error)
    if (missing or name.startswith(".")) and (meant := _meant(name)) != name:
        return f'"{name}" is not the name of a module: write "{meant}"'
    return f'cannot import "{name}": {_not_there(missing, folders) if missing else _raised(error, folders)}'


def _missing(name: str, error: BaseException) -> str | None:
    """Which part of the module's own name there is not; None: it is there, and something else went wrong."""
    part = error.name if isinstance(error, ModuleNotFoundError) else None
    return part if part and f"{name}.".startswith(f"{part}.") else None


def _meant(name: str) -> str:
    """The module of a path or a function, as people write who have just seen the file."""
    path = name.partition(":")[0].removesuffix(".py")
    return ".".join(part for part in re.split(r"[/.]", path) if part)


def _not_there(missing: str, folders: Sequence[Path]) -> str:
    parent, _, last = missing.rpartition(".")
    inside = list(getattr(sys.modules.get(parent), "__path__", [])) if parent else [str(folder) for folder in folders]
    if near := did_you_mean(last, _modules(inside)):
        return f'there is no module "{missing}"{near}'
    if parent and not inside:
        return f'"{parent}" is a file, and has no module "{last}" in it: write "{parent}"'
    installed = "" if parent else f" and what is installed for {sys.executable}"
    return f'there is no module "{missing}"; looked in {", ".join(inside)}{installed}'


def _modules(folders: Sequence[str]) -> set[str]:
    """What could be imported from there; a plain folder is a package to Python, but not to pkgutil."""
    plain = {entry.name for folder in folders if Path(folder).is_dir() for entry in Path(folder).iterdir() if entry.is_dir()}
    return {module.name for module in pkgutil.iter_modules(folders)} | {name for name in plain if name.isidentifier()}


def _raised(error: BaseException, folders: Sequence[Path]) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg}, at {error.filename}:{error.lineno}"
    said = f"{type(error).__name__}: {error}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")][1:]
    theirs = [frame for frame in frames if any(Path(frame.filename).is_relative_to(folder) for folder in folders)]
    last = (theirs or frames)[-1:]
    return f"{said}, at {last[0].filename}:{last[0].lineno}" if last else said
