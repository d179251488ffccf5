"""The queue's vocabulary and its tables: jobs, history, queues, kinds, workflow runs and their steps."""
