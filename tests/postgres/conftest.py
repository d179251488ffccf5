"""Labs for the tests of the embedded Postgres."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.postgres.embedded_lab import Lab, open_folder, using


@pytest.fixture
def empty_lab() -> Iterator[Lab]:
    """A lab with no database yet."""
    laboratory = Lab(open_folder())
    yield laboratory
    laboratory.clean_up()


@pytest.fixture(scope="package")
def shared_lab() -> Iterator[Lab]:
    """Initdb takes a second or two, and most tests are not about it."""
    laboratory = Lab(open_folder())
    yield laboratory
    laboratory.clean_up()


@pytest.fixture
async def lab(shared_lab: Lab) -> AsyncIterator[Lab]:
    """A lab with a database that was shut down in order, whatever the test before has done to it."""
    place = shared_lab.place()
    if not place.data.exists():
        async with using(shared_lab.server()):
            pass
    yield shared_lab
    if (place.data / "postmaster.pid").exists():
        shared_lab.kill_all()
        shutil.rmtree(shared_lab.data_dir)
