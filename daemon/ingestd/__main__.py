"""argv, signals and exit codes live here and nowhere else."""

from __future__ import annotations

import gc
import os
import signal
import sys


def main() -> None:
    """The `ingestd` command."""
    _open_standard_streams()
    # While modules are imported there is nothing to clean up, and an exception would show a traceback or get lost.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if "run" in sys.argv[1:] and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        # A daemon that has not read its configuration yet need not read it again, and need not die of being asked to: a service
        # manager takes that for an end in order, and leaves it ended.
        signal.signal(signal.SIGHUP, lambda *_: None)

    # Nor is there garbage: looking for it among what is imported takes a tenth of a start's time. Whoever has imported all goes on.
    gc.disable()

    from ingestd.cli.entry import run

    sys.exit(run(sys.argv[1:]))


def _open_standard_streams() -> None:
    """A closed stdin, stdout or stderr would give its number to the next file or socket, and output would go there."""
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, mode))


if __name__ == "__main__":
    main()
