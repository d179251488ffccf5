"""Configurations that documents show are valid, and the commands and options that they name are there."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.cli.kit import Cli

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("coming-from", "handlers", "queues", "workflows"))]
EXAMPLES = [
    pytest.param(text, id=f"{document.stem}-{number}")
    for document in DOCUMENTS
    for number, text in enumerate(re.findall(r"^```toml\n(.*?)^```", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
    if text.startswith(("[", "#"))  # a line alone is a part of one
]

# In a block, or in the middle of a sentence; words in brackets and dots stand for something.
COMMAND = re.compile(r"^(?:\$ |\* \* \* \* \*  )?ingestd (.+)$|`ingestd ([^`]+)`", re.MULTILINE)


def commands() -> set[str]:
    """Every command in any document, without what stands behind it."""
    found = [one for path in ROOT.glob("**/*.md") if ".venv" not in path.parts for one in COMMAND.findall(path.read_text(encoding="utf-8"))]
    plain = {re.split(r" \\?\||  +#", in_block or inline)[0].replace("…", "").rstrip("\\ ") for in_block, inline in found}
    return {words for words in plain if not re.search(r"[\[<]|^is |\bpsql\b|^--help", words)}


@pytest.mark.parametrize("words", sorted(commands()))
def test_a_command_in_a_document_is_one_with_these_options(bare: Cli, words: str) -> None:
    ran = bare(*shlex.split(words), "--help")
    assert (ran.code, ran.err) == (0, "")


@pytest.mark.parametrize("text", EXAMPLES)
def test_a_configuration_in_a_document_is_valid(bare: Cli, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bare.folder)
    bare.configure(text)
    modules = re.findall(r'"([\w.]+)"', " ".join(re.findall(r"^handlers = \[(.*)\]", text, re.MULTILINE)))
    for module in modules:
        file = bare.folder.joinpath(*module.split(".")).with_suffix(".py")
        file.parent.mkdir(exist_ok=True)
        file.write_text(_declaring(set(re.findall(r'job = "(\w+)"', text)) or {"any"}))
    try:
        ran = bare("check")
    finally:
        for module in modules:
            sys.modules.pop(module, None)
            sys.modules.pop(module.partition(".")[0], None)
    assert ran.code == 0, ran.err
    if modules:
        assert ran.err == ""


def _declaring(kinds: set[str]) -> str:
    return "from ingestd import job\n" + "".join(f'@job("{kind}")\nasync def {kind}(ctx, **args): ...\n' for kind in sorted(kinds))
