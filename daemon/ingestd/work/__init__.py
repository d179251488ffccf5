"""Running jobs: claim, run, ack; the node's heartbeat, and the rescue of nodes that died."""
