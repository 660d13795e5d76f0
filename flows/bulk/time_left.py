"""How long the rest of a job takes when free quotas bind: from what is left of each model's windows."""

from __future__ import annotations

import math
import time

from tta_dev_primitives.blocks.credentials.key_ids import key_id
from tta_dev_primitives.blocks.quotas.plan import time_needed
from tta_dev_primitives.blocks.quotas.windows import limited
from tta_dev_primitives.config.errors import MissingKeyError
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.flows.bulk.progress import Progress
from tta_dev_primitives.flows.calling.services import Services

_ENOUGH = 5
"""Ended tasks from which calls and tokens a task are known well enough."""


async def quota_eta(services: Services, progress: Progress, now: float | None = None) -> float | None:
    """Seconds that the free quotas need for the rest of the job; None when they do not bind.

    Raises:
        LedgerError: The ledger cannot be used.
    """
    free = {name: target for name, target in services.targets.items() if target.billing == "free"}
    if progress.left is None or progress.ended < _ENOUGH:
        return None
    # Limits that stand nowhere show by a wait; from then on what was learned of them counts.
    waits = progress.waiting_until is not None or progress.quota_eta_s is not None
    if not waits and not all(limited(target.limits) for target in free.values()):
        return None
    used = {name: progress.models[name] for name in free if name in progress.models}
    calls = sum(line.calls for line in used.values())
    if not calls:
        return None
    keyed = await _keyed(services, free)
    if not keyed:
        return None
    at = time.time() if now is None else now
    books = await services.quota.snapshot(list(keyed.values()))
    if not all(limited(free[name].limits) or book.learned for name, book in zip(keyed, books, strict=True)):
        return None
    blocked = await services.availability.blocked(list(keyed.values()))
    to_send = math.ceil(progress.left * calls / progress.ended) - progress.under_way()
    if to_send <= 0:
        return None if progress.quota_eta_s is None else 0.0
    plan = time_needed(
        to_send,
        sum(line.tokens for line in used.values()) / calls,
        {name: free[name].limits for name in keyed},
        at,
        windows=dict(zip(keyed, books, strict=True)),
        blocked_until={name: blocked[free[name].key].until for name in keyed if free[name].key in blocked},
    )
    return plan.seconds if plan.binding is not None else None


async def _keyed(services: Services, targets: dict[str, Target]) -> dict[str, tuple[Target, str]]:
    found: dict[str, tuple[Target, str]] = {}
    for name, target in targets.items():
        try:
            found[name] = (target, key_id(await services.keys.key_of(target)))
        except MissingKeyError:
            continue
    return found
