"""ingestd imports data into Postgres, keeps rollups of it, runs your jobs and watches itself."""

__version__ = "0.1.0"
