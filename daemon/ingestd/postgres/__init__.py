"""The floor that talks to Postgres: pools, migrations, locks, and the server ingestd brings along."""
