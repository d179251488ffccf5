"""The SQL of arrivals, loads and rejects."""
