"""A configuration whose models are all served by a sandbox, with a ledger of its own."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml
from typing_extensions import override

from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.money import to_pico
from tta_dev_primitives.blocks.ledger.savings_account import Ended, earn
from tta_dev_primitives.blocks.providers.address_rules import Base
from tta_dev_primitives.blocks.providers.client import ProviderClient
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.deployments.sandbox import Sandbox
from tta_dev_primitives.orchestration import MultiModelWorkflow

if TYPE_CHECKING:
    from tta_dev_primitives.flows.bulk.runner import JobOptions

KEY = "TTA_TEST_SANDBOX_KEY"
KEY_VALUE = "sandbox-test-key-5d1c"
LONG = "A kettle heats water until it boils, and then it switches itself off. " * 40
"""An answer that is dearer to write than to judge."""
LONG_RULE = f"{{match: {{prompt: solve}}, reply: {{text: '{LONG}'}}}}"
LONG_ANSWERS = f"rules: [{LONG_RULE}]"
"""A scenario in which every answer is long: with savings in the month, a verdict is the cheaper opinion."""
GEMINI, LLAMA, CLAUDE = "gemini-2.5-pro", "llama-3.3-70b-versatile", "claude-sonnet-4.5"


def executor(model: str, provider: str, use_cases: Sequence[str], **more: Any) -> dict[str, Any]:
    """One executor that the sandbox of the configuration serves."""
    return {"model": model, "provider": provider, "api_key_env": KEY, "use_cases": list(use_cases), **more}


def sandbox_config(sandbox: Sandbox, folder: Path, **changes: Any) -> dict[str, Any]:
    """Gemini and Llama as free executors, Claude as the orchestrator; `changes` replace whole sections."""
    everything = ["simple", "moderate", "complex", "expert", "speed-critical", "reasoning"]
    tracking = {"ledger_url": f"sqlite:///{folder / 'ledger.db'}", **changes.pop("cost_tracking", {})}
    config: dict[str, Any] = {
        "allow_private_hosts": True,
        "planning": "never",
        "orchestrator": {"model": CLAUDE, "api_key_env": KEY},
        "executors": [
            executor(GEMINI, "google-ai-studio", everything),
            executor(LLAMA, "groq", everything),
        ],
        "fallback_strategy": {"models": [GEMINI, LLAMA, CLAUDE]},
        "cost_tracking": tracking,
        **changes,
    }
    for model in [config["orchestrator"], *config["executors"]]:
        if model["api_key_env"] == KEY:
            model.setdefault("base_url", sandbox.base_url(model.get("provider", "anthropic")))
    return config


class AtSandbox(MultiModelWorkflow):
    """A workflow whose models a sandbox serves."""

    sandbox: Sandbox


At = Callable[..., AtSandbox]
SandboxOf = Callable[..., Sandbox]


def workflow_of(config: Mapping[str, Any], folder: Path) -> AtSandbox:
    """The workflow of a configuration, written to `folder` and loaded as a user's file is."""
    path = folder / "orchestration-config.yaml"
    path.write_text(yaml.safe_dump({"orchestration": dict(config)}), encoding="utf-8")
    return AtSandbox(path, use_env_overrides=False)


class BulkJob:
    """A file of tasks, `in.jsonl`, that a workflow runs again and again into `out.jsonl`.

    Args:
        tasks: The tasks, or how many short ones.
    """

    def __init__(
        self, workflow: AtSandbox, folder: Path, tasks: int | Sequence[Mapping[str, Any]], end: str = ""
    ) -> None:
        self.workflow, self.source, self.target = workflow, folder / "in.jsonl", folder / "out.jsonl"
        rows = notes(tasks) if isinstance(tasks, int) else tasks
        self.source.write_text("".join(json.dumps(row) + "\n" for row in rows) + end)

    async def run(self, local: JobOptions | None = None, **options: Any) -> Any:
        """One run: as a program starts it, or with options that only a caller in this process can give."""
        runtime = await self.workflow.ready()
        from tta_dev_primitives.flows.bulk.bulk_flow import orchestrate_bulk, run_file
        from tta_dev_primitives.flows.calling.runtime import active

        files = {"input_path": str(self.source), "output_path": str(self.target)}
        with active(runtime):
            return await (orchestrate_bulk if local is None else partial(run_file, local))(**files, **options)

    def lines(self) -> list[dict[str, Any]]:
        """What the output holds."""
        return [json.loads(line) for line in self.target.read_text().splitlines()]


def notes(count: int) -> list[dict[str, Any]]:
    """Short tasks."""
    return [
        {"id": str(n), "task": f"Summarize note {n} in a sentence.", "use_case": "moderate"}
        for n in range(count)
    ]


def save_up(workflow: MultiModelWorkflow, usd: str) -> None:
    """Let the month have saved `usd` already: a fresh ledger pays for no verdict and no plan."""

    async def earn_it() -> None:
        ledger = Ledger.open(workflow.config.cost_tracking.ledger_url)
        month = (await ledger.balance()).month
        earned = Ended(earned=to_pico(Decimal(usd)))
        await ledger.database.transact(lambda tx: earn(tx, ledger.scope, month, earned, ()))

    # A thread of its own: tests call this with and without a running loop.
    thread = threading.Thread(target=lambda: asyncio.run(earn_it()))
    thread.start()
    thread.join()


class ToSandbox(ProviderClient):
    """Sends calls to the providers' own hosts to a sandbox, so that a test can leave `base_url` out."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._there = urlsplit(url)

    @override
    def address_of(self, target: Target) -> Base:
        """The provider's path at the sandbox."""
        path = urlsplit(super().address_of(target).url).path
        host, port = self._there.hostname or "", self._there.port or 80
        return Base(f"http://{host}:{port}{path}", host, port, "private")
