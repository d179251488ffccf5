"""Says in one line why a user's module of handlers cannot be imported, where, and what was probably meant."""

from __future__ import annotations

import pkgutil
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
    if not all(part.isidentifier() for part in name.split(".")):
        return f'"{name}" is not the name of a module{_dotted(name)}'
    if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
        return f'cannot import "{name}": {_not_there(error.name, folders)}'
    return f'cannot import "{name}": {_raised(error, folders)}'


def _dotted(name: str) -> str:
    """A path, as people write who have just seen the file."""
    dotted = ".".join(part for part in name.removesuffix(".py").split("/") if part not in ("", "."))
    return f': write "{dotted}"' if dotted != name and all(part.isidentifier() for part in dotted.split(".")) else ": write it with dots"


def _not_there(missing: str, folders: Sequence[Path]) -> str:
    parent, _, last = missing.rpartition(".")
    inside = list(getattr(sys.modules.get(parent), "__path__", [])) if parent else [str(folder) for folder in folders]
    if near := did_you_mean(last, _modules(inside)):
        return f'there is no module "{missing}"{near}'
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
