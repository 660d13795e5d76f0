"""A process that rules and learns at one risk ledger: run as a script by test_trust.py, it prints what it did."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter

from tta_dev_primitives.blocks.ledger.database.protocol import database_for
from tta_dev_primitives.flows.validation.evidence import Evidence
from tta_dev_primitives.flows.validation.risk_state import Label, RiskPolicy
from tta_dev_primitives.flows.validation.risk_store import RiskStore

POLICY = RiskPolicy(0.15)
AGREED = Evidence("moderate", "agree2of2", 0, ("a", "b"), ("a", "b"), strong=True)


async def work(url: str, seed: int, tasks: int) -> Counter[str]:
    """Rule on tasks one by one, and label what was not delivered at once; every twentieth label is a failure."""
    done, database = Counter[str](), database_for(url)
    store = RiskStore(database, "scope")
    for n in range(tasks):
        key = f"{seed}.{n}"
        (ruling,) = await store.rule([(key, AGREED)], POLICY)
        done[ruling.action] += 1
        if ruling.action == "deliver":
            await store.learn([Label(ruling, None, task=key)], POLICY)
        else:
            passed = n % 20 != 10
            done["labels"] += 1
            done["rejected"] += not passed
            await store.learn([Label(ruling, passed, task=key)], POLICY)
    await database.aclose()
    return done


if __name__ == "__main__":
    print(json.dumps(asyncio.run(work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))))
