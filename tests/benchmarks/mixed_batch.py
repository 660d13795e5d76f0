"""What batches and prompt caching save, against the sandbox.

    python tests/benchmarks/mixed_batch.py [TASKS]

First a mixed job, half its tasks free and half paid, with and without --batch. Then a paid job whose tasks share a
system text of some 2,200 tokens, with and without the prompt cache. Needs no key and no network. The sandbox bills on
its own side; the two figures must agree.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from sandbox_runs import CLAUDE, GEMINI, KEY, KEY_VALUE, executor, sandbox_config, workflow_of

from tta_dev_primitives.deployments.sandbox import Sandbox, parse_scenario

RULES = "Write as the style guide of the house asks: short, plain, exact. " * 140


async def run(tasks: int, *, system: str = "", batch: bool = False, cache: bool = True) -> list[str]:
    with (
        Sandbox(parse_scenario("batches: {delay: 2}")).start() as sandbox,
        tempfile.TemporaryDirectory() as name,
    ):
        folder = Path(name)
        can = {} if cache else {"capabilities": {"cache_min_tokens": 0}}
        config = sandbox_config(
            sandbox,
            folder,
            executors=[
                executor(GEMINI, "google-ai-studio", ["simple"]),
                executor(CLAUDE, "anthropic", ["moderate"], **can),
            ],
            fallback_strategy={"models": [CLAUDE]},
            validation={"mode": "never"},
        )
        kinds = ("moderate", "moderate") if system else ("simple", "moderate")
        rows = [
            {"id": str(n), "task": f"Summarize note {n} now.", "use_case": kinds[n % 2], "system": system}
            for n in range(tasks)
        ]
        (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        runtime = await workflow_of(config, folder).ready()
        from tta_dev_primitives.flows.bulk.batch_lifecycle import BatchTiming
        from tta_dev_primitives.flows.bulk.bulk_flow import run_file
        from tta_dev_primitives.flows.bulk.runner import JobOptions
        from tta_dev_primitives.flows.calling.runtime import active

        local = JobOptions(batch_timing=BatchTiming(first_s=1.0), batch_wait_s=600.0)
        with active(runtime):
            report = await run_file(
                local, input_path=str(folder / "in.jsonl"), output_path=str(folder / "out.jsonl"), batch=batch
            )
        assert report.cost_usd == sandbox.billed("anthropic"), "ledger and provider differ"
        alone = report.baseline_one_by_one_usd or report.baseline_cost_usd
        words = ("shared system text, " if system else "mixed, ", "--batch" if batch else "one by one")
        return [
            "".join(words) + ("" if cache or not system else ", no prompt cache"),
            f"{report.cost_usd:.4f}",
            f"{alone:.4f}",
            f"{sum(call.usage.cache_read_tokens for call in sandbox.calls):,}",
        ]


def main() -> None:
    logging.disable(logging.INFO)
    os.environ[KEY] = KEY_VALUE
    tasks = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    found = [asyncio.run(run(tasks, batch=batch)) for batch in (False, True)]
    for batch in (False, True):
        found += [asyncio.run(run(tasks, system=RULES, batch=batch, cache=cache)) for cache in (False, True)]
    for row in [["job", "cost USD", "paid model alone, one by one", "tokens from the cache"], *found]:
        print("  ".join(f"{cell:<48}" for cell in row).rstrip())


if __name__ == "__main__":
    main()
