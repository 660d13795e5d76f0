"""Serve every deployment from this one process: no work pool, no worker.

    python -m tta_dev_primitives.deployments.serve [CONFIG]

Schedules run as long as the process lives; Ctrl-C ends it. Without PREFECT_API_URL the embedded server is used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tta_dev_primitives.blocks.credentials.config_trust import refuse_untrusted
from tta_dev_primitives.blocks.prefect_server.manager import open_link
from tta_dev_primitives.config import load_orchestration_config
from tta_dev_primitives.config.errors import OrchestrationError
from tta_dev_primitives.flows.prefect_support.api_connection import use_server


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m tta_dev_primitives.deployments.serve", description=__doc__
    )
    parser.add_argument(
        "config", nargs="?", type=Path, help="configuration file; else the usual places are searched"
    )
    parser.add_argument("--bulk-input", help="tasks of the nightly job (JSONL or CSV)")
    parser.add_argument("--bulk-output", help="its results (JSONL)")
    parser.add_argument("--limit", type=int, default=20, help="flow runs at a time (default 20)")
    given = parser.parse_args(argv)
    if (given.bulk_input is None) != (given.bulk_output is None):
        parser.error("--bulk-input and --bulk-output go together")
    try:
        config = load_orchestration_config(given.config)
        refuse_untrusted(config)
        source = config.source
        info = use_server()
    except (OrchestrationError, FileNotFoundError) as error:
        print(f"tta: {error}", file=sys.stderr)
        return 2
    from prefect import serve

    from tta_dev_primitives.deployments.definitions import deployments

    bulk = (given.bulk_input, given.bulk_output) if given.bulk_input is not None else None
    print(f"Deployments are served; see {open_link(info, '/deployments')}", file=sys.stderr)
    serve(
        *deployments(config_path=None if source is None else str(source), bulk=bulk),
        limit=given.limit,
        print_starting_message=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
