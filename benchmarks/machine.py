"""What the numbers were measured on, in one line, so that nobody quotes them without it."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

BUSY = 0.3


def machine() -> dict[str, str]:
    """The facts."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": f"{os.cpu_count()} cores {_cpu_model()}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"Linux {platform.release()}",
        "fdatasync": f"{_fdatasync_us():.0f} µs",
        "load": f"{os.getloadavg()[0]:.2f}",
        "python": platform.python_version(),
        "ingestd": f"{version('ingestd')} {_commit()}".strip(),
    }


def line(facts: dict[str, str]) -> str:
    """The facts in one line."""
    return (
        f"{facts['cpu']}, {facts['memory']}, {facts['system']}, fdatasync {facts['fdatasync']}, load average at the start "
        f"{facts['load']}, {facts['date']}; ingestd {facts['ingestd']} on Python {facts['python']}"
    )


def busy() -> str:
    """A warning if something else is running here, else nothing."""
    load = os.getloadavg()[0]
    return f"the load average is {load:.2f}: something else runs here, and the numbers will not be worth much" if load > BUSY else ""


def _cpu_model() -> str:
    for text in Path("/proc/cpuinfo").read_text().splitlines():
        if text.startswith("model name"):
            return text.partition(":")[2].strip()
    return platform.machine()


def _fdatasync_us() -> float:
    took = []
    with tempfile.NamedTemporaryFile() as file:
        for _ in range(50):
            file.write(bytes(8192))
            file.flush()
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e6


def _commit() -> str:
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=False
        )
    except OSError:
        return ""
    return said.stdout.strip()
