"""All SQL about schedules and slots; one function a statement."""
