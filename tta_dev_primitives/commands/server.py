"""`tta server`: the tuned Prefect server that runs use."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from tta_dev_primitives.commands._output import console, print_json

__all__ = ["start", "status", "stop"]

Json = Annotated[bool, Parameter(negative="")]


def start(*, json: Json = False) -> int:
    """Start the embedded server if none runs, and print its address.

    Args:
        json: Print one JSON document.
    """
    from tta_dev_primitives.blocks.prefect_server.manager import ensure_server

    info = ensure_server()
    if json:
        print_json({"url": info.url, "ui_url": info.ui_url, "pid": info.pid, "started": info.started})
    else:
        console().print(f"{'started' if info.started else 'runs already'}: {info.ui_url}")
    return 0


def stop(*, json: Json = False) -> int:
    """Stop the embedded server; a configured one is not touched.

    Args:
        json: Print one JSON document.
    """
    from tta_dev_primitives.blocks.prefect_server.manager import stop_server

    was = stop_server()
    if json:
        print_json(asdict(was))
    else:
        console().print("stopped" if was.pid is not None else "no embedded server was running")
    return 0


def status(*, json: Json = False) -> int:
    """Say whether a server runs, where, and when it ends itself.

    Args:
        json: Print one JSON document.
    """
    from tta_dev_primitives.blocks.prefect_server.manager import server_status

    now = server_status()
    if json:
        print_json(asdict(now))
        return 0
    out = console()
    if not now.running:
        out.print(now.problem or "no server runs; `tta run` starts one, or `tta server start`")
        return 1 if now.problem else 0
    where = f" (configured in {now.configured_in})" if now.configured_in else f", process {now.pid}"
    out.print(f"runs at {now.ui_url}{where}, Prefect {now.version}")
    if now.stops_after_s and now.idle_s is not None:
        out.print(f"idle for {now.idle_s:.0f} s; it ends itself after {now.stops_after_s:.0f} s")
    return 0
