"""The sandbox as an object: started in a thread, asked for its addresses, its calls and its bill."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Self

import uvicorn

from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.deployments.sandbox.app import App, Keys
from tta_dev_primitives.deployments.sandbox.calls import Call, PriceOf, catalogue_price
from tta_dev_primitives.deployments.sandbox.scenario.director import Answers, Director
from tta_dev_primitives.deployments.sandbox.scenario.file import load_scenario
from tta_dev_primitives.deployments.sandbox.scenario.scenario import Scenario

BASE_PATHS = {
    "anthropic": "", "google-ai-studio": "", "groq": "", "openrouter": "/api/v1", "openai-compatible": "/v1",
}  # fmt: skip
"""What follows the address, written as each official SDK takes its base URL."""


class Sandbox:
    """A provider on loopback that speaks the four wire formats.

        with Sandbox(parse_scenario("rules: [...]")).start() as sandbox:
            client = groq.Groq(api_key="any", base_url=sandbox.base_url("groq"))

    Args:
        scenario: A `Scenario`, the path of a scenario file, or None for the default answers.
        keys: Accepted keys by provider; a provider that is not named takes any key.
        answers: Another source of answers, such as a `Replay`, asked where no rule matches.
        prices: List price of a provider's model, for OpenRouter's `usage.cost` and for `billed`.
        clock: Epoch seconds, for quotas and their resets; a simulation hands in its own.
        sleep: How a latency passes.
    """

    def __init__(
        self,
        scenario: Scenario | str | Path | None = None,
        keys: Keys | None = None,
        *,
        answers: Answers | None = None,
        prices: PriceOf = catalogue_price,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.calls: list[Call] = []
        """Every request so far, in order of arrival."""
        self.host = "127.0.0.1"
        self.port = 0
        self._answers, self._prices, self._clock = answers, prices, clock
        self._app = App(
            self._director(scenario), keys=keys, calls=self.calls, price_of=prices, clock=clock, sleep=sleep
        )
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self, port: int = 0) -> Self:
        """Serve on `port` of 127.0.0.1, 0 for a free one, and return when connections are taken.

        Raises:
            ConfigError: The port cannot be had.
        """
        if self._thread is not None:
            raise RuntimeError("this sandbox is running")
        up = threading.Event()
        self._server, run = self._bound(port, up.set)
        self._thread = threading.Thread(target=run, name="tta-sandbox", daemon=True)
        self._thread.start()
        up.wait(10)
        return self

    def serve(self, port: int = 0, *, on_start: Callable[[], None] | None = None) -> None:
        """Serve in the main thread until Ctrl-C or SIGTERM.

        Raises:
            ConfigError: The port cannot be had.
        """
        _, run = self._bound(port, on_start)
        # Uvicorn raises the signal again once it has ended in good order: here that is the end, not an error.
        usual = signal.signal(signal.SIGTERM, lambda *_: None)
        try:
            with contextlib.suppress(KeyboardInterrupt):
                run()
        finally:
            signal.signal(signal.SIGTERM, usual)

    def _bound(self, port: int, on_start: Callable[[], None] | None) -> tuple[_Server, Callable[[], None]]:
        """The server, and how it runs on a port that is taken at once."""
        listener = bind(self.host, port)
        self.port, server = listener.getsockname()[1], _Server(self._app, on_start)
        return server, functools.partial(server.run, sockets=[listener])

    def _director(self, scenario: Scenario | str | Path | None) -> Director:
        if not isinstance(scenario, Scenario):
            scenario = Scenario() if scenario is None else load_scenario(scenario)
        return Director(scenario, clock=self._clock, answers=self._answers)

    @property
    def url(self) -> str:
        """`http://127.0.0.1:<port>`."""
        return f"http://{self.host}:{self.port}"

    def base_url(self, provider: str) -> str:
        """The base URL of `provider`, as its official SDK and our `base_url:` take it."""
        return self.url + BASE_PATHS[provider]

    def use(self, scenario: Scenario | str | Path | None) -> None:
        """Change the scenario while running; counters begin anew, the log of calls stays."""
        self._app.director = self._director(scenario)

    def billed(self, provider: str | None = None) -> Decimal:
        """USD that the calls so far cost, counted on the provider's side.

        Raises:
            LookupError: A billed call's price is not known.
        """
        mine = (call for call in self.calls if provider in (None, call.provider))
        return sum((call.cost(self._prices) for call in mine), Decimal(0))

    def stop(self) -> None:
        """End the server; replies under way are cut. Doing it twice does no harm."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = self._server.force_exit = True
            self._thread.join(10)
        self._server = self._thread = None

    def __enter__(self) -> Self:
        return self if self._thread is not None else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: The port is taken, forbidden or no port at all.
    """
    # Named as TCP, or asyncio leaves Nagle's delay on: 40 ms for each answer on a kept connection.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = error.strerror if isinstance(error, OSError) else "ports are 0 to 65535"
        hint = "Choose another port with --port; 0 takes a free one."
        raise ConfigError(f"Sandbox: cannot listen on {host}:{port}: {reason}. {hint}") from None
    listener.listen(2048)
    return listener


class _Server(uvicorn.Server):
    """Uvicorn that says when it is up, and ends at once."""

    def __init__(self, app: App, on_start: Callable[[], None] | None) -> None:
        super().__init__(uvicorn.Config(
            app.asgi, http="h11", ws="none", lifespan="off", proxy_headers=False, server_header=False, access_log=False,
            log_config=None, log_level="critical", backlog=2048, timeout_keep_alive=75,
        ))  # fmt: skip
        self.on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve, and say so."""
        await super().startup(sockets=sockets)
        if self.on_start is not None:
            self.on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End; a forced end cuts the replies under way, which Python 3.12 and later would wait for."""
        if self.force_exit:
            for connection in list(self.server_state.connections):
                connection.transport.abort()
            await asyncio.sleep(0)
        await super().shutdown(sockets=sockets)
