"""Rows 39 to 41: processes are killed, terminated, and doubled, with a call under way at every call site."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import fault_replies as f
import pytest
from drive import TEXTS, Bench, Outcome, drive, ledger_rows, runtime_at
from matrix import SITES

from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.flows.calling.runtime import Runtime

CALLS = len(SITES) + 2  # a bulk lane sends three


class Providers:
    """One provider a site; requests that name a hanging scope are not answered until they may be."""

    def __init__(self) -> None:
        run = uuid.uuid4().hex[:8]
        self.done, self.hanging, self.hung = f"done-{run}", f"hung-{run}", f"hung-{run}"
        self.urls: dict[str, str] = {}
        self.answered: list[str] = []
        self.waiting = 0
        self.all_wait = asyncio.Event()
        self.gather_all = False
        """Answer nobody before two processes have asked everything."""
        self.both = asyncio.Event()

    def behaviour(self, text: str) -> f.Behaviour:
        async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                asked = f.parse(await f.read_request(reader))
                words = str(asked.body)
                if self.hanging and self.hanging in words:
                    self.waiting += 1
                    if self.waiting == CALLS:
                        self.all_wait.set()
                    await reader.read()
                    return
                self.answered.append(words)
                if self.gather_all and len(self.answered) == CALLS:
                    self.all_wait.set()
                if len(self.answered) == 2 * CALLS:
                    self.both.set()
                if self.gather_all:
                    await self.both.wait()
                writer.write(f.good(text, asked))
                await writer.drain()

        return behave


@asynccontextmanager
async def providers() -> AsyncIterator[Providers]:
    made = Providers()
    async with AsyncExitStack() as stack:
        for site in SITES:
            server = await stack.enter_async_context(f.rude_server(made.behaviour(TEXTS[site])))
            made.urls[site] = server.url
        yield made


def start(bench: Bench, urls: dict[str, str], *scopes: str) -> subprocess.Popen[str]:
    """A worker; its key is in its environment, as a user's is."""
    sites = [f"{site}={url}" for site, url in urls.items()]
    program = [sys.executable, str(Path(__file__).parents[1] / "support" / "fault_worker.py")]
    return subprocess.Popen(
        [*program, bench.url, str(bench.folder), bench.good_url, *sites, "--", *scopes],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


async def again(bench: Bench, urls: dict[str, str], scope: str) -> dict[str, tuple[Outcome, Runtime]]:
    """The same steps in this process, all at once."""

    async def one(site: str) -> tuple[Outcome, Runtime]:
        runtime = await runtime_at(bench, urls[site], scope=f"{site}-{scope}")
        outcome = await drive(runtime, site)
        await runtime.services.client.aclose()
        return outcome, runtime

    return dict(zip(SITES, await asyncio.gather(*map(one, SITES)), strict=True))


async def _until(providers: Providers, worker: subprocess.Popen[str]) -> None:
    watch = asyncio.create_task(asyncio.to_thread(worker.wait))
    waits = asyncio.create_task(providers.all_wait.wait())
    done, _ = await asyncio.wait([watch, waits], return_when=asyncio.FIRST_COMPLETED)
    if watch in done:
        waits.cancel()
        pytest.fail(f"the worker ended: {worker.communicate()[0]}")


async def test_a_killed_process_is_charged_and_resumed(bench: Bench) -> None:
    """`kill -9`: what hung is charged at its bound after its lease; what was answered is not paid for again."""
    async with providers() as here:
        worker = start(bench, here.urls, here.done, here.hung)
        await _until(here, worker)
        worker.kill()
        out, _ = await asyncio.to_thread(worker.communicate)
        assert {line.split()[2] for line in out.splitlines() if f" {here.done} " in line} == {"keep"}, out
        paid, here.hanging = len(here.answered), ""
        for site, (outcome, _) in (await again(bench, here.urls, here.done)).items():
            assert outcome.action == "keep"
            assert all(a.reused and a.cost_usd == 0 for a in outcome.attempts), site
        assert len(here.answered) == paid
        for site in SITES:
            runtime = await runtime_at(bench, here.urls[site], scope=f"{site}-{here.hung}")
            rows = await ledger_rows(runtime)
            assert {row["state"] for row in rows} == {"held"}, site
            later = partial(max, rows[0]["lease_until"] + 30, 0)
            late = Ledger(runtime.ledger.database, scope=runtime.ledger.scope, clock=later)
            assert await late.sweep() == len(rows)
            balance = await late.balance()
            assert (balance.held, balance.spent == balance.presumed > 0, await late.verify()) == (0, True, [])
        for site, (outcome, runtime) in (await again(bench, here.urls, here.hung)).items():
            assert outcome.action == "keep", site
            rows = await ledger_rows(runtime)
            assert sorted(row["state"] for row in rows) == sorted(
                ["presumed", "settled"] * (len(rows) // 2)
            ), site
            assert {row["attempt"] for row in rows} == {1, 2}, "attempts are counted over processes"


async def test_a_terminated_process_closes_its_calls(bench: Bench) -> None:
    """SIGTERM: every call under way is charged at its bound before the process ends; nothing stays held."""
    async with providers() as here:
        worker = start(bench, here.urls, here.hung)
        await _until(here, worker)
        worker.send_signal(signal.SIGTERM)
        out, _ = await asyncio.to_thread(partial(worker.communicate, timeout=110))
        assert worker.returncode not in (0, -signal.SIGKILL), out
        for site in SITES:
            runtime = await runtime_at(bench, here.urls[site], scope=f"{site}-{here.hung}")
            rows = await ledger_rows(runtime)
            assert {row["state"] for row in rows} == {"presumed"}, f"{site}: {out}"
            assert all("CancelledError while the call was in flight" in row["note"] for row in rows)
            assert ((await runtime.ledger.balance()).held, await runtime.ledger.verify()) == (0, [])


async def test_two_workers_pay_once_or_count_both(bench: Bench) -> None:
    """The same steps in two processes at once: both bills are in the books, and a third run pays nothing."""
    async with providers() as here:
        here.gather_all = True
        worker = start(bench, here.urls, here.done)
        # Its start takes seconds on a busy machine: our calls would have waited for it.
        await _until(here, worker)
        mine = await again(bench, here.urls, here.done)
        out, _ = await asyncio.to_thread(partial(worker.communicate, timeout=110))
        assert {line.split()[2] for line in out.splitlines()} == {"keep"}, out
        assert len(here.answered) == 2 * CALLS
        for site, (outcome, runtime) in mine.items():
            rows = await ledger_rows(runtime)
            assert outcome.action == "keep", site
            assert [row["state"] for row in rows] == ["settled"] * (6 if site == "bulk" else 2)
            assert len({row["owner"] for row in rows}) == 2
            assert await runtime.ledger.verify() == []
        for outcome, _ in (await again(bench, here.urls, here.done)).values():
            assert all(attempt.reused for attempt in outcome.attempts)
        assert len(here.answered) == 2 * CALLS
