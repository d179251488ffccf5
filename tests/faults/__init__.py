"""What tests break, and how they tell that nothing came of it.

- `processes`: kill, freeze and thaw processes, groups, trees, the postmaster, or a whole machine's worth at once.
- `proxy`: stands between a client and Postgres, and cuts, stalls, refuses or loses answers when told.
- `ledger`: a job that writes one row a run, and the check that every job ran exactly once.

Nothing here waits for a fixed time: a fault is in force when its call returns.
"""
