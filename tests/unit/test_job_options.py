"""What `@job` and a spec refuse, and what they make of what they accept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest

from ingestd import Backoff, job, lifespan
from ingestd.errors import ConfigurationError
from ingestd.jobs.backoff import stored_backoff
from ingestd.jobs.decorator import parse_size
from ingestd.jobs.lifespan import lifespan_of
from ingestd.jobs.registry import HandlerSpec, Registry


async def waits(ctx: Any, supplier: str, limit: int = 5) -> None: ...


def plain(ctx: Any) -> None: ...


def test_every_option_reaches_the_spec_in_its_own_form() -> None:
    declared = job(
        "sync",
        timeout="10m",
        hard_timeout="1h",
        stuck_after=timedelta(minutes=5),
        backoff=Backoff("1s", 3, "1m", 0),
        executor="process",
        memory_limit="512MB",
        recycle_after=10,
        aliases=["old_sync"],
    )(waits).spec
    assert (declared.timeout, declared.hard_timeout, declared.stuck_after) == (
        timedelta(minutes=10),
        timedelta(hours=1),
        timedelta(minutes=5),
    )
    assert (declared.executor, declared.memory_limit, declared.recycle_after, declared.aliases) == ("process", 512 << 20, 10, ("old_sync",))
    assert declared.backoff.to_json() == {"base_s": 1.0, "factor": 3.0, "cap_s": 60.0, "jitter": 0.0}


def test_an_async_function_runs_on_the_loop_and_a_plain_one_in_a_thread() -> None:
    assert job("a")(waits).spec.executor == "async"
    assert job("b")(plain).spec.executor == "thread"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_attempts": 0}, "the first try counts"),
        ({"max_attempts": 40_000}, "1 to 32767"),
        ({"max_attempts": 2**40}, "1 to 32767"),
        ({"max_attempts": "3"}, "max_attempts of job sync must be 1 to 32767, a whole number, not '3': the first try counts"),
        ({"max_attempts": 3.0}, "a whole number, not 3.0"),
        ({"max_attempts": True}, "a whole number, not True"),
        ({"timeout": "ten"}, "not a duration"),
        ({"timeout": "0"}, "timeout of job sync must be longer than nothing"),
        ({"stuck_after": "0"}, "stuck_after of job sync"),
        ({"timeout": "1h", "hard_timeout": "1m"}, "hard_timeout of job sync must not be shorter"),
        ({"executor": "fork"}, '"async", "thread" or "process"'),
        ({"memory_limit": "512MB"}, 'needs executor="process"'),
        ({"executor": "process", "memory_limit": "1MB"}, "at least 64 MB"),
        ({"executor": "process", "memory_limit": "much"}, "not a size"),
        ({"recycle_after": 5}, 'needs executor="process"'),
        ({"executor": "process", "recycle_after": 0}, "1 or more"),
        ({"aliases": ("sync",)}, "each once"),
        ({"aliases": ("old", "old")}, "each once"),
        ({"aliases": "old"}, "aliases of job sync is a list"),
        ({"aliases": ("Old Name",)}, "not a name"),
        ({"priority": 1000}, "priority"),
        ({"backoff": {"base": "1s"}}, r"backoff of job sync must be a Backoff: backoff=Backoff\("),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_where_it_stands(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        job("sync", **options)(waits)


@pytest.mark.parametrize(
    ("function", "options", "told"),
    [
        (plain, {"executor": "async"}, "would block every other job"),
        (waits, {"executor": "thread"}, "needs a plain function"),
        (lambda: None, {}, "takes the context first"),
        (dict, {}, "a handler is a function"),
    ],
)
def test_a_function_that_cannot_be_a_handler_is_refused(function: Callable[..., Any], options: dict[str, Any], told: str) -> None:
    with pytest.raises(TypeError, match=told):
        job("sync", **options)(function)


def test_arguments_are_given_by_name() -> None:
    def positional(ctx: Any, supplier: str, /) -> None: ...

    with pytest.raises(TypeError, match="by name"):
        job("sync")(positional)


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ({"supplier": "a"}, None),
        ({"supplier": "a", "limit": 1}, None),
        ({}, "missing supplier"),
        ({"supplier": "a", "ctx": 1}, "unexpected ctx"),
        ({"supplier": "a", "": 1}, 'unexpected ""'),
        ({"suplier": "a"}, "missing supplier; unexpected suplier"),
    ],
)
def test_queued_arguments_are_compared_with_the_signature(args: dict[str, Any], problem: str | None) -> None:
    found = HandlerSpec("sync", waits).unfit(args)
    assert found == (problem and f"the queued arguments do not fit the handler: {problem}")


def test_a_handler_that_takes_anything_still_takes_no_second_context() -> None:
    def anything(ctx: Any, **args: Any) -> None: ...

    assert HandlerSpec("any", anything).unfit({"x": 1}) is None
    assert "unexpected ctx" in (HandlerSpec("any", anything).unfit({"ctx": 1}) or "")


def test_aliases_are_claimed_and_found_but_no_kinds_of_their_own() -> None:
    spec = HandlerSpec("new", waits, aliases=("old", "older"))
    registry = Registry([spec])
    assert registry.kinds() == ["new", "old", "older"]
    assert registry.get("old") is registry.get("new") is spec
    assert registry.specs() == [spec]


@pytest.mark.parametrize("other", [HandlerSpec("old", plain), HandlerSpec("other", plain, aliases=("old",)), HandlerSpec("new", plain)])
def test_no_two_handlers_answer_to_one_name(other: HandlerSpec) -> None:
    with pytest.raises(ConfigurationError, match="two handlers"):
        Registry([HandlerSpec("new", waits, aliases=("old",)), other])


@pytest.mark.parametrize(("text", "size"), [("512MB", 512 << 20), ("1.5 GiB", 3 << 29), ("64kb", 64 << 10), (100, 100)])
def test_sizes_are_counted_in_1024s(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "options", [{"base": -1}, {"factor": 0.5}, {"jitter": 2}, {"base": float("nan")}, {"cap": "soon"}, {"base": True}, {"factor": "2"}]
)
def test_a_backoff_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"backoff|duration"):
        Backoff(**options)


@pytest.mark.parametrize("row", [None, {}, {"base_s": "x"}, {"unknown": 1}, {"factor": -1}])
def test_a_stored_backoff_that_makes_no_sense_is_the_kinds(row: dict[str, Any] | None) -> None:
    kinds = Backoff("7s")
    assert stored_backoff(row, kinds) is kinds


def test_a_stored_backoff_is_read_as_it_was_written() -> None:
    assert stored_backoff(Backoff("2m", 3, "1h", 0).to_json(), Backoff()) == Backoff(120, 3, 3600, 0)


def test_a_lifespan_is_an_async_generator_without_arguments() -> None:
    async def no_generator() -> None: ...

    async def with_arguments(x: int) -> AsyncIterator[dict[str, Any]]:
        yield {}

    with pytest.raises(TypeError, match="async generator"):
        lifespan(no_generator)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="without arguments"):
        lifespan(with_arguments)  # type: ignore[arg-type]


def test_a_module_without_one_has_no_resources() -> None:
    assert lifespan_of(__name__) is None
