"""A bulk job with --batch in a process of its own, which tests kill: `batch_worker.py CONFIG IN OUT`."""

from __future__ import annotations

import asyncio
import sys

from tta_dev_primitives.flows.bulk.batch_lifecycle import BatchTiming
from tta_dev_primitives.flows.bulk.bulk_flow import run_file
from tta_dev_primitives.flows.bulk.runner import JobOptions
from tta_dev_primitives.flows.calling.runtime import active
from tta_dev_primitives.flows.workflow import MultiModelWorkflow

TIMING = BatchTiming(quiet_s=0.3, first_s=0.1, longest_s=0.3, horizon_s=2.0)


async def main(config: str, source: str, target: str) -> int:
    workflow = MultiModelWorkflow(config)
    with active(await workflow.ready()):
        report = await run_file(
            JobOptions(batch_timing=TIMING, batch_wait_s=300.0),
            input_path=source,
            output_path=target,
            batch=True,
        )
    return 0 if report.state == "complete" else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
