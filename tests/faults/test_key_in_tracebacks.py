"""No traceback shows a key, also one that prints local variables, wherever the failure comes from."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr
from rich.traceback import Traceback
from rude_server import answers, breaks_after, closed_port, response, rude_server
from sandbox_runs import KEY, sandbox_config, workflow_of
from wire_samples import ask, at_address, target

from tta_dev_primitives.blocks.credentials.keys import forget_keys, load_key
from tta_dev_primitives.blocks.credentials.provider_credentials import AnthropicCredentials
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.prefect_server.manager import ServerInfo
from tta_dev_primitives.blocks.providers.client import ProviderClient
from tta_dev_primitives.blocks.redaction import forget_secrets
from tta_dev_primitives.config import CostTrackingConfig
from tta_dev_primitives.config.errors import ConfigError, LedgerError, MissingKeyError
from tta_dev_primitives.config.provider_errors import ProviderError
from tta_dev_primitives.config.reading.api_keys import find_api_key
from tta_dev_primitives.deployments.sandbox import Sandbox

CANARY = "sk-ant-canary-9f8e7d6c5b4a-zyxwv"
TESTS = str(Path(__file__).parents[1])


def locals_of(error: BaseException) -> Iterator[str]:
    """Every local variable of every frame outside these tests, of the error and of what caused it."""
    found = Traceback.extract(
        type(error), error, error.__traceback__, show_locals=True, locals_max_length=None, locals_max_string=None
    )  # fmt: skip
    for stack in found.stacks:
        yield stack.exc_value
        yield from getattr(stack, "notes", ())
        for frame in stack.frames:
            if not frame.filename.startswith(TESTS):
                for name, value in (frame.locals or {}).items():
                    yield f"{frame.filename}:{frame.lineno}: {name} = {value}"


def assert_clean(error: BaseException) -> None:
    shown = [line for line in locals_of(error) if "canary" in line]
    assert not shown, shown


def test_the_check_finds_a_key() -> None:
    """A frame that holds a key in clear is noticed: the JSON reader of the standard library here."""
    with pytest.raises(ValueError, match="Expecting") as caught:
        json.loads(f"{{{CANARY}")
    with pytest.raises(AssertionError):
        assert_clean(caught.value)


@pytest.mark.parametrize(
    "text", ["{} {}", "{}\nX: 1", "{}é", '"{}"', "your-{}", "<{}>", "{}\t", "{}" * 200, "{}\udcff"]
)
@pytest.mark.parametrize("place", ["environment", ".env"])
def test_a_key_that_is_refused(
    text: str, place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Found in the environment or in `.env`, and not fit for a header."""
    monkeypatch.chdir(tmp_path)
    value = text.replace("{}", CANARY)
    if place == "environment":
        monkeypatch.setenv("CANARY_KEY", value)
    else:
        quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        (tmp_path / ".env").write_bytes(f'CANARY_KEY="{quoted}"\n'.encode("utf-8", "surrogatepass"))
        (tmp_path / ".env").chmod(0o600)
    with pytest.raises((ConfigError, MissingKeyError)) as caught:
        find_api_key("CANARY_KEY")
    assert_clean(caught.value)


@pytest.fixture
async def client() -> AsyncIterator[ProviderClient]:
    async with ProviderClient() as opened:
        yield opened


async def failure_of(client: ProviderClient, url: str, key: str = CANARY, **more: Any) -> BaseException:
    options: dict[str, Any] = {"deadline_s": 5.0, **more}
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        await client.send(at_address(target("anthropic"), url), ask(), key=SecretStr(key), **options)
    return caught.value


@pytest.mark.parametrize(
    "behaviour",
    [
        answers(response(b"{}")),
        answers(response(b"<html>")),
        answers(response(b"{}", status="401 Unauthorized")),
        answers(response(b"", status="302 Found", headers={"location": "http://127.0.0.1:1/"})),
        answers(b"\x00\xff no http\r\n\r\n"),
        breaks_after(response(b"{}" * 50)[:60]),
    ],
)
async def test_a_reply_that_fails(behaviour: Any, client: ProviderClient) -> None:
    """Status, redirect, nonsense, a connection that breaks."""
    async with rude_server(behaviour) as server:
        error = await failure_of(client, server.url)
    assert isinstance(error, ProviderError)
    assert_clean(error)


async def test_a_request_that_never_leaves(client: ProviderClient) -> None:
    """A closed port, a name that leads nowhere, a key that no header carries."""
    for url, key in (
        (f"http://127.0.0.1:{closed_port()}", CANARY),
        ("http://does-not-exist.invalid", CANARY),
        (f"http://127.0.0.1:{closed_port()}", f"{CANARY} {CANARY}"),
        (f"http://127.0.0.1:{closed_port()}", f"{CANARY}\udcff"),
    ):
        assert_clean(await failure_of(client, url, key))


class Unforeseen(Exception):
    """A fault of a library that the client does not know."""


@pytest.mark.parametrize("kind", [Unforeseen, KeyboardInterrupt, asyncio.CancelledError, ValueError])
async def test_an_unforeseen_fault_below_the_client(
    kind: type[BaseException], client: ProviderClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raised where the HTTP library holds the header: an error is the attempt's failure, an interrupt stays one."""
    async with rude_server(answers(response(b"{}"))) as server:

        async def breaks(self: aiohttp.ClientResponse, connection: Any) -> None:
            raise kind("deep below")

        monkeypatch.setattr(aiohttp.ClientResponse, "start", breaks)
        error = await failure_of(client, server.url)
    assert type(error) is (ProviderError if issubclass(kind, Exception) else kind)
    assert_clean(error)


async def test_a_fault_of_the_caller_while_it_is_sent(client: ProviderClient) -> None:
    """The hold cannot be marked as sent: the error passes through the HTTP library's frames."""

    def on_sent() -> None:
        raise Unforeseen("the ledger is gone")

    async with rude_server(answers(response(b"{}"))) as server:
        assert_clean(await failure_of(client, server.url, on_sent=on_sent))


async def test_a_deadline(client: ProviderClient) -> None:
    """The cancelled call underneath is not part of what is raised."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with rude_server(silent) as server:
        assert_clean(await failure_of(client, server.url, deadline_s=0.2))


@pytest.mark.parametrize("key", [[CANARY], CANARY.encode() + b"\xff", {"value": CANARY}])
def test_a_block_is_given_a_key_that_is_no_text(key: Any) -> None:
    """The error names the field, not what stood there."""
    with pytest.raises(ValueError, match="api_key") as caught:
        AnthropicCredentials(api_key=key)
    assert "canary" not in f"{caught.value} {caught.value!r}"


async def test_a_saved_block_for_another_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of a block whose address was changed by hand."""
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    block = AnthropicCredentials(api_key=SecretStr(CANARY), base_url="https://elsewhere.example")

    async def saved(*_: Any, **__: Any) -> AnthropicCredentials:
        return block

    monkeypatch.setattr(AnthropicCredentials, "aload", saved)
    forget_keys()
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(ConfigError, match="bound to elsewhere") as caught,
    ):
        await load_key(target("anthropic"))
    assert_clean(caught.value)


CANNOT_RAISE = {
    "_remember", "_forms", "_forms_in_answers", "_ends", "_net", "_short_hash",
    "_is_header_text", "_fault_of", "is_placeholder", "<genexpr>",
    "key_headers", "_parsed", "_encoding_fault", "parse_dotenv", "read_regular_file",
}  # fmt: skip
"""Functions of ours that hold a key in clear for a moment; `read_regular_file` drops it before it raises."""


async def test_a_whole_run_holds_the_key_only_where_nothing_can_raise(
    prefect_server: ServerInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every local variable of every function of ours that returns, from the `.env` file to the answer."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TTA_TRUST", "1")
    (tmp_path / ".env").write_text(f"CANARY_API_KEY={CANARY}\n")
    (tmp_path / ".env").chmod(0o600)
    seen: set[str] = set()

    def look(frame: FrameType, event: str, _: object) -> None:
        if event == "return" and "/tta_dev_primitives/" in frame.f_code.co_filename:
            texts = (
                v for v in frame.f_locals.values() if isinstance(v, str | bytes | dict | list | tuple | set)
            )
            if any("canary" in repr(value) and CANARY in repr(value) for value in texts):
                seen.add(frame.f_code.co_name)

    forget_secrets()
    with Sandbox() as sandbox:
        settings = json.dumps(sandbox_config(sandbox, tmp_path, validation={"mode": "never"}))
        workflow = workflow_of(json.loads(settings.replace(KEY, "CANARY_API_KEY")), tmp_path)
        threading.setprofile(look)
        sys.setprofile(look)
        try:
            result = await workflow.execute("What is six times seven?", use_case="simple")
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    assert result.content
    assert {"_remember", "_is_header_text"} <= seen
    assert seen <= CANNOT_RAISE


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{CANARY}@127.0.0.1:1/x",
        f"postgresql://me:{CANARY}@127.0.0.1:99999/x",
        f"postgresql://me:{CANARY}@[::1/x",
        f"postgresql://{'m' * 100}:{CANARY}@127.0.0.1:1/x?password={CANARY}",
        f"mysql://me:{CANARY}@127.0.0.1/x",
    ],
)
async def test_the_password_of_a_ledger(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the environment or in the file; no frame of ours or of the driver shows it, whole or cut."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tta_dev_primitives.blocks.ledger.database.postgresql_pool._FIRST_CONNECT_S", 0.0)
    monkeypatch.setenv("TTA_LEDGER_URL", url)
    with pytest.raises(LedgerError) as caught:
        await Ledger.open().balance()
    assert_clean(caught.value)
    assert "canary" not in str(caught.value)
    if url.startswith("postgresql"):
        tracking = CostTrackingConfig(ledger_url=url)
        assert tracking.ledger_url == url
        assert "canary" not in f"{tracking!r} {tracking.ledger_url!r} {tracking.ledger_url[:130]!r}"
