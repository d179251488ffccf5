"""What people do to nodes: an effect and its audit row in one transaction."""

from __future__ import annotations

from typing import Any

import asyncpg

from ingestd.access.roles import Actor
from ingestd.access.store import record_audit
from ingestd.errors import Conflict, NotFound
from ingestd.jobs.store import nodes
from ingestd.settings import did_you_mean

LIVE = ("starting", "running", "draining")


async def drain_node(conn: asyncpg.Connection, actor: Actor, which: str) -> dict[str, Any]:
    """Ask a node to drain as by SIGTERM: it claims nothing more, lets its jobs finish, and its process ends with exit code 0.

    The node looks once a second. Asking twice changes nothing.

    Args:
        which: its id, the beginning of it (4 characters or more), or its name.

    Returns:
        `id`, `name`, and whether it was `asked` just now.

    Raises:
        NotFound: there is no such node.
        Conflict: several nodes could be meant, or it does not run any more.
    """
    async with conn.transaction():
        node = await _find(conn, which)
        asked = await nodes.ask_drain(conn, node["id"], actor.name)
        if asked:
            await record_audit(conn, actor, "drain", "node", str(node["id"]), {"name": node["name"]})
    return {"id": node["id"], "name": node["name"], "asked": asked}


async def _find(conn: asyncpg.Connection, which: str) -> asyncpg.Record:
    found = await nodes.find_nodes(conn, which) if which else []
    live = [row for row in found if row["state"] in LIVE]
    if len(live) == 1:
        return live[0]
    if live:
        ids = ", ".join(str(row["id"]) for row in live[:5])
        raise Conflict(f'"{which}" may be one of {len(live)} nodes: {ids}', hint="name one by its id", current_state="running")
    if found:
        raise Conflict(f"node {found[0]['name']} is {found[0]['state']}: there is nothing to drain", current_state=found[0]["state"])
    known = await nodes.live_names(conn)
    raise NotFound(f'there is no node "{which}"{did_you_mean(which, known)}', hint="`ingestd nodes list` shows them")
