"""All SQL about jobs, history, queues, kinds, workflow runs and steps; one module a subject, one function a statement."""
