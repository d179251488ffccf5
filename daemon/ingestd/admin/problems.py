"""Every error as an RFC 9457 problem document."""

from __future__ import annotations

import http
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import orjson
from aiohttp import web

from ingestd.errors import Conflict, DatabaseUnreachable, IngestdError, InvalidInput, JobOpen, TooOften
from ingestd.postgres.outage import OUTAGE

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER_S = 2
_SLUGS = {
    400: "bad-request",
    401: "unauthorized",
    403: "refused",
    404: "not-found",
    405: "method-not-allowed",
    408: "request-timeout",
    413: "body-too-large",
    415: "unsupported-media-type",
    500: "internal-error",
    503: "unavailable",
}
_DETAILS = {
    404: "There is nothing at this address.",
    405: "This address does not answer to this method; see the Allow header.",
    408: "The request body did not arrive in time; send it again, faster.",
    413: "The request body is larger than 2 MiB.",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """What went wrong with a request, for the one who made it.

    Args:
        status: HTTP status code.
        slug: last part of the problem's type URI.
        title: the kind of problem in a few words, the same each time.
        detail: this occurrence, in one clear line.
        extra: members beyond RFC 9457's own, such as `current_state`.
        headers: response headers it comes with.
    """

    status: int
    slug: str
    title: str
    detail: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def document(self, correlation_id: str) -> dict[str, Any]:
        """The problem as RFC 9457 members."""
        return {
            "type": f"urn:ingestd:problem:{self.slug}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": f"/requests/{correlation_id}",
            "correlation_id": correlation_id,
            **self.extra,
        }

    def response(self, correlation_id: str) -> web.Response:
        """The problem as an HTTP answer."""
        return web.Response(
            status=self.status,
            body=orjson.dumps(self.document(correlation_id)),
            content_type=CONTENT_TYPE,
            headers=dict(self.headers),
        )


class Unauthorized(IngestdError):
    """The request needs a token, or brought a wrong one."""

    exit_code, http_status, slug, title = 77, 401, "unauthorized", "Unauthorized"


class InvalidBody(InvalidInput):
    """The request's body has problems.

    Args:
        problems: JSON pointer and text of each.
    """

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(text for _, text in problems), pointer=problems[0][0])
        self.problems = list(problems)


def problem_of(error: BaseException) -> Problem:
    """Word any exception for the outside; what we did not raise on purpose tells nothing about our insides."""
    if isinstance(error, web.HTTPException):
        return _of_aiohttp(error)
    if isinstance(error, asyncpg.QueryCanceledError):
        return _unreachable("Postgres took too long to answer; try again.")
    if isinstance(error, IngestdError) and not isinstance(error, DatabaseUnreachable):
        return _of_ours(error)
    if isinstance(error, (DatabaseUnreachable, *OUTAGE)):
        return _unreachable("Postgres is not reachable at the moment; the daemon keeps trying.")
    detail = "Something went wrong inside; the log has the details under this correlation id."
    return Problem(500, "internal-error", "Internal error", detail)


def _unreachable(detail: str) -> Problem:
    kind = DatabaseUnreachable
    return Problem(kind.http_status, kind.slug, kind.title, detail, headers={"Retry-After": str(RETRY_AFTER_S)})


def _of_ours(error: IngestdError) -> Problem:
    extra: dict[str, Any] = {}
    headers: dict[str, str] = {}
    message = sayable(error.message)
    if error.hint:
        extra["hint"] = sayable(error.hint)
    if isinstance(error, Conflict) and error.current_state is not None:
        extra["current_state"] = error.current_state
    if isinstance(error, JobOpen):
        extra["job_id"] = str(error.job_id)
    if isinstance(error, TooOften):
        headers["Retry-After"] = str(max(math.ceil(error.retry_after_s), 1))
    if isinstance(error, InvalidBody):
        extra["errors"] = [{"pointer": pointer, "detail": text} for pointer, text in error.problems]
    elif isinstance(error, InvalidInput) and error.pointer:
        extra["errors"] = [{"pointer": error.pointer, "detail": message}]
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="ingestd"'
    return Problem(error.http_status, error.slug, error.title, message, extra, headers)


def sayable(text: str) -> str:
    """The same text without what UTF-8 cannot say: bytes of a header that are no text are quoted by some errors."""
    return text.encode(errors="replace").decode()


def _of_aiohttp(error: web.HTTPException) -> Problem:
    phrase = http.HTTPStatus(error.status).phrase
    detail = _DETAILS.get(error.status, error.text or phrase)
    headers = {name: error.headers[name] for name in ("Allow", "Retry-After") if name in error.headers}
    return Problem(error.status, _SLUGS.get(error.status, phrase.lower().replace(" ", "-")), phrase, detail, headers=headers)
