"""Credentials as Prefect blocks on a real server: typed, saved from the environment, found without it, never shown."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import SecretStr
from rude_server import answers, response, rude_server
from wire_samples import PROVIDERS, at_address, target

from tta_dev_primitives.blocks import block_types
from tta_dev_primitives.blocks.credentials.keys import block_name, forget_keys, load_key
from tta_dev_primitives.blocks.credentials.provider_credentials import (
    CREDENTIALS,
    AnthropicCredentials,
    ProviderCredentials,
)
from tta_dev_primitives.blocks.credentials.sync import SyncedBlock, sync_blocks
from tta_dev_primitives.blocks.redaction import forget_secrets, redact
from tta_dev_primitives.config import load_orchestration_config
from tta_dev_primitives.config.errors import ConfigError, MissingKeyError
from tta_dev_primitives.config.options import OrchestrationConfig

ONE, TWO = "sk-ant-first-key-0123456789", "sk-ant-second-key-0123456789"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No `.env` and no keys of the person who runs the tests."""
    monkeypatch.chdir(tmp_path)
    for name in ("ANTHROPIC_API_KEY", "GOOGLE_API_KEY", "GROQ_API_KEY", "OPENROUTER_API_KEY", "THE_KEY"):
        monkeypatch.delenv(name, raising=False)
    forget_keys()
    forget_secrets()
    yield
    forget_keys()
    forget_secrets()


def config(tmp_path: Path, *, variable: str, base_url: str | None = None) -> OrchestrationConfig:
    """One paid model whose key is in `variable`."""
    address = f", base_url: {json.dumps(base_url)}" if base_url else ""
    file = tmp_path / "c.yaml"
    file.write_text(
        "orchestration:\n"
        f"  orchestrator: {{model: claude-haiku-4-5, api_key_env: {variable}{address}}}\n"
        "  executors: []\n"
        "  fallback_strategy: {models: [claude-haiku-4-5]}\n"
    )
    return load_orchestration_config(file)


# --- the block types ---


@pytest.mark.parametrize("name", block_types.__all__)
class TestBlockStandards(BlockStandardTestSuite):
    """Prefect's own suite on every block type that the package registers."""

    @pytest.fixture
    def block(self, name: str) -> type[Block]:
        return getattr(block_types, name)  # type: ignore[no-any-return]

    def test_has_a_valid_image(self, block: type[Block]) -> None:
        """Prefect's test downloads the logo; here it is enough that a browser could."""
        assert str(block._logo_url).startswith("https://")


def test_the_package_announces_its_blocks_to_prefect() -> None:
    """The collection entry point names the module that imports them all."""
    from importlib.metadata import entry_points

    (entry,) = [e for e in entry_points(group="prefect.collections") if e.name == "tta_dev_primitives"]
    assert entry.load() is block_types


@pytest.mark.server
def test_importing_the_room_does_not_import_prefect() -> None:
    """Names are loaded on first use; an unknown one is an ordinary AttributeError."""
    code = (
        "import sys, tta_dev_primitives.blocks as b; assert 'prefect' not in sys.modules; "
        "b.AnthropicCredentials; assert 'prefect' in sys.modules; assert not hasattr(b, 'nonsense'); "
        "assert 'sync_blocks' in dir(b)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_block_gives_a_client_that_works(provider: str) -> None:
    """One question through each provider's format, with the catalogue's knowledge of the model."""
    replies = {
        "anthropic": {
            "type": "message",
            "content": [{"type": "text", "text": "42"}],
            "stop_reason": "end_turn",
        },
        "google-ai-studio": {
            "candidates": [{"content": {"parts": [{"text": "42"}]}, "finishReason": "STOP"}]
        },
    }
    chat = {"choices": [{"message": {"content": "42"}, "finish_reason": "stop"}]}
    body = json.dumps(replies.get(provider, chat)).encode()
    async with rude_server(answers(response(body))) as server:
        block = CREDENTIALS[provider](api_key=SecretStr(ONE), base_url=server.url, allow_private_hosts=True)
        async with block.get_client() as client:
            assert (await client.chat("some-model", "What is 6 times 7?")).text == "42"
    assert ONE.encode() in b"".join(server.requests)


def test_a_block_refuses_an_address_that_breaks_a_rule() -> None:
    """Before any call; its repr shows no key."""
    block = AnthropicCredentials(api_key=SecretStr(ONE), base_url="http://api.example")
    with pytest.raises(ConfigError, match="https"):
        block.get_client()
    assert ONE not in repr(block)


# --- the environment first ---


async def test_the_variable_is_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Prefect is asked; the key is redacted from now on."""
    monkeypatch.setenv("THE_KEY", ONE)
    key = await load_key(target("anthropic"))
    assert key.get_secret_value() == ONE
    assert ONE not in redact(f"key {ONE}")


async def test_a_missing_key_names_variable_and_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a Prefect API none is started to look for the block."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with pytest.raises(MissingKeyError, match=r"THE_KEY.*tta-anthropic-the-key") as caught:
        await load_key(target("anthropic"))
    assert caught.value.variables == ("THE_KEY",)


async def test_a_local_server_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A public one does."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    local = at_address(target("openai-compatible"), "http://127.0.0.1:11434/v1")
    assert (await load_key(local)).get_secret_value() == ""
    with pytest.raises(MissingKeyError):
        await load_key(target("openai-compatible"))


def test_a_block_is_named_after_provider_variable_and_foreign_host() -> None:
    """Another address means another block: no key is sent where it does not belong."""
    assert block_name(target("anthropic")) == "tta-anthropic-the-key"
    own = at_address(target("anthropic"), "https://api.anthropic.com/v1/")
    assert block_name(own) == "tta-anthropic-the-key"
    other = at_address(target("anthropic"), "http://127.0.0.1:8080")
    assert block_name(other) == "tta-anthropic-the-key-127-0-0-1-8080"


# --- on a real server ---


def outcome(done: tuple[SyncedBlock, ...]) -> list[tuple[str, str]]:
    return [(block.name, block.outcome) for block in done]


@pytest.mark.usefixtures("prefect_server")
class TestSync:
    """`tta blocks sync`, and workers that live from what it saved."""

    def test_sync_saves_once_updates_on_rotation_and_never_erases(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Created, unchanged, updated; without the variable the stored key stays."""
        settings = config(tmp_path, variable="SYNC_KEY")
        name = "tta-anthropic-sync-key"
        assert outcome(sync_blocks(settings, environ={})) == [(name, "no key")]
        assert outcome(sync_blocks(settings, environ={"SYNC_KEY": ONE})) == [(name, "created")]
        assert outcome(sync_blocks(settings, environ={"SYNC_KEY": ONE})) == [(name, "unchanged")]
        assert outcome(sync_blocks(settings, environ={"SYNC_KEY": TWO})) == [(name, "updated")]
        assert outcome(sync_blocks(settings, environ={})) == [(name, "unchanged")]
        stored = AnthropicCredentials.load(name, _sync=True)  # type: ignore[call-arg]
        assert stored.api_key == SecretStr(TWO)

    def test_a_placeholder_is_no_key(self, tmp_path: Path) -> None:
        """`.env` straight from the guide must not overwrite a good key."""
        settings = config(tmp_path, variable="PLACEHOLDER_KEY")
        sync_blocks(settings, environ={"PLACEHOLDER_KEY": ONE})
        (done,) = sync_blocks(settings, environ={"PLACEHOLDER_KEY": "your-claude-key"})
        assert (done.outcome, "placeholder" in done.detail) == ("unchanged", True)

    async def test_a_worker_without_the_variable_uses_the_block(self, tmp_path: Path) -> None:
        """The key comes from Prefect, once; a rotated one after `forget_keys`."""
        model = _named(target("anthropic"), "WORKER_KEY")
        await AnthropicCredentials(api_key=SecretStr(ONE)).save("tta-anthropic-worker-key", overwrite=True)
        assert (await load_key(model)).get_secret_value() == ONE
        await AnthropicCredentials(api_key=SecretStr(TWO)).save("tta-anthropic-worker-key", overwrite=True)
        assert (await load_key(model)).get_secret_value() == ONE
        forget_keys()
        assert (await load_key(model)).get_secret_value() == TWO

    async def test_the_variable_beats_the_block(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What a person exports now is what they mean now."""
        await AnthropicCredentials(api_key=SecretStr(ONE)).save("tta-anthropic-both-key", overwrite=True)
        monkeypatch.setenv("BOTH_KEY", TWO)
        assert (await load_key(_named(target("anthropic"), "BOTH_KEY"))).get_secret_value() == TWO

    async def test_a_key_does_not_follow_a_changed_address(self, tmp_path: Path) -> None:
        """Another base_url looks for another block; one edited by hand to another host is refused."""
        await AnthropicCredentials(api_key=SecretStr(ONE)).save("tta-anthropic-moved-key", overwrite=True)
        elsewhere = at_address(_named(target("anthropic"), "MOVED_KEY"), "https://evil.example")
        with pytest.raises(MissingKeyError, match="tta-anthropic-moved-key-evil-example"):
            await load_key(elsewhere)
        edited = AnthropicCredentials(api_key=SecretStr(ONE), base_url="https://evil.example")
        await edited.save("tta-anthropic-moved-key", overwrite=True)
        with pytest.raises(ConfigError, match=r"bound to evil\.example"):
            await load_key(_named(target("anthropic"), "MOVED_KEY"))

    def test_sync_leaves_a_block_of_another_host_alone(self, tmp_path: Path) -> None:
        """It says so instead of moving a key to a new address."""
        edited = AnthropicCredentials(api_key=SecretStr(ONE), base_url="https://evil.example")
        edited.save("tta-anthropic-foreign-key", overwrite=True, _sync=True)  # type: ignore[call-arg]
        (done,) = sync_blocks(config(tmp_path, variable="FOREIGN_KEY"), environ={"FOREIGN_KEY": TWO})
        assert (done.outcome, "evil.example" in done.detail) == ("other host", True)

    async def test_a_missing_block_is_a_missing_key(self) -> None:
        """With a server that answers, the message is the same as without one."""
        with pytest.raises(MissingKeyError, match=r"NOWHERE_KEY.*tta-anthropic-nowhere-key"):
            await load_key(_named(target("anthropic"), "NOWHERE_KEY"))

    async def test_a_server_that_is_gone_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The key cannot be had, and the reason is Prefect, not the key."""
        from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

        gone = {PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}
        with temporary_settings(gone), pytest.raises(MissingKeyError, match=r"GONE_KEY.*Prefect could not"):
            await load_key(_named(target("anthropic"), "GONE_KEY"))

    async def test_every_block_type_can_be_entered_on_a_server(self) -> None:
        """With its logo, its page of documentation and a description, as the UI shows them."""
        from prefect.client.orchestration import get_client

        kinds = [getattr(block_types, name) for name in block_types.__all__]
        for kind in kinds:
            await kind.register_type_and_schema()
        async with get_client() as client:
            known = {kind.slug: kind for kind in await client.read_block_types()}
        for kind in kinds:
            entered = known[kind.get_block_type_slug()]
            assert entered.logo_url
            assert entered.documentation_url
            assert entered.description


def _named(model: object, variable: str) -> object:
    from dataclasses import replace

    return replace(model, api_key_env=variable)  # type: ignore[type-var]


def test_every_provider_has_its_block() -> None:
    """Five kinds, all of one family."""
    assert tuple(CREDENTIALS) == PROVIDERS
    assert all(issubclass(kind, ProviderCredentials) for kind in CREDENTIALS.values())
