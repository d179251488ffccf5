"""What the documents say is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest

from ingestd import __version__

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ROUTE = re.compile(r"^\| `(\w+) (/\S*)` \| (.+?) \| (\w+) \| (.*?) ?\|$", re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_a_document_names_is_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    linked = {document.parent / link for link in re.findall(r"\]\((?!https?:)([^)#]+)", text)}
    named = {ROOT / name for name in re.findall(r"`((?:tests|docs|migrations|daemon|examples|systemd)/[\w./-]+)(?:: \w+)?`", text)}
    assert {path for path in linked | named if not path.exists()} == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_heading_that_a_document_points_to_is_there(document: Path) -> None:
    pointed = re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", document.read_text(encoding="utf-8"))
    assert [(file, place) for file, place in pointed if place not in _places(document.parent / file if file else document)] == []


def _places(document: Path) -> set[str]:
    """The headings of a document as links name them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_two_commands_are_single_lines_that_ci_finds() -> None:
    lines = README.splitlines()
    assert sum(bool(re.fullmatch(r"python3 .* && \.venv/bin/ingestd demo", line)) for line in lines) == 1
    assert sum(bool(re.fullmatch(r"python3 .* && \.venv/bin/python -m pytest", line)) for line in lines) == 1


def test_the_readme_has_all_promises() -> None:
    assert len(re.findall(r"^\| [●◐○] \|", README, re.MULTILINE)) == 12


def test_the_changelog_knows_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{__version__}]" in text or "## [Unreleased]" in text


def test_every_route_of_the_api_is_documented_as_it_is() -> None:
    from ingestd.admin.api import all_routes

    # The routes only carry these two; nothing is asked of them before a request.
    routes = all_routes(cast("Any", _Anything()), cast("Any", _Anything()))
    there = {(route.method, route.path, route.summary, route.permission, " ".join(f"`{name}`" for name in route.query)) for route in routes}
    written = set(ROUTE.findall((ROOT / "docs" / "http-api.md").read_text(encoding="utf-8")))
    assert written == there


class _Anything:
    def __getattr__(self, name: str) -> Any:
        return self
