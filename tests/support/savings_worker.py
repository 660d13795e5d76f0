"""A process that ends tasks and buys extras, as `python savings_worker.py URL SEED`: run by the ledger's tests.

Worker 0 is killed in the middle, with an extra in flight. Every other one reports how many extras were granted.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from decimal import Decimal

from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.task_records import TaskRecord, record_results
from tta_dev_primitives.blocks.ledger.types import CallInfo
from tta_dev_primitives.config.errors import SavingsShortError

CREDIT = Decimal("0.02")


async def work(url: str, seed: int) -> dict[str, int]:
    """Sixty tasks: some free, some paid, with extras before they end."""
    ledger, rng = Ledger.open(url), random.Random(seed)
    count = {"granted": 0, "refused": 0}
    for number in range(60):
        extras = Decimal(0)
        for _ in range(rng.randrange(3)):
            kind = rng.choice(["savings", "credit"])
            call = CallInfo(
                provider="p", model="m", role="validate", model_key="k", extra=kind,
                credit=CREDIT if kind == "credit" else Decimal(0),
            )  # fmt: skip
            bound = Decimal(rng.randrange(1, 40)) / 10_000
            try:
                hold = await ledger.reserve(call, bound, Decimal(100))
            except SavingsShortError:
                count["refused"] += 1
                continue
            count["granted"] += 1
            if seed == 0 and number == 30:
                os.kill(os.getpid(), signal.SIGKILL)
            cost = bound * rng.randrange(0, 11) / 10
            await ledger.settle(hold, cost)
            extras += cost
        baseline = Decimal(rng.randrange(1, 30)) / 10_000
        own = baseline if rng.random() < 0.5 else Decimal(0)
        record = TaskRecord(
            flow_run_id=f"worker-{seed}", item_id=str(number), use_case="simple", cost=own + extras,
            baseline=baseline, earned=baseline - own,
        )  # fmt: skip
        month = (await ledger.balance()).month
        await record_results(ledger, month, [record])
        account = await ledger.savings(month)
        # At every moment, over all processes.
        assert account.cost <= account.baseline + CREDIT, account
    await ledger.database.aclose()
    return count


if __name__ == "__main__":
    print(json.dumps(asyncio.run(work(sys.argv[1], int(sys.argv[2])))))
