"""Prefect's global concurrency limits keep open calls down on all machines together, when asked to."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import sentinel

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.settings import PREFECT_API_URL, temporary_settings

from tta_dev_primitives.blocks.prefect_server.manager import ServerInfo
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.flows.calling.call import Call
from tta_dev_primitives.flows.calling.provider_limit import WithinProviderLimit

pytestmark = [pytest.mark.server, pytest.mark.prefect]


async def most_open(target: Target, calls: int) -> int:
    """Make calls at once; the most that were open together."""
    open_now = most = 0

    async def provider(call: Call) -> Any:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        for _ in range(20):
            await asyncio.sleep(0)
        open_now -= 1
        return sentinel.outcome

    call = Call(targets=[target], request_of=lambda _: sentinel.request, role="execute", use_case="simple")
    call.target = target
    layer = WithinProviderLimit(provider)
    assert set(await asyncio.gather(*(layer(call) for _ in range(calls)))) == {sentinel.outcome}
    return most


def target_of(provider: str) -> Target:
    """A model of a provider."""
    return Target("m", provider, "m", "free", "KEY", "any", None)


async def test_a_limit_of_the_server_holds_and_is_named_after_the_provider(
    prefect_server: ServerInfo,
) -> None:
    """Two slots for one provider; another provider has no limit."""
    async with get_client() as client:
        limit = GlobalConcurrencyLimitCreate(name="tta-groq", limit=2)
        await client.create_global_concurrency_limit(limit)
    assert await most_open(target_of("groq"), 6) <= 2
    async with get_client() as client:
        assert (await client.read_global_concurrency_limit_by_name("tta-groq")).active_slots == 0
        await client.delete_global_concurrency_limit_by_name("tta-groq")
    assert await most_open(target_of("mistral"), 3) >= 1


async def test_without_the_api_calls_go_on(
    prefect_server: ServerInfo, caplog: pytest.LogCaptureFixture
) -> None:
    """Politeness is lost with a warning; the answer is not."""
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert await most_open(target_of("xai"), 1) == 1
    assert "no slot of the Prefect limit tta-xai" in caplog.text
