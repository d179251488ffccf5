"""The admin server: HTTP API, health, metrics and the page, on loopback only."""
