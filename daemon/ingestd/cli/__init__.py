"""The command line: one module a command group, all of them thin."""
