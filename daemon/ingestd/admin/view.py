"""What of the page somebody looks at: which jobs, which chart. It travels in the query, so that every view has an address."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from ingestd.admin.shapes import read_word

JOB_TABS = {"": "All", "running": "Running", "waiting": "Waiting", "failed": "Failed"}
VIEW_QUERY = ("jobs", "chart")
MAX_CHART = 200


@dataclass(frozen=True, slots=True)
class View:
    """One way to look at the page.

    Args:
        jobs: which jobs are listed; empty: all.
        chart: key of the chart shown; empty: the first.
    """

    jobs: str = ""
    chart: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> View:
        """The view that a query asks for.

        Raises:
            UsageError: it names jobs that we cannot list.
        """
        return cls(read_word(query, "jobs", list(JOB_TABS)) or "", query.get("chart", "")[:MAX_CHART])

    def fields(self) -> dict[str, str]:
        """The parts that are not the default."""
        return {name: value for name, value in (("jobs", self.jobs), ("chart", self.chart)) if value}

    def query(self, **changes: str) -> str:
        """The view, with changes, as a query string with its question mark; empty for the default one."""
        fields = replace(self, **changes).fields()
        return f"?{urlencode(fields)}" if fields else ""
