"""Processes that spend: run as a script by the ledger's tests, benchmark and soak.

Each child keeps a provider-side count of its own, written before the ledger hears of a reply: one line a
call, `<call id> <pico-USD billed> <step>`, in `billed-<child>`; and one line in `acked-<child>` for every
settlement that the ledger confirmed. The tests add these up and compare them with the ledger.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from tta_dev_primitives.blocks.ledger import failpoints
from tta_dev_primitives.blocks.ledger.guarded_call import guarded_send
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.money import from_pico, to_pico
from tta_dev_primitives.blocks.ledger.stored_replies import content_key, stored_reply
from tta_dev_primitives.blocks.ledger.types import CallInfo
from tta_dev_primitives.blocks.wire.types import ChatReply, ChatRequest, Message
from tta_dev_primitives.config.errors import BudgetExceededError, LedgerBusyError
from tta_dev_primitives.config.models.targets import Price, Target, Usage
from tta_dev_primitives.config.provider_errors import ErrorClass, LedgerAction, ProviderError

PAID = Target(
    "paid-model", "openai-compatible", "paid-model", "paid", "K", "x", Price(Decimal(3), Decimal(15))
)
FREE = Target(
    "free-model", "openai-compatible", "free-model", "free", "K", "x", Price(Decimal(3), Decimal(15))
)


class Provider:
    """The other side of the wire: it bills what it answers, and keeps its own books."""

    def __init__(self, folder: Path, name: str) -> None:
        self._billed = os.open(folder / f"billed-{name}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._acked = os.open(folder / f"acked-{name}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def bill(self, call_id: str, pico: int, step: str = "-") -> None:
        os.write(self._billed, f"{call_id} {pico} {step}\n".encode())

    def acked(self, call_id: str, pico: int) -> None:
        os.write(self._acked, f"{call_id} {pico} -\n".encode())


async def hammer(args: argparse.Namespace, child: int) -> dict[str, Any]:
    """Reserve and settle random amounts, several at a time; some calls turn out not to be billed."""
    rng = random.Random(f"{args.seed}-{child}")
    ledger = Ledger.open(args.url, scope=args.scope)
    provider = Provider(Path(args.folder), f"{child}-{args.seed}")
    limit, left = Decimal(args.limit), args.calls
    counts: dict[str, float] = {"settled": 0, "released": 0, "exhausted": 0, "busy": 0}
    waits: list[float] = []

    async def spender() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            call = CallInfo(provider="p", model="m", role="execute", use_case="simple", deadline_s=5)
            bound = rng.randrange(1, 20_000_000)
            began = time.perf_counter()
            try:
                hold = await ledger.reserve(call, from_pico(bound), limit)
            except BudgetExceededError:
                counts["exhausted"] += 1
                continue
            except LedgerBusyError:
                counts["busy"] += 1
                continue
            if rng.random() < 0.1:
                await ledger.release(hold, "refused unbilled")
                counts["released"] += 1
            else:
                actual = rng.randrange(0, bound + 1)
                provider.bill(call.id, actual)
                await ledger.settle(hold, from_pico(actual))
                provider.acked(call.id, actual)
                counts["settled"] += 1
            waits.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(spender() for _ in range(args.concurrency)))
    counts["seconds"] = time.perf_counter() - began
    await ledger.database.aclose()
    return {**counts, "waits": [round(wait, 6) for wait in waits] if args.waits else []}


Behaviour = Callable[[CallInfo, str], ChatReply]


def steps(provider: Provider) -> list[tuple[Target, str, Behaviour]]:
    """A short job with every way a call can end."""
    usage = Usage(input_tokens=100, output_tokens=50)
    cost = to_pico(Decimal("0.00105"))

    def reply(call: CallInfo, step: str) -> ChatReply:
        if call.billing == "paid":
            provider.bill(call.id, cost, step)
        return ChatReply(f"answer of {call.model}", "stop", usage, model_returned=call.model)

    def fail(call: CallInfo, step: str) -> ChatReply:
        overloaded = step == "refused"
        if not overloaded:
            provider.bill(call.id, cost, step)
        raise ProviderError(
            "scripted",
            provider="p",
            model="m",
            error_class=ErrorClass.OVERLOADED if overloaded else ErrorClass.TRANSPORT,
            ledger_action=LedgerAction.RELEASE if overloaded else LedgerAction.CHARGE_AT_BOUND,
        )

    return [
        (PAID, "one", reply),
        (PAID, "refused", fail),
        (PAID, "cut", fail),
        (FREE, "free", reply),
        (PAID, "two", reply),
    ]


async def job(args: argparse.Namespace, child: int, scope: str) -> dict[str, Any]:
    """Do the short job as a flow does it: look up, reserve, send, settle, alert."""
    ledger = Ledger.open(args.url, scope=scope, alert_threshold=Decimal("0.1"))
    provider = Provider(Path(args.folder), scope)
    reused = 0
    for target, step, behave in steps(provider):
        request = ChatRequest((Message("user", step),), max_output_tokens=200)
        key = content_key(target, request)
        call = replace(CallInfo.of(target, role="execute", use_case="simple", step_key=key), deadline_s=1)

        async def send(behave: Behaviour = behave, call: CallInfo = call, step: str = step) -> ChatReply:
            return behave(call, step)

        try:
            got = await stored_reply(ledger, key, target) or await guarded_send(
                ledger=ledger,
                client_send=send,
                target=target,
                request=request,
                call=call,
                limit=Decimal(args.limit),
            )
        except ProviderError:
            continue
        reused += got.reused
        if target.billing == "paid" and not got.reused:
            provider.acked(got.call_id, to_pico(got.cost_usd))
    for alert in await ledger.claim_alerts(lease_s=0):
        provider.bill(str(alert.event_id), 0, "alert")
        await ledger.alert_sent(alert)
    month = (await ledger.balance()).month
    await ledger.approve(month, Decimal(1), who="test", reason="test")
    presumed = [call.id for call in await ledger.open_calls(month) if call.state == "presumed"]
    if presumed:
        await ledger.reconcile(presumed[0], Decimal("0.00105"), evidence="provider's page")
    await ledger.database.aclose()
    return {"reused": reused}


def main() -> int:
    """Fork children, wait for them, print what they report and how they ended, as JSON.

    `hammer` runs all children at once, and kills each at a random moment within `--kill-ms`. `job` runs, for
    each of `--points` in a scope of its own, one child that dies there and one that does the job again.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["hammer", "job"])
    for name, default in (("url", ""), ("scope", "default"), ("folder", ""), ("limit", "1"), ("points", "")):
        parser.add_argument(f"--{name}", default=default)
    for name, number in (("processes", 1), ("calls", 1000), ("concurrency", 1), ("seed", 0), ("kill-ms", 0)):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--waits", action="store_true", help="report how long each call waited")
    args = parser.parse_args()
    if args.mode == "hammer":
        children = [_fork(lambda n=n: hammer(args, n), "") for n in range(args.processes)]
        if args.kill_ms:
            _kill_at_random(children, args)
        ended = [_end(*child) for child in children]
    else:
        ended = []
        for point in args.points.split(","):
            for armed in (point, ""):
                child = _fork(lambda: job(args, 0, point), armed)  # noqa: B023 - run in the child at once
                ended.append({"point": point, **_end(*child)})
    print(json.dumps(ended))
    return 0


def _fork(run: Callable[[], Coroutine[None, None, dict[str, Any]]], point: str) -> tuple[int, int]:
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, read
    os.close(read)
    failpoints.arm(point)
    os.write(write, json.dumps(asyncio.run(run())).encode())
    os._exit(0)


def _kill_at_random(children: list[tuple[int, int]], args: argparse.Namespace) -> None:
    """Kill each child within `kill_ms`: from its start, or, at odd seeds, from the first call that was acknowledged."""
    rng = random.Random(args.seed)
    books, end = Path(args.folder), time.monotonic() + 110
    while args.seed % 2 and time.monotonic() < end:
        if any(file.stat().st_size for file in books.glob(f"acked-*-{args.seed}")):
            break
        time.sleep(0.005)
    moments = sorted((rng.uniform(0.01, args.kill_ms / 1000), pid) for pid, _ in children)
    began = time.monotonic()
    for moment, pid in moments:
        time.sleep(max(0.0, began + moment - time.monotonic()))
        if pid == moments[-1][1]:
            _until_something_is_settled(Path(args.folder))
        os.kill(pid, signal.SIGKILL)


def _until_something_is_settled(folder: Path) -> None:
    """On a busy machine half a second may not be enough for a start."""
    end = time.monotonic() + 110
    while time.monotonic() < end and not any(path.stat().st_size for path in folder.glob("acked-*")):
        time.sleep(0.01)


def _end(pid: int, read: int) -> dict[str, object]:
    with open(read, "rb") as pipe:
        report = pipe.read()
    status = os.waitpid(pid, 0)[1]
    return {"status": os.waitstatus_to_exitcode(status), **(json.loads(report) if report else {})}


if __name__ == "__main__":
    sys.exit(main())
