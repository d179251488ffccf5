"""Promise 4: a machine that vanishes without a word loses its jobs within 20 s, and changes nothing when it is back."""

from __future__ import annotations

import os
import signal
import time
from urllib.parse import urlsplit

from ingestd.postgres.place import PORT
from tests.daemon.harness import Site, open_site
from tests.faults import ledger
from tests.faults.network import OURS, THEIRS, network
from tests.promises.test_04_fast_rescue import ELSEWHERE_S, HANDLERS, SERVER_SETTLED
from tests.support import CROWDED, eventually

HELD = "select 1 from ingestd.job where id = $1 and node = $2"


async def serve_over_tcp(site: Site) -> str:
    """Have the site's own Postgres listen for the other machine; returns the URL as seen from there."""
    first = await site.start("--duties", "schedule")
    assert await first.stop() == 0
    place = site.place()
    (place.folder / "local.conf").write_text(f"listen_addresses = '{OURS}'\n", encoding="ascii")
    (place.folder / "local.conf").chmod(0o644)
    await site.start("--duties", "schedule")
    with (place.folder / "hba.conf").open("a", encoding="ascii") as rules:
        rules.write(f"host all all {THEIRS}/32 scram-sha-256\n")
    assert site.postmaster is not None
    os.kill(site.postmaster, signal.SIGHUP)
    parts = urlsplit(site.url)
    return f"postgresql://{parts.username}:{parts.password}@{OURS}:{PORT}/ingestd"


async def test_a_node_whose_link_is_cut_is_rescued_and_refused_when_it_is_back(own_site: Site) -> None:
    with network() as link:
        url = await serve_over_tcp(own_site)
        with open_site(url) as far, open_site(own_site.url) as near:
            for each in (far, near):
                each.configure(daemon=HANDLERS)
            async with near.connection() as conn:
                await ledger.open_ledger(conn)
                cut_off = await far.start("--duties", "work", inside=link.inside)
                node = await near.node_of(cut_off)
                go = near.folder / "go"
                job_id = await conn.fetchval("select ingestd.enqueue('until_file', $1)", {"path": str(go)})
                await eventually(lambda: conn.fetchval(HELD, job_id, node))
                rescuer = await near.node_of(await near.start("--duties", "work"))
                await eventually(lambda: conn.fetchval(SERVER_SETTLED), every_s=0.5)

                link.cut()
                began = time.monotonic()
                await eventually(lambda: conn.fetchval(HELD, job_id, rescuer))
                assert time.monotonic() - began < ELSEWHERE_S * CROWDED
                go.touch()
                await eventually(lambda: conn.fetchval("select state from ingestd.history where id = $1", job_id))
                link.mend()
                await eventually(lambda: cut_off.events("StaleAck"), every_s=0.2)
                await eventually(lambda: conn.fetchval("select state = 'running' from ingestd.node where id = $1", node))
                await ledger.assert_exactly_once_of(conn, [job_id])
                assert await conn.fetchval("select node from faults.ledger") == rescuer
