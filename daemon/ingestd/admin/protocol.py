"""What is said to those whose bytes are no request: a problem document like any other answer, with the same headers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from ingestd.admin.problems import Problem, problem_of
from ingestd.cause import correlation_from

Explain = Callable[[Problem, str, BaseException | None], web.Response]

_BROKEN = "Something went wrong inside; the log has the details under this correlation id."
_TOO_LONG = "a line of the request is longer than 8 KiB"
_TOO_MANY = "Too many headers received"
_LONGEST = 100
_TLS_RECORD = "Received HTTPS traffic on an HTTP port"


class Protocol(web.RequestHandler):
    """One connection.

    Args:
        server: aiohttp's, which serves requests.
        explain: makes the answer to what is none, and tells what broke.
    """

    __slots__ = ("_explain",)

    def __init__(self, server: web.Server, explain: Explain, **how: Any) -> None:
        super().__init__(server, **how)
        self._explain = explain

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The answer to bytes that are no HTTP, or to a request that broke what surrounds every request; the connection ends with it.

        Raises:
            ConnectionError: part of an answer is on its way already.
        """
        if request.writer.output_size > 0:
            raise ConnectionError("part of the answer is sent")
        problem = _broken() if status >= 500 else not_http(exc, message or "")
        response = self._explain(problem, correlation_from(None), exc if status >= 500 else None)
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer; one that aiohttp gave before anything of ours was asked is worded anew."""
        if isinstance(resp, web.HTTPException) and resp.status >= 400 and not resp.prepared and "X-Correlation-ID" not in resp.headers:
            resp = self._explain(problem_of(resp), correlation_from(None), None)
            resp.force_close()
        return await super().finish_response(request, resp, start_time)


def not_http(error: BaseException | None, message: str) -> Problem:
    """What is wrong with bytes that are no request, without what they were.

    Args:
        error: the parser's.
        message: its words: the reason, then an empty line and a quotation.
    """
    if isinstance(error, LineTooLong):
        return _too_large(_TOO_LONG)
    reason = " ".join(message.partition("\n\n")[0].split()).strip(":. ")
    if reason == _TOO_MANY:
        return _too_large("the request has more than 128 header lines")
    if reason == _TLS_RECORD:
        return _bad("this port speaks plain HTTP: write http://, or set [admin] tls_cert and tls_key")
    # What quotes the request without an empty line before it says no more than that it is none.
    told = bool(reason) and reason.isprintable() and len(reason) < _LONGEST
    return _bad(f"this is no HTTP request: {reason}" if told else "this is no HTTP request")


def _bad(detail: str) -> Problem:
    return Problem(400, "bad-request", "Bad request", detail, headers={"Connection": "close"})


def _too_large(detail: str) -> Problem:
    return Problem(431, "header-too-large", "Request header fields too large", detail, headers={"Connection": "close"})


def _broken() -> Problem:
    return Problem(500, "internal-error", "Internal error", _BROKEN, headers={"Connection": "close"})
