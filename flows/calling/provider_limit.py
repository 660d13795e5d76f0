"""Layer: one slot of a Prefect global concurrency limit for each call, so that all machines together stay polite.

Off unless `prefect_limits` is set. The limit is `tta-<provider>`; without it on the server, calls are not limited.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from prefect.concurrency.asyncio import concurrency

from tta_dev_primitives.blocks.redaction import redact
from tta_dev_primitives.flows.calling.call import Call, Layer, Outcome

_LOG = logging.getLogger("tta_dev_primitives.calls")


class WithinProviderLimit:
    """Occupies a slot of the provider's limit for as long as the call runs."""

    def __init__(self, then: Layer) -> None:
        self._then = then

    async def __call__(self, call: Call) -> Outcome:
        """What the next layer returns."""
        async with _slot(f"tta-{call.target.provider}"):
            return await self._then(call)


@asynccontextmanager
async def _slot(name: str) -> AsyncGenerator[None]:
    """A slot of the limit; a Prefect API that fails costs the politeness, never a call or a paid answer."""
    stack = AsyncExitStack()
    try:
        await stack.enter_async_context(concurrency(name, raise_on_lease_renewal_failure=False))
    except Exception as problem:
        _LOG.warning("no slot of the Prefect limit %s: %s", name, redact(str(problem)))
    try:
        yield
    finally:
        try:
            await stack.aclose()
        except Exception as problem:
            _LOG.warning("the slot of the Prefect limit %s was not returned: %s", name, redact(str(problem)))
