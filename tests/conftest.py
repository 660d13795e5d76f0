"""What all rooms share: no test sees the settings or the files of the person who runs it.

Fixtures of one subject stand in a plugin file of their own.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["fixtures_postgres", "fixtures_prefect"]

# A busy machine draws slowly: that is no failure. On CI the same examples are drawn each time.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("tests"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "tests")

_home = pytest.StashKey[str]()

_SERVER_FIXTURES = {"prefect_server", "postgres_server_url", "postgres_binaries_or_skip"}
"""Who needs one of these is marked `server`, and so is a test that runs on PostgreSQL by its parameter."""
_SERVER_FOLDERS = {"contract", "end_to_end", "faults"}
"""Tests of the whole product: they start servers and processes of their own."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--shuffle SEED`: no test may depend on another one."""
    parser.addoption(
        "--shuffle", type=int, metavar="SEED", help="run files, and the tests of each, in a random order"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that need a server, and shuffle them if asked."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        by_folder = item.path.relative_to(config.rootpath / "tests").parts[0] in _SERVER_FOLDERS
        if by_folder or fixtures & _SERVER_FIXTURES or "postgresql" in item.name:
            item.add_marker("server")
    if (seed := config.getoption("--shuffle")) is not None:
        rng = random.Random(seed)
        # Files stay together, so that what a file shares is made once.
        places = {path: rng.random() for path in dict.fromkeys(item.path for item in items)}
        items.sort(key=lambda item: (places[item.path], rng.random()))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector off the thousands of collected tests: it would walk through them all the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    """Point TTA_HOME and PREFECT_HOME to an empty folder before anything imports prefect."""
    # A run in the background of a shell, or below nohup, ignores these; so would every process that a test starts.
    for signum, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, usual)
    for name in [n for n in os.environ if n.startswith(("PREFECT_", "TTA_")) and n != "TTA_SHARED"]:
        del os.environ[name]
    home = tempfile.mkdtemp(prefix="tta-tests-")
    config.stash[_home] = home
    os.environ["TTA_HOME"] = home
    os.environ["PREFECT_HOME"] = os.path.join(home, "prefect")
    # The suite starts hundreds of processes: without compiled files each would compile all of the project anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    os.environ["DO_NOT_TRACK"] = "1"
    # A record of a run logger that outlives its run is dropped without a word, whichever test came before.
    os.environ["PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW"] = "ignore"


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the folder again."""
    shutil.rmtree(config.stash[_home], ignore_errors=True)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes have no name of their own: what is compressed differs from second to second, and workers must agree."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(autouse=True)
def _ports_of_ended_servers() -> Iterator[None]:
    """This process connects to the port of a dead Prefect server no more: here the next test's server may get it."""
    yield
    connection = sys.modules.get("tta_dev_primitives.flows.prefect_support.api_connection")
    watched = {} if connection is None else connection._watched
    for port, home in tuple(watched.items()):
        if not connection.holds_port(home, port):
            del watched[port]


@pytest.fixture(autouse=True)
def _plain_logger() -> None:
    """A command that ran in this process, also in a fixture of a module, has set up the package's logger: undo it."""
    logger = logging.getLogger("tta_dev_primitives")
    logging.raiseExceptions = True
    if not logger.propagate:
        logger.handlers, logger.propagate = [], True
        for name in ("dotenv", *tuple(logging.root.manager.loggerDict)):
            if name.partition(".")[0] in ("dotenv", "tta_dev_primitives"):
                logging.getLogger(name).setLevel(logging.NOTSET)
