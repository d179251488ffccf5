"""Say what is wrong with a built wheel: what must be in it, and what must not."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

LARGEST = 3_000_000  # bytes
TOP_LEVEL = {"ingestd"}
NEEDED = ("ingestd/py.typed", "ingestd/migrations/0001_queue.sql", "ingestd/demo/data/weather.csv.gz")


def problems(wheel: Path) -> list[str]:
    """One line for each thing that is wrong."""
    found = []
    if wheel.stat().st_size > LARGEST:
        found.append(f"{wheel.name} has {wheel.stat().st_size} bytes, more than {LARGEST}")
    names = zipfile.ZipFile(wheel).namelist()
    strangers = {name.split("/")[0] for name in names if ".dist-info/" not in name} - TOP_LEVEL
    found += [f"it installs a top-level {name}" for name in sorted(strangers)]
    found += [f"{name} is missing" for name in NEEDED if name not in names]
    for licence in ("LICENSE", "NOTICE"):
        if not any(name.endswith(f".dist-info/licenses/{licence}") for name in names):
            found.append(f"{licence} is missing")
    found += [f"{name} does not belong in it" for name in names if "__pycache__" in name or name.endswith(".pyc")]
    return found


if __name__ == "__main__":
    wrong = problems(Path(sys.argv[1]))
    print("\n".join(wrong) or f"{Path(sys.argv[1]).name} holds what it should")  # noqa: T201
    sys.exit(1 if wrong else 0)
