"""argv, signals and exit codes live here and nowhere else."""

from __future__ import annotations

import sys


def main() -> None:
    """The `ingestd` command."""
    from ingestd.cli.entry import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
