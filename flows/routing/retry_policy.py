"""Which failed attempt is worth another try at the same model, and after how long. Pure.

The table is the fault matrix: what provably did not run may be repeated, what may have been billed is repeated at
most once, what would fail again moves on at once. A provider that says "do not retry" is believed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from tta_dev_primitives.blocks.wire.retry_after import MAX_WAIT_S
from tta_dev_primitives.config.provider_errors import ErrorClass, ProviderError


@dataclass(frozen=True, slots=True)
class SameModel:
    """How often and how the same model is tried again for one class of error."""

    retries: int
    backoff_s: float = 0.5


_TABLE: dict[ErrorClass, SameModel] = {
    ErrorClass.CONNECT: SameModel(1),
    ErrorClass.TRANSIENT: SameModel(1),
    ErrorClass.OVERLOADED: SameModel(2),
    ErrorClass.RATE_LIMIT: SameModel(2, 1.0),
    ErrorClass.MODEL_SLIP: SameModel(1, 0.0),
}


def same_model_wait(
    error: ProviderError, tries: int, *, time_left_s: float, rng: random.Random
) -> float | None:
    """Seconds to wait before the same model is tried again, or None to move on to the next model.

    Args:
        tries: How often this model has been tried for this request, at least 1.
        time_left_s: Seconds until the caller's deadline.
    """
    rule = _TABLE.get(error.error_class)
    if rule is None or tries > rule.retries or error.retryable is False or _had_begun(error):
        return None
    if error.retry_after_s is not None:
        wait = error.retry_after_s
        return wait if 0 <= wait <= min(MAX_WAIT_S, time_left_s) else None
    wait = rule.backoff_s * (2 ** (tries - 1)) * rng.uniform(0.5, 1.0)
    return wait if wait <= time_left_s else None


def _had_begun(error: ProviderError) -> bool:
    """An error inside a good status: the model was at work, and each repeat may be billed again."""
    return error.status is not None and 200 <= error.status < 300


def stops_everything(error: ProviderError) -> bool:
    """True for what no other model can fix: a redirect says that `base_url` is wrong, and a key was sent there."""
    return error.error_class is ErrorClass.REDIRECT
