"""`api`: any request to a daemon, its answer as it comes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ingestd.cli.api_errors import error_of
from ingestd.cli.daemon_here import ask_daemon
from ingestd.cli.shell import Shell, printable
from ingestd.errors import FileMissing, InvalidInput, Refused
from ingestd.settings import did_you_mean

if TYPE_CHECKING:
    from aiohttp import ClientResponse

METHODS = ("GET", "POST", "PATCH", "DELETE")
_ROOTS = ("/api/", "/health", "/metrics")


def add_to(app: typer.Typer) -> None:
    """Enter the command."""

    @app.command("api")
    def api(
        ctx: typer.Context,
        method: str = typer.Argument(..., metavar="METHOD", help=", ".join(METHODS) + "."),
        path: str = typer.Argument(..., metavar="PATH", help="Such as jobs?state=failed, short for /api/v1/jobs?state=failed."),
        data: str = typer.Option("", "--data", "-d", metavar="JSON", help="Body: a JSON object, @FILE, or @- for stdin."),
        follow: bool = typer.Option(False, "--follow", "-f", help="Of events: go on telling them as they happen."),
        idempotency_key: str = typer.Option("", "--idempotency-key", metavar="KEY", help="What is sent again with it is done once."),
    ) -> None:
        """Ask the API of a daemon, this machine's or that of --url.

        Prints what it answers. An error goes to stderr, with the exit code that a command would have.
        """
        shell: Shell = ctx.obj
        shell.run(_call(shell, _method(method), _path(path), _body(data) if data else None, _headers(follow, idempotency_key)))


def _method(text: str) -> str:
    method = text.upper()
    if method not in METHODS:
        raise InvalidInput(f'METHOD: "{text}" is none of {", ".join(METHODS)}{did_you_mean(method, METHODS)}', pointer="METHOD")
    return method


def _path(text: str) -> str:
    if any(character.isspace() or not character.isprintable() for character in text) or "#" in text or "://" in text:
        raise InvalidInput(f'PATH: "{text}" is not a path such as jobs?state=failed; encode what is not plain', pointer="PATH")
    path = f"/{text.removeprefix('/')}"
    return path if path.startswith(_ROOTS) else f"/api/v1{path}"


def _body(text: str) -> bytes:
    if text == "@-":
        raw = sys.stdin.buffer.read()
    elif text.startswith("@"):
        file = Path(text[1:])
        try:
            raw = file.read_bytes()
        except FileNotFoundError:
            raise FileMissing(f"--data: there is no file {file}") from None
        except OSError as error:
            raise Refused(f"--data: {file} cannot be read: {error.strerror}") from None
    else:
        raw = text.encode()
    try:
        json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"--data is not JSON: {error}", pointer="--data", hint='write it like --data \'{"reason": "a test"}\'') from None
    return raw


def _headers(follow: bool, key: str) -> dict[str, str]:
    return ({"Accept": "text/event-stream"} if follow else {}) | ({"Idempotency-Key": key} if key else {})


async def _call(shell: Shell, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> None:
    async with ask_daemon(shell) as api, api.open(method, path, body, headers) as answer:
        if answer.status < 300 and "json" not in answer.content_type:
            await _pass_on(answer)
            return
        document = _document(await answer.read())
        # A redirect is not followed: the token would go along.
        if answer.status >= 300 and not _is_health(document):
            if shell.json and document is not None:
                shell.answer(document)
            raise error_of(answer.status, document, str(api.address))
    indent = 2 if sys.stdout.isatty() and not shell.json else None
    text = json.dumps(document, ensure_ascii=False, indent=indent)
    # What is on a screen must not move its cursor; JSON has written control characters as escapes already.
    sys.stdout.write(("\n".join(map(printable, text.splitlines())) if indent else text) + "\n")


async def _pass_on(answer: ClientResponse) -> None:
    """Text as it comes, for as long as it comes."""
    async for chunk in answer.content.iter_any():
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


def _document(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None


def _is_health(document: Any) -> bool:
    """Red health is an answer as well, and no error."""
    return isinstance(document, dict) and "detail" not in document and "status" in document
