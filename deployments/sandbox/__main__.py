"""`python -m tta_dev_primitives.deployments.sandbox`."""

import sys

from tta_dev_primitives.deployments.sandbox.run import main

if __name__ == "__main__":
    sys.exit(main())
