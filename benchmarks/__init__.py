"""Speed, measured side by side: `python -m benchmarks.queues` and `python -m benchmarks.load`."""
