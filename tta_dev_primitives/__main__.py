"""`python -m tta_dev_primitives` is `tta`."""

import os
import sys
import threading
from contextlib import suppress

_PATIENCE_S = 20.0
"""How long Prefect may go on sending logs and events after the command has ended. It would try for minutes."""


def main() -> None:
    """Run the command line; Ctrl-C while it is still being imported is no traceback."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the shell (`2>&-`): no other file may take its number
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    try:
        from tta_dev_primitives import cli
    except KeyboardInterrupt:
        sys.stderr.write("tta: Interrupted.\n")
        sys.exit(130)
    try:
        cli.main()
    except SystemExit as end:
        last = threading.Timer(_PATIENCE_S, _leave, [end.code if isinstance(end.code, int) else 1])
        last.daemon = True
        last.start()
        raise


def _leave(code: int) -> None:
    sys.stderr.write(f"tta: what Prefect's API did not take within {_PATIENCE_S:g} s is dropped.\n")
    for stream in (sys.stdout, sys.stderr):
        # The answer may still stand in the buffer: the interpreter writes it later than this.
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
