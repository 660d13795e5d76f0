"""The official SDKs and litellm complete calls against the sandbox: the judges of whether its wire is real."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tta_dev_primitives.deployments.sandbox import Sandbox, parse_scenario

QUESTION = "What is 17 * 23?"
ANSWER = "[sandbox] The answer is 391."
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string"}},
    "required": ["answer"],
    "additionalProperties": False,
}
BUSY = parse_scenario("rules: [{match: {nth: 1}, reply: {error: rate_limit, retry_after: 0.01}}]")


def sdk(name: str) -> Any:
    """Import an SDK; its own deprecation warnings at import are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"{name} is in the test extra")


# Anthropic


@pytest.fixture
def claude(sandbox: Sandbox) -> Iterator[Any]:
    """Anthropic's client."""
    with sdk("anthropic").Anthropic(api_key="any", base_url=sandbox.base_url("anthropic")) as client:
        yield client


ASK = {"model": "claude-sonnet-4-6", "max_tokens": 200, "messages": [{"role": "user", "content": QUESTION}]}


def test_anthropic_gets_a_message_with_its_usage(claude: Any, sandbox: Sandbox) -> None:
    """A plain message has text, stop reason, usage and request id; the sandbox counts the same tokens."""
    message = claude.messages.create(**ASK)
    assert message.content[0].text == ANSWER
    assert (message.stop_reason, message.model) == ("end_turn", "claude-sonnet-4-6")
    assert message._request_id == sandbox.calls[0].request_id
    billed = sandbox.calls[0].usage
    assert (message.usage.input_tokens, message.usage.output_tokens) == (
        billed.input_tokens,
        billed.output_tokens,
    )


def test_anthropic_streams_the_same_message(claude: Any) -> None:
    """The SDK's accumulator rebuilds from the event stream what a plain call returns."""
    with claude.messages.stream(**ASK) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert text == message.content[0].text == ANSWER
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens == 7


def test_anthropic_structured_output_and_forced_tools_fit_their_schema(claude: Any) -> None:
    """`output_config.format` gives JSON text; a forced tool gives its input, streamed too."""
    text = claude.messages.create(**ASK, output_config={"format": {"type": "json_schema", "schema": SCHEMA}})
    assert json.loads(text.content[0].text) == {"answer": "391"}
    tools = {
        "tools": [{"name": "emit", "input_schema": SCHEMA}],
        "tool_choice": {"type": "tool", "name": "emit"},
    }
    called = claude.messages.create(**ASK, **tools)
    assert (called.stop_reason, called.content[0].input) == ("tool_use", {"answer": "391"})
    with claude.messages.stream(**ASK, **tools) as stream:
        assert stream.get_final_message().content[0].input == {"answer": "391"}


def test_anthropic_lists_its_models(claude: Any) -> None:
    """The model list is in types that the SDK knows."""
    assert ("claude-sonnet-4-5", "active") in [(m.id, m.lifecycle) for m in claude.models.list()]


def test_anthropic_caches_what_is_marked(claude: Any, sandbox: Sandbox) -> None:
    """A marked beginning is written, then read by key, model and text; a short one, and another's, are not read."""
    mark = {"cache_control": {"type": "ephemeral"}}
    rules = [{"type": "text", "text": "Follow the house rules. " * 400, **mark}]

    def usage(**changes: Any) -> tuple[int, int, int]:
        found = claude.messages.create(**{**ASK, **changes}).usage
        written = found.cache_creation
        assert (
            found.cache_creation_input_tokens
            == written.ephemeral_5m_input_tokens + written.ephemeral_1h_input_tokens
        )
        return found.input_tokens, found.cache_creation_input_tokens, found.cache_read_input_tokens

    alone = usage(system=[{"type": "text", "text": rules[0]["text"]}])
    wrote, read = usage(system=rules), usage(system=rules)
    assert alone[1:] == (0, 0)
    assert wrote[1] == read[2] >= 2048
    assert sum(alone) == sum(wrote) == sum(read)
    assert usage(system=rules, model="claude-sonnet-5-5")[1:] == (0, 0)  # keeps 4,096 tokens and more
    assert usage(system=[{**rules[0], "text": "Be brief."}])[1:] == (0, 0)
    hour = usage(
        system=[
            {
                **rules[0],
                "text": rules[0]["text"] + "!",
                "cache_control": {**mark["cache_control"], "ttl": "1h"},
            }
        ]
    )
    assert hour[1] > 0
    assert sandbox.calls[-1].usage.cache_write_1h_tokens == hour[1]
    too_many = [{"type": "text", "text": f"rule {n}", **mark} for n in range(5)]
    with pytest.raises(sdk("anthropic").BadRequestError, match="maximum of 4 blocks"):
        usage(system=too_many)


def test_anthropic_errors_are_the_sdks_own_classes(claude: Any, sandbox: Sandbox) -> None:
    """Unknown models, refused options and overload raise the SDK's typed errors; a short 429 is retried."""
    anthropic = sdk("anthropic")
    with pytest.raises(anthropic.NotFoundError, match="model: claude-sonnet-4\\.5"):
        claude.messages.create(**{**ASK, "model": "claude-sonnet-4.5"})
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        claude.messages.create(**{**ASK, "model": "claude-sonnet-5-5"}, extra_body={"temperature": 0.2})
    sandbox.use(parse_scenario("rules: [{reply: {error: overloaded}}]"))
    with pytest.raises(anthropic.OverloadedError):
        claude.with_options(max_retries=0).messages.create(**ASK)
    sandbox.use(BUSY)
    assert claude.messages.create(**ASK).content[0].text == ANSWER


# OpenAI and Groq


@pytest.fixture
def openai_client(sandbox: Sandbox) -> Iterator[Any]:
    """OpenAI's client."""
    with sdk("openai").OpenAI(api_key="any", base_url=sandbox.base_url("openai-compatible")) as client:
        yield client


@pytest.fixture
def groq_client(sandbox: Sandbox) -> Iterator[Any]:
    """Groq's client."""
    with sdk("groq").Groq(api_key="any", base_url=sandbox.base_url("groq")) as client:
        yield client


def chat(client: Any, model: str, **options: Any) -> Any:
    """One chat completion."""
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    return client.chat.completions.create(model=model, messages=messages, **options)


def test_openai_completes_and_streams(openai_client: Any) -> None:
    """Plain and streamed completions carry the same text, finish and usage."""
    whole = chat(openai_client, "sandbox-model", temperature=0.2, max_tokens=100)
    chunks = list(chat(openai_client, "sandbox-model", stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert whole.choices[0].message.content == text == ANSWER
    assert chunks[-1].usage == whole.usage
    assert [m.id for m in openai_client.models.list()] == ["sandbox-model"]


def test_openai_parses_structured_output(openai_client: Any) -> None:
    """The SDK's own parser takes a strict schema's answer."""
    from pydantic import BaseModel

    class Result(BaseModel):
        answer: str

    done = openai_client.chat.completions.parse(
        model="sandbox-model", messages=[{"role": "user", "content": QUESTION}], response_format=Result
    )
    assert done.choices[0].message.parsed == Result(answer="391")


def test_openai_errors_are_the_sdks_own_classes(openai_client: Any, sandbox: Sandbox) -> None:
    """Unknown fields, gone models and rate limits raise typed errors with their codes."""
    openai = sdk("openai")
    with pytest.raises(openai.BadRequestError, match="Unrecognized request argument supplied: nonsense"):
        chat(openai_client, "sandbox-model", extra_body={"nonsense": 1})
    sandbox.use(parse_scenario("models: {old: {gone: true}}"))
    with pytest.raises(openai.NotFoundError) as gone:
        chat(openai_client, "old")
    assert gone.value.code == "model_not_found"
    sandbox.use(BUSY)
    assert chat(openai_client, "sandbox-model").choices[0].message.content == ANSWER


def test_groq_completes_and_streams(groq_client: Any) -> None:
    """Groq's usage has its times, and a stream ends with usage under `x_groq`."""
    whole = chat(groq_client, "llama-3.3-70b-versatile", max_completion_tokens=100, seed=1)
    assert whole.choices[0].message.content == ANSWER
    assert whole.usage.total_time > 0
    assert whole.x_groq.id.startswith("req_")
    chunks = list(chat(groq_client, "llama-3.3-70b-versatile", stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == ANSWER
    assert next(c.x_groq.usage for c in reversed(chunks) if c.x_groq).completion_tokens == 7


def test_groq_rules_raise_the_sdks_own_classes(groq_client: Any, sandbox: Sandbox) -> None:
    """What Groq does not take is refused with its codes; a quota turns the second call away."""
    groq = sdk("groq")
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    with pytest.raises(groq.BadRequestError, match="json_schema"):
        chat(groq_client, "llama-3.3-70b-versatile", response_format=schema)
    with pytest.raises(groq.BadRequestError, match="reasoning_effort"):
        chat(groq_client, "openai/gpt-oss-20b", reasoning_effort="none")
    assert "llama-3.3-70b-versatile" in [m.id for m in groq_client.models.list().data]
    sandbox.use(parse_scenario("quotas: [{provider: groq, rpm: 1}]"))
    once = groq_client.with_options(max_retries=0)
    chat(once, "llama-3.3-70b-versatile")
    with pytest.raises(
        groq.RateLimitError, match=r"requests per minute \(RPM\): Limit 1, Used 1, Requested 1"
    ):
        chat(once, "llama-3.3-70b-versatile")


# Gemini


@pytest.fixture(params=["v1", "v1beta"])
def gemini(sandbox: Sandbox, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Google's client, on both versions of the API."""
    genai = sdk("google.genai")
    options = genai.types.HttpOptions(
        base_url=sandbox.base_url("google-ai-studio"), api_version=request.param
    )
    client = genai.Client(api_key="any", http_options=options)
    yield client
    client.close()


def test_gemini_generates_and_streams(gemini: Any) -> None:
    """Plain and streamed answers carry the same text and usage."""
    config = {"system_instruction": "Be brief.", "max_output_tokens": 200, "temperature": 0.1}
    whole = gemini.models.generate_content(model="gemini-2.5-pro", contents=QUESTION, config=config)
    parts = list(
        gemini.models.generate_content_stream(model="gemini-2.5-pro", contents=QUESTION, config=config)
    )
    assert whole.text == "".join(p.text or "" for p in parts) == ANSWER
    assert parts[-1].usage_metadata == whole.usage_metadata
    assert whole.candidates[0].finish_reason.value == "STOP"


def test_gemini_structured_output_fits_its_schema(gemini: Any) -> None:
    """A response schema, of either kind, gives JSON that the SDK parses."""
    from pydantic import BaseModel

    class Result(BaseModel):
        answer: str

    for config in (
        {"response_mime_type": "application/json", "response_schema": Result},
        {"response_mime_type": "application/json", "response_json_schema": SCHEMA},
    ):
        done = gemini.models.generate_content(model="gemini-2.5-pro", contents=QUESTION, config=config)
        assert json.loads(done.text) == {"answer": "391"}


def test_gemini_errors_are_the_sdks_own_classes(gemini: Any, sandbox: Sandbox) -> None:
    """Wrong names, forbidden options and quota errors raise the SDK's errors with status and details."""
    errors = importlib.import_module("google.genai.errors")
    with pytest.raises(errors.ClientError, match="NOT_FOUND"):
        gemini.models.generate_content(model="claude-sonnet-4-5", contents=QUESTION)
    with pytest.raises(errors.ClientError, match="only works in thinking mode"):
        gemini.models.generate_content(
            model="gemini-2.5-pro", contents=QUESTION, config={"thinking_config": {"thinking_budget": 0}}
        )
    sandbox.use(parse_scenario("quotas: [{model: 'gemini-*', rpd: 0}]"))
    with pytest.raises(errors.ClientError) as exhausted:
        gemini.models.generate_content(model="gemini-2.5-pro", contents=QUESTION)
    assert exhausted.value.code == 429
    assert "PerDay" in str(exhausted.value.details)
    assert "gemini-2.5-pro" in [m.name.removeprefix("models/") for m in gemini.models.list()]


# OpenRouter


# Its modules are imported on use, and with them one that names what Python 3.14 removes.
@pytest.mark.filterwarnings("ignore:ast\\.:DeprecationWarning")
def test_openrouter_completes_streams_and_refuses(sandbox: Sandbox) -> None:
    """OpenRouter's SDK validates each reply against its schemas: answers, streams and errors pass."""
    openrouter = sdk("openrouter")
    errors = importlib.import_module("openrouter.errors")
    messages = [{"role": "user", "content": QUESTION}]
    with openrouter.OpenRouter(api_key="any", server_url=sandbox.base_url("openrouter")) as client:
        whole = client.chat.send(model="deepseek/deepseek-r1:free", messages=messages, stream=False)
        assert whole.choices[0].message.content == ANSWER
        assert whole.usage.cost == 0
        chunks = list(client.chat.send(model="deepseek/deepseek-r1:free", messages=messages, stream=True))
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == ANSWER
        assert "deepseek/deepseek-r1:free" in [m.id for m in client.models.list().result.data]
        sandbox.use(parse_scenario("models: {'deepseek/deepseek-r1:free': {gone: true}}"))
        with pytest.raises(errors.OpenRouterError, match="No endpoints found"):
            client.chat.send(model="deepseek/deepseek-r1:free", messages=messages, stream=False)


# litellm: it pins an older openai package, so it lives in an environment of its own.

_LITELLM = """
import json, sys
import litellm

url, question = sys.argv[1:]
out = {}
for model, path in [
    ("anthropic/claude-sonnet-4-5", ""),
    ("gemini/gemini-2.5-pro", "/v1beta"),
    ("groq/llama-3.3-70b-versatile", "/openai/v1"),
    ("openrouter/deepseek/deepseek-r1:free", "/api/v1"),
    ("openai/sandbox-model", "/v1"),
]:
    messages = [{"role": "user", "content": question}]
    ask = dict(model=model, api_base=url + path, api_key="any", max_tokens=200, messages=messages)
    whole = litellm.completion(**ask)
    parts = [c.choices[0].delta.content or "" for c in litellm.completion(stream=True, **ask) if c.choices]
    content = whole.choices[0].message.content
    out[model.split("/")[0]] = [content, "".join(parts), whole.usage.completion_tokens]
print(json.dumps(out))
"""


def test_litellm_completes_and_streams_with_each_provider(sandbox: Sandbox, tmp_path: Path) -> None:
    """litellm's client gets the same answer, plain and streamed, from all five faces."""
    python = os.environ.get("LITELLM_PYTHON")
    if not python:
        pytest.skip("litellm needs openai < 3: install it in its own environment and name LITELLM_PYTHON")
    script = tmp_path / "ask.py"
    script.write_text(_LITELLM)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [python, str(script), sandbox.url, QUESTION],
        capture_output=True, text=True, timeout=110, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    got = json.loads(done.stdout.strip().splitlines()[-1])
    assert got == {
        name: [ANSWER, ANSWER, 7] for name in ("anthropic", "gemini", "groq", "openrouter", "openai")
    }
