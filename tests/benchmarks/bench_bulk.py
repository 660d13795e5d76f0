"""Bulk speed against bare loops and naive Prefect, same loopback server, same round.

    python tests/benchmarks/bench_bulk.py [--items 1000] [--rounds 1] [--concurrency 50,200] [--memory] [--json]

W3: plan once; execute with a fallback in 1 of 5; validate with the paid model. Latency 50 ms a call. `ours`
is the whole
product: file in, file out, answer store, spend ledger (every verdict is reserved and settled durably), Prefect task
runs, artifacts. Each contender runs in a process of its own; wall and CPU are of the work, without imports and start.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from loopback import loopback

CONTENDERS = ("httpx", "httpx+aiohttp", "naive prefect", "ours")


def task_text(number: int) -> str:
    return f"Summarize the main ideas of task number {number} in one or two plain sentences."


def body(model: str, text: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 2048}


# ------------------------------------------------------------------ the bare loops
async def bare(
    url: str, items: int, concurrency: int, mark: Callable[[], None], *, aiohttp_transport: bool
) -> None:
    import httpx

    transport: Any = None
    if aiohttp_transport:
        import aiohttp
        from httpx_aiohttp import AiohttpTransport

        transport = AiohttpTransport(
            client=lambda: aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1000))
        )
    mark()
    limits = httpx.Limits(max_connections=1000, max_keepalive_connections=1000)
    slots = asyncio.Semaphore(concurrency)
    async with httpx.AsyncClient(transport=transport, limits=limits, timeout=60) as client:

        async def ask(model: str, text: str) -> str | None:
            async with slots:
                reply = await client.post(
                    f"{url}/v1/chat/completions",
                    json=body(model, text),
                    headers={"authorization": "Bearer some-key-for-tests"},
                )
            if reply.status_code != 200:
                return None
            return str(reply.json()["choices"][0]["message"]["content"])

        async def one(number: int) -> float:
            text = task_text(number)
            answer = await ask("flaky", text) or await ask("steady", text)
            verdict = await ask(
                "judge", f"Task:\n{text}\nAnswer:\n{answer}\nReply with JSON: score and reason."
            )
            return float(json.loads(verdict or "{}")["score"])

        await ask("judge", "plan: subtasks")
        with open(os.devnull, "a") as out:  # noqa: ASYNC230 - outside of what is timed
            for score in asyncio.as_completed([one(number) for number in range(items)]):
                out.write(json.dumps({"score": await score}) + "\n")


# ------------------------------------------------------------------ Prefect as the tutorials show it
async def naive_prefect(url: str, items: int, concurrency: int) -> None:
    import httpx
    from prefect import flow, task

    client = httpx.AsyncClient(timeout=60)

    async def ask(model: str, text: str) -> str:
        reply = await client.post(f"{url}/v1/chat/completions", json=body(model, text))
        reply.raise_for_status()
        return str(reply.json()["choices"][0]["message"]["content"])

    @task
    async def plan(text: str) -> str:
        return await ask("judge", "plan: subtasks")

    @task
    async def execute(text: str) -> str:
        try:
            return await ask("flaky", text)
        except httpx.HTTPStatusError:
            return await ask("steady", text)

    @task
    async def validate(text: str, answer: str) -> str:
        return await ask("judge", f"Task:\n{text}\nAnswer:\n{answer}\nReply with JSON: score and reason.")

    @flow
    async def one(text: str) -> str:
        await plan(text)
        return await validate(text, await execute(text))

    slots = asyncio.Semaphore(concurrency)

    async def limited(number: int) -> None:
        async with slots:
            await one(task_text(number))

    await asyncio.gather(*(limited(number) for number in range(items)))
    await client.aclose()


# ------------------------------------------------------------------ ours
CONFIG = """
orchestration:
  allow_private_hosts: true
  planning: always
  validation: {{mode: always}}
  cost_tracking: {{budget_limit_usd: 1000.0, ledger_url: "sqlite:///{folder}/ledger.db"}}
  orchestrator:
    {{model: judge, provider: openai-compatible, base_url: "{url}/v1", api_key_env: BENCH_KEY, billing: paid,
      price: {{input_usd_per_mtok: 3, output_usd_per_mtok: 15}}}}
  executors:
    - {{model: flaky, provider: openai-compatible, base_url: "{url}/v1", api_key_env: BENCH_KEY, billing: free,
        use_cases: [simple, moderate, complex, expert, speed-critical, reasoning]}}
    - {{model: steady, provider: openai-compatible, base_url: "{url}/v1", api_key_env: BENCH_KEY, billing: free,
        use_cases: [simple, moderate, complex, expert, speed-critical, reasoning]}}
  fallback_strategy: {{models: [flaky, steady, judge]}}
"""


async def ours(url: str, items: int, concurrency: int, mark: Callable[[], None]) -> None:
    from tta_dev_primitives.flows.workflow import MultiModelWorkflow

    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    os.environ["BENCH_KEY"] = "some-key-for-tests"
    (folder / "config.yaml").write_text(CONFIG.format(url=url, folder=folder))
    first = json.dumps({"id": "first", "task": "Say what tea is.", "use_case": "moderate"})
    (folder / "first.jsonl").write_text(first)
    with open(folder / "in.jsonl", "w") as file:  # noqa: ASYNC230 - outside of what is timed
        for number in range(items):
            file.write(
                json.dumps({"id": str(number), "task": task_text(number), "use_case": "moderate"}) + "\n"
            )
    workflow = MultiModelWorkflow(folder / "config.yaml", use_env_overrides=False)
    runtime = await workflow.ready()
    from tta_dev_primitives.flows.bulk.bulk_flow import orchestrate_bulk
    from tta_dev_primitives.flows.calling.runtime import active

    with active(runtime):
        # Prefect imports a part of itself with its first flow run.
        await orchestrate_bulk(str(folder / "first.jsonl"), str(folder / "first-out.jsonl"))
        mark()
        report = await orchestrate_bulk(
            str(folder / "in.jsonl"), str(folder / "out.jsonl"), concurrency=concurrency
        )
    assert (report.done, report.failed) == (items, 0), report


# ------------------------------------------------------------------ one contender, in its own process
def run_here(name: str, url: str, items: int, concurrency: int, profile: str) -> dict[str, float]:
    begun: list[tuple[float, float]] = []

    def mark() -> None:
        begun[:] = [(time.perf_counter(), time.process_time())]

    async def work() -> None:
        mark()
        match name:
            case "httpx":
                await bare(url, items, concurrency, mark, aiohttp_transport=False)
            case "httpx+aiohttp":
                await bare(url, items, concurrency, mark, aiohttp_transport=True)
            case "naive prefect":
                from tta_dev_primitives.flows.prefect_support.api_connection import use_server

                use_server()
                import prefect  # noqa: F401

                mark()
                await naive_prefect(url, items, concurrency)
            case _:
                await ours(url, items, concurrency, mark)

    ended: list[tuple[float, float]] = []

    async def timed() -> None:
        await work()
        ended.append((time.perf_counter(), time.process_time()))

    runner: Callable[[Awaitable[None]], Any] = asyncio.run  # type: ignore[assignment]
    if profile:
        import cProfile

        profiler = cProfile.Profile()
        profiler.runcall(runner, timed())
        profiler.dump_stats(profile)
    else:
        runner(timed())
    wall, cpu = ended[0][0] - begun[0][0], ended[0][1] - begun[0][1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "items": items,
        "wall_s": wall,
        "rate": items / wall,
        "cpu_ms": 1000 * cpu / items,
        "peak_mib": peak,
    }


def run_apart(name: str, url: str, items: int, concurrency: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", name, "--url", url, "--items", str(items)]
    found = subprocess.run(
        [*command, "--concurrency", str(concurrency)],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    if found.returncode:
        sys.exit(f"{name}: {found.stderr[-3000:]}")
    return dict(json.loads(found.stdout.splitlines()[-1]))


def medians(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each contender, concurrency and number of items: the medians of its rounds."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["name"], row["concurrency"], row["items"]), []).append(row)
    figures = ("wall_s", "rate", "cpu_ms", "peak_mib")
    return [{**group[0], **{f: median(r[f] for r in group) for f in figures}} for group in groups.values()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--concurrency", default="50,200")
    parser.add_argument("--naive-items", type=int, default=60)
    parser.add_argument("--only", default="")
    parser.add_argument("--memory", action="store_true", help="ours with 1,000 and 10,000 items")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", default="")
    parser.add_argument("--url", default="")
    parser.add_argument("--profile", default="")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(run_here(given.one, given.url, given.items, int(given.concurrency), given.profile)))
        return
    os.environ.setdefault("TTA_HOME", tempfile.mkdtemp(prefix="bench-home-"))
    rows: list[dict[str, Any]] = []
    with loopback() as url:
        if "ours" in (given.only or "ours").split(","):
            # The Prefect server of ours and of the naive flow is up, and has been used, before anything is timed.
            run_apart("ours", url, 100, 50)
        for _ in range(given.rounds):
            for concurrency in map(int, given.concurrency.split(",")):
                for name in CONTENDERS:
                    if given.only and name not in given.only.split(","):
                        continue
                    items = given.naive_items if name == "naive prefect" else given.items
                    row = {
                        "name": name,
                        "concurrency": concurrency,
                        **run_apart(name, url, items, concurrency),
                    }
                    rows.append(row)
                    print(_line(row), file=sys.stderr, flush=True)
        if given.memory:
            for items in (1000, 10_000):
                row = {"name": "ours", "concurrency": 200, **run_apart("ours", url, items, 200)}
                rows.append(row)
                print(_line(row), file=sys.stderr, flush=True)
    if given.json:
        print(json.dumps(medians(rows), indent=1))


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['name']:14} c={row['concurrency']:<4} {row['items']:>6} items  {row['rate']:8.1f}/s  "
        f"cpu {row['cpu_ms']:7.2f} ms/item  peak {row['peak_mib']:6.0f} MiB"
    )


if __name__ == "__main__":
    main()
