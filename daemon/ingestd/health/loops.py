"""Each service loop as two numbers: how often it failed, and when it last turned."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ingestd.service import LoopState


class LoopMetrics(Collector):
    """Every loop from its start on, also one that has never failed: what is absent cannot alert.

    Args:
        states: the daemon's loops by name, read at each scrape.
    """

    def __init__(self, states: Callable[[], Mapping[str, LoopState]]) -> None:
        self._states = states

    def collect(self) -> Iterable[Metric]:
        """Failures and the time of the last good pass of each loop."""
        failures = CounterMetricFamily(
            "ingestd_loop_failures", "Passes of a service loop that raised; it goes on after each.", labels=["loop"]
        )
        ticks = GaugeMetricFamily(
            "ingestd_loop_last_tick_timestamp_seconds", "When a service loop last ended a pass without error.", labels=["loop"]
        )
        to_clock = time.time() - time.monotonic()
        for name, state in sorted(self._states().items()):
            failures.add_metric([name], state.restarts)
            if state.last_tick:
                ticks.add_metric([name], state.last_tick + to_clock)
        yield failures
        yield ticks
