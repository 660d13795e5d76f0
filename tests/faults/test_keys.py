"""Rows 47 to 49: keys that are missing, cannot be sent, or would travel in an address."""

from __future__ import annotations

import base64
import json

import fault_replies as f
import pytest
from drive import FREE, PAID_KEY, TEXTS, Bench, drive, honest, ledger_rows
from leaks import forms_of
from matrix import SITES

from tta_dev_primitives.config import load_orchestration_config
from tta_dev_primitives.config.errors import ConfigError

NO_KEYS = (None, "", "your-anthropic-key", "<key>", "sk-...")


@pytest.mark.parametrize("site", SITES)
async def test_a_missing_key_costs_nothing(site: str, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is sent, nothing is reserved, the message names the variable; free models with a key go on."""
    for value in NO_KEYS:
        monkeypatch.setenv(PAID_KEY, value or "")
        if value is None:
            monkeypatch.delenv(PAID_KEY)
        async with honest(bench, site) as (runtime, server):
            outcome = await drive(runtime, site)
            assert outcome.action == "next", value
            assert (server.connections, await ledger_rows(runtime)) == (0, [])
            said = [a.reason or "" for a in outcome.attempts]
            said += [text for item in outcome.items for text in (*item.reasons, *item.warnings)]
            said += [passed.reason for item in outcome.items for passed in item.route.passed_over]
            assert any(PAID_KEY in text for text in said), said


BAD_KEYS = {
    "line break within": "{}\nX-Injected: 1",
    "carriage return": "{}\rX",
    "two line breaks at the end": "{}\n\n",
    "not ASCII": "{}é",
    "quotes": '"{}"',
    "blank": "{} {}",
    "tab": "{}\t",
    "too long": "{}" * 200,
}


@pytest.mark.parametrize("site", SITES)
async def test_a_key_that_cannot_be_sent_is_not_shown(
    site: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run stops with the variable's name, before any socket; HTTP libraries would print the whole header."""
    for name, form in BAD_KEYS.items():
        monkeypatch.setenv(PAID_KEY, form.replace("{}", bench.key))
        async with honest(bench, site) as (runtime, server):
            outcome = await drive(runtime, site)
            assert (outcome.action, type(outcome.error)) == ("stop", ConfigError), name
            assert str(outcome.error).startswith(f"{PAID_KEY}: the key ")
            assert bench.key not in repr(outcome.error)
            assert (server.connections, await ledger_rows(runtime)) == (0, [])
    monkeypatch.setenv(PAID_KEY, f"{bench.key}\n")
    async with honest(bench, site) as (runtime, _):
        assert (await drive(runtime, site)).action == "keep", (
            "one line break at the end is a habit of editors"
        )


@pytest.mark.parametrize("site", SITES)
async def test_no_key_is_in_an_address(site: str, bench: Bench) -> None:
    """Gemini's `?key=` is never used: the key goes into one header, and an address that holds one is refused."""
    lines: list[str] = []
    keys: list[str] = []

    def answer(text: str, asked: f.Asked) -> bytes:
        lines.append(asked.target)
        keys.append(asked.key)
        reply = {
            "candidates": [{"content": {"parts": [{"text": text}]}, "finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": f.INPUT, "candidatesTokenCount": f.OUTPUT},
        }
        return f.ok(json.dumps(reply).encode())

    async with honest(bench, site, serve=f.answering(answer, TEXTS[site]), provider="google-ai-studio") as (
        runtime,
        _,
    ):
        assert (await drive(runtime, site)).action == "keep"
    assert lines
    assert set(keys) == {bench.key}
    assert not any(bench.key in line or "key=" in line for line in lines)


@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request", "500 Internal Server Error"])
async def test_a_provider_that_quotes_the_key_gets_it_kept_nowhere(status: str, bench: Bench) -> None:
    """In answer, ids and errors; the bench looks for it in the ledger, in every file and in the log."""

    def quoting(text: str, asked: f.Asked) -> bytes:
        key = asked.key
        coded = base64.b64encode(f"Bearer {key}".encode()).decode()
        said = f"{text} I got {key}, {key[::-1]}, {coded} and {key.encode().hex()}."
        if status != "200 OK":
            error = {"type": "error", "error": {"type": key, "message": said}, "request_id": key}
            return f.response(json.dumps(error).encode(), status=status, headers={"request-id": key})
        return f.ok(f.message(said), request_id=f"req_{key}")

    async with honest(bench, "execute", serve=f.answering(quoting, TEXTS["execute"])) as (runtime, _):
        outcome = await drive(runtime, "execute")
        assert outcome.action == ("keep" if status == "200 OK" else "next")
        said = [answer.text for item in outcome.items for answer in item.open_case.answers]
        if status != "200 OK":
            said = [attempt.reason or "" for attempt in outcome.attempts]
        assert "I got [redacted], [redacted], " in said[0]
        assert not any(form.decode() in repr(outcome) for form in forms_of(bench.key))


@pytest.mark.parametrize("query", ["?key={}", "?api_key={}", "#{}", "/v1?token={}"])
async def test_an_address_that_holds_a_key_is_refused(query: str, bench: Bench) -> None:
    """The message does not repeat it."""
    entry = {"model": FREE, "provider": "openai-compatible", "billing": "free", "use_cases": ["simple"]}
    entry |= {"api_key_env": "FAULT_FREE_KEY", "base_url": "https://p.example" + query.format(bench.key)}
    path = bench.folder / "address.yaml"
    path.write_text(json.dumps({"orchestration": {"executors": [entry]}}))
    with pytest.raises(ConfigError) as caught:
        load_orchestration_config(path)
    assert "base_url" in str(caught.value)
    assert bench.key not in f"{caught.value!r}{caught.value}"
