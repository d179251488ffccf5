"""The user's handlers beside those that ingestd brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from ingestd.app import handlers as composed
from ingestd.errors import ConfigurationError
from ingestd.imports import handlers as of_imports
from ingestd.jobs import handlers as of_jobs
from ingestd.jobs.registry import HandlerSpec
from ingestd.rollups import handlers as of_rollups
from ingestd.work.context import Context

NOTHING = cast("Any", None)


async def run(ctx: Context) -> None: ...


def test_the_names_that_are_taken_are_those_of_our_own_kinds() -> None:
    ours = [
        *of_imports.handlers(NOTHING, NOTHING, NOTHING, NOTHING),
        *of_rollups.handlers(),
        *of_jobs.handlers(),
        *composed.handlers(NOTHING, NOTHING, NOTHING, []),
    ]
    assert {spec.kind for spec in ours} == composed.BUILT_IN


def test_a_kind_with_a_name_of_ours_is_refused_by_its_name_or_an_alias(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shadows.py").write_text(
        """
from ingestd import job
@job("cleanup")
async def one(ctx): ...
@job("mine", aliases=["import"])
async def two(ctx): ...
""",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigurationError) as refused:
        composed.user_handlers(["shadows"], [tmp_path])
    assert [problem.split('"')[3] for problem in refused.value.problems] == ["cleanup", "import"]


def test_a_kind_whose_queue_is_not_declared_is_told_with_the_nearest_one() -> None:
    specs = [HandlerSpec("mail", run, queue="mials"), HandlerSpec("other", run)]
    (told,) = composed.homeless(specs, ["default", "mails"])
    assert 'the kind "mail" is declared with queue="mials"' in told
    assert 'did you mean "mails"?' in told
