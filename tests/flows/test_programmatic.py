"""The flows as Prefect users call them: as a flow, as a sub-flow, from a notebook, sync and async, with traces."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prefect import flow, task
from prefect.client.orchestration import get_client
from sandbox_runs import GEMINI, LLAMA, LONG_ANSWERS, LONG_RULE, At

from tta_dev_primitives.flows import orchestrate, orchestrate_bulk
from tta_dev_primitives.orchestration import ConfigError, OrchestrationResult

TASK = "Describe how a kettle works."


@pytest.fixture
def config_path(at: At) -> str:
    """A configuration file whose models a sandbox serves."""
    return str(at(LONG_ANSWERS, saved="1").config.source)


async def test_the_flow_is_called_like_any_other(config_path: str) -> None:
    """`await orchestrate(...)` gives the result, from a configuration file and no workflow object."""
    result = await orchestrate(TASK, use_case="moderate", config_path=config_path)
    assert result.accepted
    assert result.model == GEMINI


def test_a_script_without_a_loop_runs_the_flow(config_path: str) -> None:
    """`asyncio.run(orchestrate(...))` in a plain script; its next run on a new loop works too."""
    for _ in range(2):
        assert asyncio.run(orchestrate(TASK, use_case="moderate", config_path=config_path)).accepted


async def test_it_is_a_sub_flow_of_the_users_own_flow(config_path: str) -> None:
    """Inside a user's flow, between his own tasks, the run is a child of his run."""

    @task
    async def shout(text: str) -> str:
        return text.upper()

    @flow
    async def mine(topic: str) -> tuple[str, OrchestrationResult]:
        result = await orchestrate(
            f"Describe how {topic} works.", use_case="moderate", config_path=config_path
        )
        return await shout(result.content), result

    text, result = await mine("a kettle")
    assert text == result.content.upper()
    async with get_client() as client:
        child = await client.read_flow_run(UUID(result.flow_run_id))
    assert child.parent_task_run_id is not None


async def test_a_sync_flow_may_use_the_workflow(at: At) -> None:
    """`workflow.run` inside a user's sync flow, as beginners write it."""
    workflow = at()

    @flow
    def mine() -> bool:
        return workflow.run(TASK, use_case="moderate").accepted

    assert await asyncio.to_thread(mine)


async def test_a_notebook_cell_may_call_it_both_ways(at: At) -> None:
    """Where a loop runs already, `run` works as well as `await execute`, one after the other and together."""
    workflow = at()
    first = workflow.run(TASK, use_case="moderate")
    second, third = await asyncio.gather(
        workflow.execute("Describe how a lamp works.", use_case="moderate"),
        workflow.execute("Describe how a door works.", use_case="moderate"),
    )
    assert all(result.accepted for result in (first, second, third))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"task": " "}, "it is empty"), ({"task": "x", "config_path": "nowhere.yaml"}, "nowhere.yaml")],
)
async def test_a_wrong_argument_is_named(arguments: dict[str, str], said: str, config_path: str) -> None:
    """What is wrong with an argument is said in one line, as an error to catch."""
    with pytest.raises((ConfigError, FileNotFoundError), match=said):
        await orchestrate(**{"config_path": config_path, **arguments})  # type: ignore[arg-type]


def test_the_bulk_flow_is_called_with_paths(config_path: str, tmp_path: Path) -> None:
    """`orchestrate_bulk(input_path=..., output_path=...)` inside a program."""
    source, target = tmp_path / "tasks.jsonl", tmp_path / "results.jsonl"
    source.write_text("".join(f'{{"id": "{n}", "task": "Describe thing {n}."}}\n' for n in range(3)))
    asyncio.run(orchestrate_bulk(input_path=str(source), output_path=str(target), config_path=config_path))
    assert len(target.read_text().splitlines()) == 3
    keys = asyncio.run(_artifact_keys())
    assert "tta-bulk-progress" in keys
    assert any(key.startswith("tta-spend-") for key in keys)


async def _artifact_keys() -> set[str]:
    async with get_client() as client:
        return {str(artifact.key) for artifact in await client.read_latest_artifacts()}


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """A collector in this process that receives every span."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


async def test_each_provider_call_is_a_genai_span(spans: InMemorySpanExporter, at: At) -> None:
    """One client span a call by the GenAI conventions, the failed one with its class; no prompt, answer or key."""
    failing = f"{{match: {{model: {GEMINI}, prompt: solve}}, reply: {{error: overloaded}}}}"
    busy = f"rules: [{failing}, {LONG_RULE}]"
    workflow = at(busy, saved="1")
    result = await workflow.execute(TASK, use_case="moderate")
    sent = [span for span in spans.get_finished_spans() if span.name.startswith("chat ")]
    assert len(sent) == len(result.attempts)
    of = {(span.name, span.status.status_code.name): dict(span.attributes or {}) for span in sent}
    failed, answered = of[f"chat {GEMINI}", "ERROR"], of[f"chat {LLAMA}", "UNSET"]
    assert failed["gen_ai.provider.name"] == "gcp.gemini"
    assert failed["error.type"] == "overloaded"
    assert answered["gen_ai.operation.name"] == "chat"
    assert answered["gen_ai.provider.name"] == "groq"
    assert answered["gen_ai.request.model"] == LLAMA
    answer = next(a for a in result.attempts if a.role == "execute" and a.outcome == "ok")
    assert answered["gen_ai.usage.input_tokens"] == answer.input_tokens
    assert answered["gen_ai.usage.output_tokens"] == answer.output_tokens
    shown = " ".join(span.to_json() for span in sent)
    assert "kettle" not in shown
    assert "sandbox-test-key" not in shown
