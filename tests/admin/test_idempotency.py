"""A request sent twice is done once and answered alike, whoever sends it how often at the same moment."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from tests.admin.conftest import TOKEN, Open, Site

JOB = {"kind": "sync_prices", "args": {"supplier": "acme"}}


async def send(site: Site, key: str, body: Any = JOB, path: str = "/api/v1/jobs", **headers: str) -> tuple[int, Any, Any]:
    async with site.request("POST", path, json=body, headers={"Idempotency-Key": key, **headers}) as response:
        return response.status, await response.json(content_type=None), response.headers


async def jobs(conn: asyncpg.Connection) -> int:
    count: int = await conn.fetchval("select count(*) from ingestd.job")
    return count


async def test_fifty_at_once_with_one_key_make_one_job(open_site: Open, conn: asyncpg.Connection) -> None:
    nodes = [await open_site(), await open_site()]
    answers = await asyncio.gather(*[send(nodes[i % 2], "one") for i in range(50)])
    assert {status for status, _, _ in answers} == {201}
    assert len({body["id"] for _, body, _ in answers}) == 1
    assert len({str(body) for _, body, _ in answers}) == 1
    assert sum("Idempotent-Replayed" not in headers for _, _, headers in answers) == 1
    assert {headers["Location"] for _, _, headers in answers} == {f"/api/v1/jobs/{answers[0][1]['id']}"}
    assert await jobs(conn) == 1
    assert await conn.fetchval("select count(*) from ingestd.audit") == 1


async def test_the_same_key_with_another_request_is_refused(site: Site, conn: asyncpg.Connection) -> None:
    await send(site, "k")
    status, problem, _ = await send(site, "k", {"kind": "load"})
    assert (status, problem["errors"][0]["pointer"]) == (422, "Idempotency-Key")
    status, problem, _ = await send(site, "k", {}, "/api/v1/schedules/x/trigger")
    assert status == 422
    assert await jobs(conn) == 1


async def test_another_key_and_another_person_are_another_request(open_site: Open, conn: asyncpg.Connection) -> None:
    await send(await open_site(), "k")
    await send(await open_site(token=TOKEN), "k", Authorization=f"Bearer {TOKEN}")
    await send(await open_site(), "other")
    assert await jobs(conn) == 3


async def test_what_was_refused_may_be_sent_again(site: Site, conn: asyncpg.Connection) -> None:
    status, problem, _ = await send(site, "k", {"kind": "nobody_knows_it"})
    assert status in (404, 422), problem
    assert await conn.fetchval("select count(*) from ingestd.idempotency") == 0
    status, _, headers = await send(site, "k")
    assert (status, "Idempotent-Replayed" in headers) == (201, False)


async def test_there_is_no_effect_without_its_answer(site: Site, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever happens between the two, the transaction has both or none."""

    async def crash(*_: Any) -> None:
        raise OSError("the power is gone")

    with monkeypatch.context() as crashing:
        crashing.setattr("ingestd.admin.idempotency.keep_answer", crash)
        assert (await send(site, "k"))[0] in (500, 503)
    assert await jobs(conn) == 0
    status, _, headers = await send(site, "k")
    assert (status, "Idempotent-Replayed" in headers, await jobs(conn)) == (201, False, 1)


async def test_a_key_whose_day_is_over_is_a_new_one(site: Site, conn: asyncpg.Connection) -> None:
    await send(site, "k")
    await conn.execute("update ingestd.idempotency set created_at = now() - interval '25 hours'")
    status, _, headers = await send(site, "k", JOB | {"priority": 5})
    assert (status, "Idempotent-Replayed" in headers) == (201, False)
    assert await jobs(conn) == 2


async def test_a_look_with_a_key_does_not_wait_for_itself(site: Site) -> None:
    """What only reads within the transaction of its key must not ask for a second connection."""
    asked = {"action": "cancel", "filter": {"kind": "sync_prices"}, "preview": True}
    answers = await asyncio.wait_for(asyncio.gather(*[send(site, f"k{i}", asked, "/api/v1/bulk") for i in range(12)]), 30)
    assert {status for status, _, _ in answers} == {200}


async def test_a_request_under_way_elsewhere_is_a_conflict_in_the_end(
    site: Site, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingestd.admin.idempotency.WAIT_MS", 50)
    await send(site, "mine")
    principal = await conn.fetchval("select principal from ingestd.idempotency")
    async with conn.transaction():
        await conn.execute("insert into ingestd.idempotency (principal, key, fingerprint) values ($1, 'k', '')", principal)
        status, problem, _ = await send(site, "k")
        assert (status, problem["current_state"]) == (409, "running")


@pytest.mark.parametrize("key", ["", "a" * 256, "caf\u00e9"])
async def test_a_key_that_makes_no_sense_is_refused(site: Site, conn: asyncpg.Connection, key: str) -> None:
    status, problem, _ = await send(site, key)
    assert (status, "Idempotency-Key" in problem["detail"]) == (400, True)
    assert await jobs(conn) == 0


async def test_a_key_may_stand_in_quotes(site: Site) -> None:
    (_, one, _), (_, two, _) = await send(site, '"k"'), await send(site, "k")
    assert one == two


async def test_an_answer_that_holds_a_secret_is_never_kept(open_site: Open, conn: asyncpg.Connection) -> None:
    site = await open_site(token=TOKEN)
    asked = {"name": "ci", "role": "viewer"}
    status, problem, _ = await send(site, "k", asked, "/api/v1/tokens", Authorization=f"Bearer {TOKEN}")
    assert (status, "takes no Idempotency-Key" in problem["detail"]) == (400, True)
    assert await conn.fetchval("select count(*) from ingestd.token") == 0
