"""`python -m tta_dev_primitives` is `tta`."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is still being imported is no traceback."""
    try:
        from tta_dev_primitives import cli
    except KeyboardInterrupt:
        sys.stderr.write("tta: Interrupted.\n")
        sys.exit(130)
    cli.main()


if __name__ == "__main__":
    main()
