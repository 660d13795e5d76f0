"""`tta server`: the tuned Prefect server that runs use."""

from __future__ import annotations

from dataclasses import asdict

from tta_dev_primitives.commands._options import Json
from tta_dev_primitives.commands._output import console, print_json, say


def start(*, json: Json = False) -> int:
    """Start the embedded server if none runs, and print its address."""
    from tta_dev_primitives.blocks.prefect_server.manager import ensure_server, open_link

    info = ensure_server()
    link = open_link(info)
    about = {
        "url": info.url,
        "ui_url": info.ui_url,
        "pid": info.pid,
        "started": info.started,
        "open_url": link,
    }
    return say(about, f"{'started' if info.started else 'runs already'}: {link}", json=json)


def open_ui(path: str = "/runs", /, *, json: Json = False) -> int:
    """Print a link that opens the UI without a prompt, once, within twelve hours. Starts the server if none runs.

    Args:
        path: The page, such as /runs or /deployments.
    """
    from tta_dev_primitives.blocks.prefect_server.manager import ensure_server, open_link

    info = ensure_server()
    link = open_link(info, f"/{path.lstrip('/')}")
    return say({"ui_url": info.ui_url, "open_url": link}, link, json=json)


def env() -> int:
    """Print the variables that point Prefect's own commands to the server: eval "$(tta server env)".

    The password in them is that of this start of the server.
    """
    import shlex

    from tta_dev_primitives.blocks.prefect_server.manager import ensure_server, server_environment
    from tta_dev_primitives.blocks.prefect_server.server_settings import EMBEDDED_MARK

    given = server_environment(ensure_server())
    for name in ("PREFECT_API_URL", EMBEDDED_MARK, "PREFECT_API_AUTH_STRING"):
        if name in given:
            print(f"export {name}={shlex.quote(given[name])}")
    return 0


def stop(*, json: Json = False) -> int:
    """Stop the embedded server; a configured one is not touched."""
    from tta_dev_primitives.blocks.prefect_server.manager import stop_server

    was = stop_server()
    return say(asdict(was), "stopped" if was.pid is not None else "no embedded server was running", json=json)


def status(*, json: Json = False) -> int:
    """Say whether a server runs, where, and when it ends itself."""
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
