"""Prints the tests that failed last and may be looked at a second time, one a line; 1 where there is no such excuse.

Processes, browsers and outages are waited for by the clock, and a machine that runs eight tests on two cores can be too late
for any of them. Tests that need no such thing get no second look, and neither do more than a few at once.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

LIVE = ("tests/browser/", "tests/cli/", "tests/daemon/", "tests/promises/", "tests/work/")
FEW = 3

failed = sorted(json.loads(Path(sys.argv[1], ".pytest_cache/v/cache/lastfailed").read_text(encoding="utf-8")))
excused = [test for test in failed if test.startswith(LIVE)]
if not failed or excused != failed or len(failed) > FEW:
    sys.exit(1)
sys.stdout.write("\n".join(failed) + "\n")
