"""Importing any module of the package changes nothing in the process; a run installs what it needs, once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.prefect

_PROBE = """
import asyncio, atexit, contextlib, gc, importlib, json, logging, os, pkgutil, signal, sys, threading, types, warnings

asked = []


def noting(what, call):
    def wrapped(*args, **kinds):
        # Other projects' modules register hooks of their own.
        if sys._getframe(1).f_globals["__name__"].startswith("tta_dev_primitives"):
            asked.append(what)
        return call(*args, **kinds)
    return wrapped


os.register_at_fork = noting("register_at_fork", os.register_at_fork)
atexit.register = noting("atexit", atexit.register)

# Prefect, and what else our modules import, is there first: what those change is theirs.
import prefect.main, prefect.deployments, prefect.events.worker, prefect.flow_engine, prefect.task_engine
import prefect.artifacts, prefect.concurrency.services, prefect.client.orchestration, prefect.input, prefect.logging
import prefect.server.api.server, prefect.server.database.configurations, prefect.server.models.flow_runs
import aiohttp, asyncpg, cyclopts, fastapi, genai_prices, httpx, jinja2, opentelemetry.trace, rich.console
import sqlalchemy, uvicorn, yaml
for name in ("httpx_aiohttp", "requests"):
    with contextlib.suppress(ImportError):
        importlib.import_module(name)


def functions():
    # Identity of every function and class, and of what the classes hold, in the modules of others.
    found = {}
    for name, module in sorted(sys.modules.items()):
        if not name.startswith(("prefect", "httpx", "sqlalchemy.ext", "threading", "asyncio", "logging", "yaml")):
            continue
        for key, value in list(vars(module).items()) if isinstance(module, types.ModuleType) else ():
            if isinstance(value, (types.FunctionType, type)):
                found[name, key] = value
            if isinstance(value, type):
                for inner, held in list(vars(value).items()):
                    if isinstance(held, (types.FunctionType, classmethod, staticmethod, property)):
                        found[name, key, inner] = held
    return found


def loggers():
    every = {"": logging.getLogger(), **logging.Logger.manager.loggerDict}
    return {
        name: ([repr(f) for f in one.filters], [repr(h) for h in one.handlers], one.level, one.propagate)
        for name, one in every.items()
        if isinstance(one, logging.Logger) and (one.filters or one.handlers or not one.propagate or one.level)
    }


def process():
    return {
        "environ": dict(os.environ),
        "threads": sorted(t.name for t in threading.enumerate()),
        "signals": {s.name: repr(signal.getsignal(s)) for s in signal.Signals if s.name not in ("SIGKILL", "SIGSTOP")},
        "umask": [os.umask(0o22), os.umask(0o22)],
        "folder": os.getcwd(),
        "gc": gc.isenabled(),
        "warnings": [repr(f) for f in warnings.filters],
        "meta_path": repr(sys.meta_path),
        "hooks": [repr(sys.excepthook), repr(threading.excepthook)],
        "policy": repr(type(asyncio.get_event_loop_policy())),
    }


before = functions(), loggers(), process()
import tta_dev_primitives

names = [m.name for m in pkgutil.walk_packages(tta_dev_primitives.__path__, "tta_dev_primitives.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
after = functions(), loggers(), process()
changed = [".".join(key) for key, value in before[0].items() if after[0].get(key) is not value]
changed += ["logger " + name for name, was in before[1].items() if after[1].get(name) != was]
# Prefect gives each logger that it makes a filter of its own.
changed += ["filter " + name for name in after[1].keys() - before[1].keys() if "tta" in repr(after[1][name])]
changed += [f"{key}: {before[2][key]} -> {after[2][key]}" for key in after[2] if after[2][key] != before[2][key]]
print(json.dumps({"modules": len(names), "changed": changed, "asked": asked}))
"""


def _probe(home: Path, code: str) -> Any:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "TTA_"))}
    environment = kept | {
        "TTA_HOME": str(home / "tta"),
        "PREFECT_HOME": str(home / "prefect"),
        "DO_NOT_TRACK": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_every_module_changes_nothing(tmp_path: Path) -> None:
    """No patch of Prefect, no logging filter or handler, no folder, no at-fork or exit hook, no variable."""
    found = _probe(tmp_path, _PROBE)
    assert found["modules"] > 200
    assert found["changed"] == []
    assert found["asked"] == []
    assert not (tmp_path / "tta").exists()


@pytest.mark.parametrize("times", [1, 3])
def test_a_run_installs_what_it_needs_once(tmp_path: Path, times: int) -> None:
    """`install` adds the log filters, the at-fork hook and the folder of results; again it changes nothing."""
    code = f"""
import json, logging, os
hooks = []
import prefect.flow_engine
os.register_at_fork = lambda **kinds: hooks.append(sorted(kinds))
from tta_dev_primitives.flows.prefect_support.install import install
for _ in range({times}):
    install()
names = ("prefect.flow_runs", "prefect.task_runs", "prefect.events.utilities")
count = [sum("tta" in getattr(f, "__module__", "") for f in logging.getLogger(n).filters) for n in names]
print(json.dumps([hooks, count, os.listdir(os.environ["TTA_HOME"])]))
"""
    assert _probe(tmp_path, code) == [[["after_in_child"]], [1, 1, 1], ["results"]]
