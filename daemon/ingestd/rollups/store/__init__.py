"""The SQL on our own tables."""
