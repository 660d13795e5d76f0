"""A process of its own that works at every call site until it is killed, or ends.

    python fault_worker.py LEDGER_URL FOLDER GOOD_URL SITE=PAID_URL ... -- SCOPE ...

For each site and scope it drives the step once; all steps of the last scope run at the same time. SIGTERM cancels it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from drive import PAID_KEY, Bench, drive, runtime_at


async def main(arguments: list[str]) -> None:
    place = arguments.index("--")
    url, folder, good, *sites = arguments[:place]
    *scopes, last = arguments[place + 1 :]
    bench = Bench(url, Path(folder), os.environ[PAID_KEY], good)
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    addresses = dict(site.split("=", 1) for site in sites)

    async def one(site: str, scope: str) -> None:
        runtime = await runtime_at(bench, addresses[site], scope=f"{site}-{scope}")
        try:
            outcome = await drive(runtime, site)
        finally:
            await runtime.services.client.aclose()
        print(site, scope, outcome.action, outcome.error or "", flush=True)

    for scope in scopes:
        for site in addresses:
            await one(site, scope)
    await asyncio.gather(*(one(site, last) for site in addresses))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
