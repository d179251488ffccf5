"""Promise 11 door by door: what each role may is what the registry says, and a page of another site may nothing.

All is generated from the registry of routes: one that is entered tomorrow is asked tomorrow.
"""

from __future__ import annotations

from collections.abc import Mapping

import asyncpg
import pytest

from ingestd.admin.routes import Route
from tests.admin.conftest import Open, Site, open_site
from tests.promises.doors import digest, doors, everything, filled
from tests.tokens import bearer, tokens_of_each_role

__all__ = ["open_site"]

# Told here once more on purpose: a role that gains a permission must be meant to.
MAY: dict[str, set[str]] = {
    "nobody": {"public"},
    "viewer": {"public", "read"},
    "operator": {"public", "read", "operate"},
    "admin": {"public", "read", "operate", "administer"},
    "expired": {"public"},
    "revoked": {"public"},
}
REFUSED = {401, 403}
OURS: list[dict[str, str]] = [{}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {"Origin": "{own}"}]
FOREIGN: list[dict[str, str]] = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "{own}"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Cookie": "session=1"},
    {"Host": "evil.example"},
]


async def ask(site: Site, route: Route, headers: Mapping[str, str]) -> int:
    """Status of a request to a door; what is behind it does not exist."""
    # As soon as the head is there: a stream of events has no end.
    async with site.request(route.method, filled(route.path), headers={"Accept": "application/json", **headers}) as response:
        assert response.status < 500, (route.method, route.path, headers, await response.text())
        if response.status == 401:
            assert response.headers["WWW-Authenticate"].startswith("Bearer")
        return int(response.status)


@pytest.mark.parametrize("behind_proxy", [True, False], ids=["behind a proxy", "on loopback"])
async def test_each_role_may_what_the_registry_says_and_nothing_else(open_site: Open, conn: asyncpg.Connection, behind_proxy: bool) -> None:
    tokens = await tokens_of_each_role(conn)
    site = await everything(open_site, behind_proxy=behind_proxy)
    routes = doors(site)
    headers = {role: bearer(tokens[role]) if role in tokens else {} for role in MAY}
    # On loopback whoever is on this machine may look, and once there are tokens, not act.
    like = {role: role if behind_proxy or role != "nobody" else "viewer" for role in MAY}
    refused = [(route, role) for role in MAY for route in routes if route.permission not in MAY[like[role]]]
    allowed = [(route, role) for role in MAY for route in routes if route.permission in MAY[like[role]]]
    assert len(refused) > len(routes)

    before = await digest(conn)
    for route, role in refused:
        status = await ask(site, route, headers[role])
        assert status == (403 if role in ("viewer", "operator") else 401), (role, route.method, route.path, route.permission)
    assert await digest(conn) == before, "who was refused has changed something"
    for route, role in allowed:
        assert await ask(site, route, headers[role]) not in REFUSED, (role, route.method, route.path, route.permission)


async def test_a_page_of_another_site_may_act_nowhere_whoever_sits_before_it(open_site: Open, conn: asyncpg.Connection) -> None:
    tokens = await tokens_of_each_role(conn)
    site = await everything(open_site)
    acting = [route for route in doors(site) if route.method != "GET"]
    before = await digest(conn)
    for foreign in FOREIGN:
        for route in acting:
            assert await ask(site, route, bearer(tokens["admin"]) | said(site, foreign)) == 403, (route.method, route.path, foreign)
    assert await digest(conn) == before
    for ours in OURS:
        for route in acting:
            assert await ask(site, route, bearer(tokens["admin"]) | said(site, ours)) not in REFUSED, (route.method, route.path, ours)


async def test_a_script_of_another_site_may_read_nowhere(open_site: Open) -> None:
    site = await everything(open_site)
    for route in doors(site):
        if route.method == "GET":
            for mode in ("cors", "no-cors", "same-origin", "websocket", ""):
                headers = {"Sec-Fetch-Site": "cross-site"} | ({"Sec-Fetch-Mode": mode} if mode else {})
                assert await ask(site, route, headers) == 403, (route.path, headers)


async def test_without_tokens_the_daemons_own_user_acts_and_nobody_administers(open_site: Open) -> None:
    site = await everything(open_site)
    for route in doors(site):
        status = await ask(site, route, {})
        assert (status in REFUSED) == (route.permission == "administer"), (route.method, route.path, status)


def said(site: Site, headers: Mapping[str, str]) -> dict[str, str]:
    """Headers with our own address filled in."""
    return {name: value.format(own=site.url) for name, value in headers.items()}
