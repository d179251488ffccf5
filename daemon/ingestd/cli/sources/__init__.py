"""Where commands find what they show and have done: in the configured database, or at a daemon elsewhere.

A module a group, with both sides of it beside each other: `Near` asks the database, `Far` the daemon's API. They answer in the same
rows, so that a command shows the same whichever it was.
"""
