"""How well the daemon is: health checks and metrics over the facts that every room offers."""
