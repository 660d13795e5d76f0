"""One fault of each family through whole flow runs on a real Prefect server, and a key that is nowhere afterwards."""

from __future__ import annotations

import base64
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import fault_replies as f
import pytest
from drive import FREE, PAID, TASK, TEXTS, config_of, good_provider
from leaks import Places, leaks, leaks_in_postgres
from matrix import ROWS, Fault

from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.prefect_server.manager import ServerInfo
from tta_dev_primitives.flows.calling.sync_loop import wait_for
from tta_dev_primitives.orchestration import MultiModelWorkflow, OrchestrationError, OrchestrationResult

FAMILIES = [
    (1, "refused"), (4, "reset"), (7, "HTML"), (9, "302 Found"), (12, "401"), (14, "404"), (16, "500"),
    (19, "daily quota"), (20, "refusal"), (23, "mid-stream"), (24, "missing"),
]  # fmt: skip


def fault_of(number: int, name: str) -> Fault:
    return next(fault for fault in ROWS[number - 1].faults if fault.name == name)


def _text_for(asked: f.Asked) -> str:
    words = str(asked.body)
    return TEXTS["validate" if '"score"' in words else "plan" if "subtasks" in words else "execute"]


@asynccontextmanager
async def _faulty(fault: Fault) -> AsyncIterator[str]:
    if fault.place == "closed port":
        yield f"http://127.0.0.1:{f.closed_port()}"
        return
    serve = fault.serve
    assert serve is not None
    if isinstance(serve, f.Served):
        answer = serve.answer
        serve = f.Served(lambda _, asked: answer(_text_for(asked), asked))
    async with f.rude_server(serve("")) as server:
        yield server.url


@contextmanager
def running(server: Any) -> Iterator[Any]:
    """An async server in the background loop, for flows that are run as a user runs them."""
    value = wait_for(server.__aenter__())
    try:
        yield value
    finally:
        wait_for(server.__aexit__(None, None, None))


@pytest.fixture
def workflow_with(
    keys: str, tmp_path: Path, prefect_server: ServerInfo
) -> Iterator[Callable[..., tuple[MultiModelWorkflow, str]]]:
    """Builds a workflow whose paid model has the fault; it plans, answers first, and judges every answer."""
    with ExitStack() as stack:
        good = stack.enter_context(running(good_provider()))

        def make(fault: Fault, **changes: Any) -> tuple[MultiModelWorkflow, str]:
            url = stack.enter_context(running(_faulty(fault)))
            ledger = f"sqlite:///{tmp_path / 'ledger.db'}"
            options = {"planning": "always", "validation": {"mode": "always"}, **changes}
            path = config_of(tmp_path, "flow", url, good.url, ledger, **options)
            return MultiModelWorkflow(path, use_env_overrides=False), ledger

        yield make


async def _books(url: str) -> tuple[set[str], set[str], list[str], Decimal]:
    ledger = Ledger.open(url)
    rows = await ledger.database.read(
        lambda tx: tx.fetch("SELECT state, outcome FROM ledger_call WHERE model = ?", PAID)
    )
    problems, held = await ledger.verify(), (await ledger.balance()).held
    return {row["state"] for row in rows}, {row["outcome"] for row in rows}, problems, held


@pytest.mark.parametrize(("number", "name"), FAMILIES)
def test_a_flow_run_gets_over_a_fault(
    number: int, name: str, workflow_with: Callable[..., tuple[MultiModelWorkflow, str]], keys: str
) -> None:
    """Plan, execute and validate meet the fault in one flow run; its end, attempts and books are as the matrix says."""
    fault = fault_of(number, name)
    workflow, url = workflow_with(fault)
    result: OrchestrationResult | OrchestrationError
    try:
        result = workflow.run(f"{TASK} ({number})", use_case="moderate")
    except OrchestrationError as error:
        result = error
    assert keys not in f"{result!r}{result}"
    if fault.action == "stop":
        assert isinstance(result, OrchestrationError)
        assert fault.words in str(result)
    else:
        assert isinstance(result, OrchestrationResult)
        assert result.model == (PAID if fault.action == "keep" else FREE)
        outcomes = {a.outcome for a in result.attempts if a.model == PAID}
        assert outcomes <= {fault.outcome, "ok"} if fault.at else outcomes == {fault.outcome}
        assert keys not in result.model_dump_json()
        assert all(len(a.reason or "") <= 500 for a in result.attempts)
    states, ends, problems, held = wait_for(_books(url))
    assert states == {fault.state}
    assert ends == {fault.outcome}
    assert (problems, held) == ([], 0)


def test_a_bulk_job_gets_over_a_fault(
    workflow_with: Callable[..., tuple[MultiModelWorkflow, str]], keys: str
) -> None:
    """Twenty tasks while the paid model fails: the free one answers all of them, in order."""
    workflow, url = workflow_with(fault_of(16, "500"), planning="never", validation={"mode": "never"})
    items = [{"id": str(n), "task": f"{TASK} {n}", "use_case": "moderate"} for n in range(20)]
    results = wait_for(workflow.execute_bulk(items, concurrency=8))
    assert [result.id for result in results] == [item["id"] for item in items]
    assert {result.model for result in results} == {FREE}
    states, _, problems, held = wait_for(_books(url))
    assert (states, problems, held) == ({"presumed"}, [], 0)
    assert keys not in "".join(repr(result) for result in results)


def test_the_key_is_nowhere_but_in_its_block(
    workflow_with: Callable[..., tuple[MultiModelWorkflow, str]],
    keys: str,
    prefect_server: ServerInfo,
    places: Places,
    tmp_path: Path,
) -> None:
    """After a run whose provider quotes the key in every error: logs, ledger, Prefect's database, processes are clean.

    The block that holds the key gives it back; in the database it is encrypted.
    """
    from tta_dev_primitives.blocks import sync_blocks
    from tta_dev_primitives.blocks.credentials.provider_credentials import AnthropicCredentials
    from tta_dev_primitives.flows.prefect_support.events import delivered, events_worker

    workflow, _ = workflow_with(fault_of(12, "403"))
    workflow.run(f"{TASK} (canary)", use_case="moderate")
    name = next(block.name for block in sync_blocks(workflow.config) if "anthropic" in block.name)
    block = wait_for(AnthropicCredentials.aload(name))
    assert block.api_key.get_secret_value() == keys
    assert keys not in repr(block)
    assert wait_for(delivered(events_worker(), 110.0))
    here = Places(tmp_path, [*places.folders, places.folder])
    assert leaks(keys, here) == []
    assert prefect_server.home is not None
    with closing(sqlite3.connect(prefect_server.home.database)) as database:
        (runs,) = database.execute("SELECT count(*) FROM flow_run WHERE name LIKE '%(canary)%'").fetchone()
    assert runs == 1, "the scan looked at the database of the run"


def test_the_scan_finds_a_key_that_leaks(tmp_path: Path, canary: str) -> None:
    """A scan that finds nothing anywhere proves nothing: each kind of leak is planted once."""
    (tmp_path / "clean.txt").write_text("nothing here")
    assert leaks(canary, Places(tmp_path)) == []
    (tmp_path / "log.txt").write_text(f"x-api-key: {canary}")
    (tmp_path / "start.txt").write_text(f"key {canary[:12]}...")
    (tmp_path / "basic.txt").write_bytes(base64.b64encode(b"u:" + canary.encode()))
    with closing(sqlite3.connect(tmp_path / "rows.db")) as database, database:
        database.execute("CREATE TABLE t (x TEXT)")
        database.execute("INSERT INTO t VALUES (?)", (f"https://p/?key={canary}",))
    with subprocess.Popen(["cat", "-", canary], stdin=subprocess.PIPE) as process:
        try:
            while canary.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes():
                pass  # the kernel shows the arguments a moment after the program was started
            found = leaks(canary, Places(tmp_path, texts=[("repr", f"<Key {canary}>")]))
        finally:
            process.kill()
    files = ["basic.txt", "log.txt", "rows.db", "start.txt"]
    assert [Path(name).name for name in found] == [*files, "repr", f"arguments of process {process.pid}"]


async def test_the_scan_finds_a_key_in_postgresql(postgres_url: str, canary: str) -> None:
    """In a text, and in bytes."""
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(
        "CREATE TABLE clean (x TEXT); CREATE TABLE words (x TEXT); CREATE TABLE bodies (x BYTEA)"
    )
    await connection.execute("INSERT INTO clean VALUES ('nothing here')")
    assert await leaks_in_postgres(canary, postgres_url) == []
    await connection.execute("INSERT INTO words VALUES ($1)", f"HTTP 401: key {canary}")
    await connection.execute("INSERT INTO bodies VALUES ($1)", f"Authorization: {canary}".encode())
    await connection.close()
    assert sorted(await leaks_in_postgres(canary, postgres_url)) == [
        "PostgreSQL table bodies",
        "PostgreSQL table words",
    ]
