"""Promise 12: a file far bigger than what may be held loads without being held."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from tests.daemon import readings
from tests.daemon.harness import Daemon, Site
from tests.faults import processes
from tests.support import eventually

FILE_BYTES = 60 << 20
MOST_BYTES = 300 << 20
ROWS = 1_000_000
NOTE = "a remark of some length that is there for its bytes"


def held(daemon: Daemon) -> int:
    """Memory of the daemon and its children, shared pages counted once, in bytes."""
    total = 0
    for pid in (daemon.pid, *processes.descendants(daemon.pid)):
        try:
            found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii"), re.MULTILINE)
        except OSError:
            continue  # it has just ended
        total += int(found[1]) << 10 if found else 0
    return total


async def test_sixty_megabytes_load_within_three_hundred(site: Site) -> None:
    site.configure(readings.IMPORT)
    daemon = await site.start()
    peak = idle = held(daemon)
    await readings.put_readings(site, "big.csv", ROWS, note=NOTE)
    assert (site.inbox / "big.csv").stat().st_size > FILE_BYTES
    loaded = asyncio.create_task(readings.all_loaded(site, "big.csv", timeout_s=120))

    def done() -> bool:
        nonlocal peak
        peak = max(peak, held(daemon))
        return loaded.done()

    await eventually(done, timeout_s=130, every_s=0.05)
    await loaded
    assert await site.ask("select count(*) from public.readings") == ROWS
    assert idle < peak < MOST_BYTES, f"{peak >> 20} MB"
    assert await daemon.stop() == 0
