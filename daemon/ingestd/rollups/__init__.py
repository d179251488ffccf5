"""Declared aggregations of users' tables, kept equal to their recount."""
