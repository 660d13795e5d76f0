"""Batches of Together and Mistral, from the upload to the deleted file, on servers that their official SDKs accept."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import batch_servers
import pytest
from batch_servers import CHAT, batch_server
from pydantic import SecretStr

from tta_dev_primitives.blocks.providers.batch_client import BatchClient
from tta_dev_primitives.blocks.providers.client import ProviderClient
from tta_dev_primitives.blocks.wire.batches.formats import batch_line
from tta_dev_primitives.blocks.wire.types import ChatRequest, Message
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.config.provider_errors import ProviderError


@pytest.mark.parametrize("provider", ["together", "mistral"])
async def test_a_batch_from_its_upload_to_its_end(provider: str) -> None:
    with batch_server(provider) as server:
        target = Target(
            "m", provider, "m", "paid", "K", "m", None, base_url=f"{server.url}/v1", allow_private_hosts=True
        )
        client = ProviderClient()
        batches = BatchClient(client, target, SecretStr("k"))
        lines = [batch_line(target, ChatRequest((Message("user", "17 * 23?"),)), name) for name in ("a", "b")]
        file = await batches.upload(lines, "tta-1")
        made = await batches.submit(lines, "tta-1", file)
        assert (made.over, made.file) == (False, file)
        # Whose it is, is known without its reply: by its metadata or by the name of its file.
        [listed] = await batches.newest()
        assert listed.id == made.id
        assert listed.key == "tta-1" or await batches.is_ours(listed, "tta-1")
        assert not await batches.is_ours(listed, "tta-2")
        assert not (await batches.look(made.id)).over
        done = await batches.look(made.id)
        assert (done.over, done.succeeded) == (True, None if provider == "together" else 1)
        results = {result.id: result for result in await batches.results(done)}
        assert batches.reply(results["a"], now=0.0).text == CHAT["choices"][0]["message"]["content"]  # type: ignore[index]
        with pytest.raises(ProviderError, match="bad request"):
            batches.reply(results["b"], now=0.0)
        await batches.delete_file(done.file)
        assert file not in server.files
        await batches.cancel(made.id)
        assert (await batches.newest())[0].raw_state.startswith("cancell")
        await client.aclose()


@pytest.mark.parametrize("sdk", ["together", "mistralai"])
def test_the_official_sdk_accepts_the_server(sdk: str) -> None:
    if find_spec(sdk) is None:
        # together pins an older cyclopts and rich than ours: it cannot be a requirement of the tests.
        pytest.skip(f"{sdk} is not installed: pip install {sdk}, in an environment for this test")
    run = subprocess.run(
        [sys.executable, str(Path(batch_servers.__file__)), sdk], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
