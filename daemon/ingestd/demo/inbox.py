"""Unpacks the demo's data into its inbox, the way a careful sender does: aside first, then renamed into place."""

from __future__ import annotations

import gzip
import shutil
from importlib import resources
from pathlib import Path

FILES = ("airlines.csv", "airports.csv", "weather.csv", "flights_2013_01.csv")


def fill(folder: Path) -> None:
    """Put the demo's files into `folder`; those that are there are replaced by fresh ones with the same content."""
    folder.mkdir(parents=True, exist_ok=True)
    data = resources.files("ingestd.demo") / "data"
    for name in FILES:
        aside = folder / f".{name}.part"
        with (data / f"{name}.gz").open("rb") as packed, gzip.open(packed) as source, aside.open("wb") as target:
            shutil.copyfileobj(source, target)
        aside.rename(folder / name)
