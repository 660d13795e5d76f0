"""One way of calling models, in a process of its own, told what to do over stdin.

    python tests/benchmarks/contenders.py NAME URL       # then a line `W3 17` for each piece of work

Answers each line with `{"wall_s", "cpu_ms", "behind_s", "calls"}`; an empty line or the end of stdin ends it with its
peak memory. Runs in any environment that has the contender: nothing of ours is imported for the others.

W1 one call; W2 a call that fails, then its fallback; W3 plan, execute (a fallback in 1 of 5), validate.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

Work = Callable[[str], Awaitable[object]]
Ask = Callable[[str, str], Awaitable[str]]
Made = tuple[dict[str, Work], Callable[[], Awaitable[None]]]
KEY = "some-key-for-tests"
_PLAN = "plan: subtasks"


def task_text(number: int) -> str:
    return f"Summarize the main ideas of task number {number} in one or two plain sentences."


def verdict_text(text: str, answer: str) -> str:
    return f"Task:\n{text}\nAnswer:\n{answer}\nReply with JSON: score and reason."


def calls_of(workload: str, number: int) -> int:
    """Calls to the provider, one after the other, each of the loopback's latency."""
    fallback = number % 5 == 0
    return {"W1": 1, "W2": 2, "W3": 4 if fallback else 3}[workload]


async def nothing() -> None:
    """Nothing follows the answer."""


def by_hand(ask: Ask, failed: type[Exception]) -> dict[str, Work]:
    """The three workloads for whoever has one function that asks one model."""

    async def either(text: str) -> str:
        try:
            return await ask("flaky", text)
        except failed:
            return await ask("steady", text)

    async def whole(text: str) -> float:
        await ask("judge", _PLAN)
        answer = await either(text)
        return float(json.loads(await ask("judge", verdict_text(text, answer)))["score"])

    return {"W1": lambda text: ask("steady", text), "W2": either, "W3": whole}


def with_fallback(ask: Ask, ask_with_fallback: Callable[[str], Awaitable[str]]) -> dict[str, Work]:
    """The three workloads for a library that falls back by itself."""

    async def whole(text: str) -> float:
        await ask("judge", _PLAN)
        answer = await ask_with_fallback(text)
        return float(json.loads(await ask("judge", verdict_text(text, answer)))["score"])

    return {"W1": lambda text: ask("steady", text), "W2": ask_with_fallback, "W3": whole}


# ------------------------------------------------------------------ the bare loops
async def bare(url: str, *, aiohttp_transport: bool = False) -> Made:
    import httpx

    transport: Any = None
    if aiohttp_transport:
        from httpx_aiohttp import AiohttpTransport

        transport = AiohttpTransport()
    client = httpx.AsyncClient(transport=transport, timeout=60)

    async def ask(model: str, text: str) -> str:
        body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 2048}
        headers = {"authorization": f"Bearer {KEY}"}
        reply = await client.post(f"{url}/v1/chat/completions", json=body, headers=headers)
        reply.raise_for_status()
        return str(reply.json()["choices"][0]["message"]["content"])

    return by_hand(ask, httpx.HTTPStatusError), client.aclose


# ------------------------------------------------------------------ Prefect as its tutorials show it
async def naive_prefect(url: str) -> Made:
    import httpx
    from prefect import flow, task
    from prefect.artifacts import acreate_markdown_artifact

    client = httpx.AsyncClient(timeout=60)

    async def ask(model: str, text: str) -> str:
        body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 2048}
        reply = await client.post(f"{url}/v1/chat/completions", json=body)
        reply.raise_for_status()
        return str(reply.json()["choices"][0]["message"]["content"])

    @task
    async def plan(text: str) -> str:
        return await ask("judge", _PLAN)

    @task
    async def execute(text: str, models: tuple[str, ...]) -> str:
        for model in models:
            try:
                return await ask(model, text)
            except httpx.HTTPStatusError:
                if model == models[-1]:
                    raise
        raise AssertionError

    @task
    async def validate(text: str, answer: str) -> str:
        return await ask("judge", verdict_text(text, answer))

    @flow
    async def one_task(text: str, models: tuple[str, ...]) -> str:
        answer = await execute(text, models)
        await acreate_markdown_artifact(key="result", markdown=answer)
        return answer

    @flow
    async def three_tasks(text: str) -> str:
        await plan(text)
        verdict = await validate(text, await execute(text, ("flaky", "steady")))
        await acreate_markdown_artifact(key="result", markdown=verdict)
        return verdict

    return {
        "W1": lambda text: one_task(text, ("steady",)),
        "W2": lambda text: one_task(text, ("flaky", "steady")),
        "W3": three_tasks,
    }, client.aclose


async def naive_prefect_tuned(url: str) -> Made:
    """The same flows, on the server and with the client settings that `tta` uses."""
    from tta_dev_primitives.flows.prefect_support.api_connection import use_server

    use_server()
    return await naive_prefect(url)


# ------------------------------------------------------------------ router libraries
async def litellm_router(url: str) -> Made:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    from litellm import Router  # type: ignore[import-not-found,unused-ignore]

    def of(model: str) -> dict[str, Any]:
        own = {"model": f"openai/{model}", "api_base": f"{url}/v1", "api_key": KEY}
        return {"model_name": model, "litellm_params": own}

    router = Router(
        model_list=[of("flaky"), of("steady"), of("judge")],
        fallbacks=[{"flaky": ["steady"]}],
        num_retries=0,
        disable_cooldowns=True,
    )

    async def ask(model: str, text: str) -> str:
        messages = [{"role": "user", "content": text}]
        reply = await router.acompletion(model=model, messages=messages, max_tokens=2048)
        return str(reply.choices[0].message.content)

    return with_fallback(ask, lambda text: ask("flaky", text)), nothing


async def pydantic_ai(url: str, *, durable: bool = False) -> Made:
    """Its agents; durable ones are flow runs of Prefect, with a task run a model request."""
    from pydantic_ai import Agent  # type: ignore[import-not-found,unused-ignore]
    from pydantic_ai.models.fallback import FallbackModel  # type: ignore[import-not-found,unused-ignore]
    from pydantic_ai.models.openai import OpenAIChatModel  # type: ignore[import-not-found,unused-ignore]
    from pydantic_ai.providers.openai import OpenAIProvider  # type: ignore[import-not-found,unused-ignore]

    provider = OpenAIProvider(base_url=f"{url}/v1", api_key=KEY)
    models = {name: OpenAIChatModel(name, provider=provider) for name in ("flaky", "steady", "judge")}
    agents = {name: Agent(model, name=name) for name, model in models.items()}
    either = Agent(FallbackModel(models["flaky"], models["steady"]), name="either")
    if durable:
        from pydantic_ai.durable_exec.prefect import PrefectAgent  # type: ignore[import-not-found,unused-ignore]

        agents, either = {name: PrefectAgent(agent) for name, agent in agents.items()}, PrefectAgent(either)

    async def ask(model: str, text: str) -> str:
        return str((await agents[model].run(text)).output)

    async def ask_either(text: str) -> str:
        return str((await either.run(text)).output)

    return with_fallback(ask, ask_either), nothing


# ------------------------------------------------------------------ ours
_CONFIG = """
orchestration:
  allow_private_hosts: true
  planning: {planning}
  validation: {{mode: {mode}}}
  cost_tracking: {{budget_limit_usd: 1000.0, ledger_url: "sqlite:///{folder}/ledger.db"}}
  orchestrator:
    {{model: judge, provider: openai-compatible, base_url: "{url}/v1", api_key_env: BENCH_KEY, billing: paid,
      price: {{input_usd_per_mtok: 3, output_usd_per_mtok: 15}}}}
  executors:
{executors}
  fallback_strategy: {{models: [{names}]}}
"""
_EXECUTOR = """\
    - {{model: {name}, provider: openai-compatible, base_url: "{url}/v1", api_key_env: BENCH_KEY,
        billing: free, use_cases: [simple, moderate, complex, expert, speed-critical, reasoning]}}"""


async def ours(url: str) -> Made:
    """Plan, budget, execute, validate with money held and settled in the ledger for each call."""
    from tta_dev_primitives.flows.workflow import MultiModelWorkflow

    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    os.environ["BENCH_KEY"] = KEY

    def workflow(kind: str, planning: str, mode: str, *models: str) -> MultiModelWorkflow:
        executors = "\n".join(_EXECUTOR.format(name=name, url=url) for name in models)
        names = ", ".join([*models, "judge"])
        text = _CONFIG.format(
            planning=planning, mode=mode, folder=folder, url=url, executors=executors, names=names
        )
        path = folder / f"{kind}.yaml"
        path.write_text(text)
        return MultiModelWorkflow(path, use_env_overrides=False)

    made = {
        "W1": workflow("W1", "never", "never", "steady"),
        "W2": workflow("W2", "never", "never", "flaky", "steady"),
        "W3": workflow("W3", "always", "always", "flaky", "steady"),
    }
    for one in made.values():
        await one.ready()
    from tta_dev_primitives.flows.prefect_support.loop_connection import background_done

    def work_of(workload: str) -> Work:
        async def work(text: str) -> None:
            result = await made[workload].execute(text, use_case="moderate")
            assert result.accepted, result
            assert not any(attempt.reused for attempt in result.attempts), "an answer of the store is no call"

        return work

    return {workload: work_of(workload) for workload in made}, background_done


CONTENDERS: dict[str, Callable[[str], Awaitable[Made]]] = {
    "httpx": bare,
    "httpx + aiohttp": lambda url: bare(url, aiohttp_transport=True),
    "naive Prefect": naive_prefect,
    "naive Prefect, tuned": naive_prefect_tuned,
    "tta": ours,
    "LiteLLM Router": litellm_router,
    "pydantic-ai FallbackModel": pydantic_ai,
    "pydantic-ai PrefectAgent": lambda url: pydantic_ai(url, durable=True),
}


async def serve(name: str, url: str) -> None:
    """Do the work that stdin asks for."""
    works, after = await CONTENDERS[name](url)
    loop = asyncio.get_running_loop()
    print("ready", flush=True)
    while line := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        workload, number = line.split()
        text = task_text(int(number))
        cpu, began = time.process_time(), time.perf_counter()
        await works[workload](text)
        wall = time.perf_counter() - began
        if name == "tta":
            await after()
        behind = time.perf_counter() - began - wall
        told = {
            "wall_s": wall,
            "cpu_ms": 1000 * (time.process_time() - cpu),
            "behind_s": behind,
            "calls": calls_of(workload, int(number)),
        }
        print(json.dumps(told), flush=True)
    await after()
    print(json.dumps({"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}), flush=True)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2]))
