"""Measurements of the user's own machine; used by the command line only."""
