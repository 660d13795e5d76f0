"""Batches at a provider: upload, submit, look, fetch, cancel, list. It knows nothing of money."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import SecretStr

from tta_dev_primitives.blocks.providers.client import ProviderClient, read_json
from tta_dev_primitives.blocks.wire.batches.formats import batch_format
from tta_dev_primitives.blocks.wire.batches.openai import OpenAIBatches, file_name
from tta_dev_primitives.blocks.wire.batches.types import (
    BatchFormat,
    BatchLine,
    BatchStatus,
    HttpCall,
    LineResult,
    required_id,
)
from tta_dev_primitives.blocks.wire.formats import wire_format
from tta_dev_primitives.blocks.wire.reading import at
from tta_dev_primitives.blocks.wire.types import ChatReply
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.models.targets import Target

SUBMIT_S = 120.0
"""The longest that an upload, and the submission after it, may take."""
_FETCH_S = 300.0
_MOST_RESULTS = 512 * 1024 * 1024


class BatchClient:
    """The batch API of one target with one key.

    Raises:
        ConfigError: The provider has no batches.
    """

    def __init__(self, client: ProviderClient, target: Target, key: SecretStr) -> None:
        form = batch_format(target)
        if form is None:
            raise ConfigError(f"Model '{target.name}': its provider '{target.provider}' has no batch API.")
        self.form: BatchFormat = form
        self._client, self._target, self._key = client, target, key

    async def upload(self, lines: Sequence[BatchLine], key: str) -> str | None:
        """Upload the lines; the id of the file, or None where they travel with the submission."""
        call = self.form.upload(lines, key)
        if call is None:
            return None
        return read_json(
            self._target, await self._fetch(call, SUBMIT_S), lambda payload: required_id(payload, "id")
        )

    async def submit(self, lines: Sequence[BatchLine], key: str, file: str | None) -> BatchStatus:
        """Create the batch. After an error whose ledger action is `charge_at_bound` it may exist all the same.

        Raises:
            ProviderError: It was refused, or nothing is known of it.
        """
        call = self.form.submit(self._target, lines, key, file)
        return read_json(self._target, await self._fetch(call, SUBMIT_S), self.form.status)

    async def look(self, batch: str) -> BatchStatus:
        """The state of a batch."""
        return read_json(self._target, await self._fetch(self.form.look(batch), _FETCH_S), self.form.status)

    async def cancel(self, batch: str) -> None:
        """Ask the provider to stop a batch."""
        await self._fetch(self.form.cancel(batch), SUBMIT_S)

    async def newest(self) -> list[BatchStatus]:
        """The newest batches of the account."""
        return read_json(self._target, await self._fetch(self.form.listing(), SUBMIT_S), self.form.statuses)

    async def results(self, status: BatchStatus) -> list[LineResult]:
        """The results of a batch that is over, in no order."""
        found = list(self.form.inline_results(status))
        for path in status.results:
            found += self.form.results(await self._fetch(HttpCall("GET", path), _FETCH_S))
        return found

    async def is_ours(self, status: BatchStatus, key: str) -> bool:
        """Whether the batch runs over the file that was uploaded under our key."""
        if status.file is None or not isinstance(self.form, OpenAIBatches):
            return False
        body = await self._fetch(HttpCall("GET", self.form.file_path(status.file)), SUBMIT_S)
        return read_json(self._target, body, lambda payload: bool(at(payload, "filename") == file_name(key)))

    async def delete_file(self, name: str | None) -> None:
        """Delete uploaded requests, if there are any."""
        if name is not None and isinstance(self.form, OpenAIBatches):
            await self._fetch(HttpCall("DELETE", self.form.file_path(name)), SUBMIT_S)

    def reply(self, result: LineResult, *, now: float) -> ChatReply:
        """The reply in a result line, read as the chat endpoint's would be."""
        headers = {"content-type": "application/json"}
        if result.request_id:
            headers["x-request-id"] = result.request_id
        form = wire_format(self._target.provider)
        return form.parse(self._target, result.status, headers, result.body, now=now)

    async def _fetch(self, call: HttpCall, deadline_s: float) -> bytes:
        return await self._client.fetch(
            self._target, call, key=self._key, deadline_s=deadline_s, most_bytes=_MOST_RESULTS
        )
