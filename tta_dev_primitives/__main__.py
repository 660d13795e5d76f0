"""`python -m tta_dev_primitives` is `tta`."""

from tta_dev_primitives.cli import main

if __name__ == "__main__":
    main()
