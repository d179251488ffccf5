"""Imports: what arrives in a source goes through into a table, exactly once and in order."""
