"""Our flows, called directly: they go to the server that everything else uses, not to one of Prefect's own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from functools import cache
from inspect import signature
from typing import Any, ParamSpec, TypeVar, get_type_hints

from prefect import Flow
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL
from pydantic import TypeAdapter, ValidationError

from tta_dev_primitives.blocks.prefect_server.server_settings import EMBEDDED_MARK
from tta_dev_primitives.config.errors import ConfigError, PrefectServerError
from tta_dev_primitives.flows.prefect_support.api_connection import inside_a_run, still_there, use_server
from tta_dev_primitives.flows.prefect_support.loop_connection import needing_api
from tta_dev_primitives.flows.prefect_support.result_storage import (
    RESULTS,
    is_private_results,
    look_for_users_storage,
    private_results,
    users_storage,
)
from tta_dev_primitives.flows.prefect_support.stopping import ending, stoppable

_OF_PREFECT = ("return_state", "wait_for")
"""Options that every Prefect flow takes when it is called."""
P = ParamSpec("P")
R = TypeVar("R")


class _ServedFlow(Flow[P, Coroutine[Any, Any, R]]):
    @property
    def result_storage(self) -> Any:
        """Of our own folder only while the user has set no default storage, which other machines may reach."""
        chosen = self.__dict__["result_storage"]
        if chosen != RESULTS:
            return chosen
        return private_results() if users_storage() is None else None

    @result_storage.setter
    def result_storage(self, chosen: Any) -> None:
        # Who copies a flow, or restores it, sets what it read: that is no choice of the user's.
        self.__dict__["result_storage"] = RESULTS if is_private_results(chosen) else chosen

    def with_options(self, **options: Any) -> Any:
        # Prefect would copy what the property reads, and refuses a storage that is not saved on the server.
        copied = super().with_options(**{"result_storage": self.__dict__["result_storage"], **options})
        copied.__class__ = type(self)
        return copied

    def __call__(self, *args: Any, **options: Any) -> Any:
        of_prefect = {name: options.pop(name) for name in _OF_PREFECT if name in options}
        given = _checked(self.fn, args, options)
        return self._run(super().__call__, (), {**given, **of_prefect})

    async def _run(self, call: Any, args: Any, options: Any) -> Any:
        if _needs_server():
            await asyncio.to_thread(use_server)
        await look_for_users_storage()
        with ending() as end:
            try:
                with needing_api():
                    result = await call(*args, **options)
            except Exception as problem:
                end.raise_for(self.name)
                if isinstance(problem, PrefectHTTPStatusError) and problem.response.is_server_error:
                    raise PrefectServerError(
                        f"Prefect's API answered {problem.response.status_code}; its log says why (a full disk?). "
                        "To fix: run the same again when it works; what was answered is stored."
                    ) from None
                raise
        if not options.get("return_state"):
            end.raise_for(self.name)
        return result


def use_embedded_server(flow: Flow[P, Coroutine[Any, Any, R]]) -> Flow[P, Coroutine[Any, Any, R]]:
    """Make an async flow that is called without a Prefect API start, or join, the embedded server.

    Prefect itself would start a temporary server for the call: half a minute when it succeeds, and nothing of the
    run stays. Workers, deployments and subflows are as before, and a configured API is used as it is.
    """
    # Stacked on Prefect's decorator: deployments read the flow's name from that one's source.
    flow.__class__ = _ServedFlow
    flow.fn = stoppable(flow.fn)
    return flow


def _checked(function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a direct call in the flow's own types, checked before a server is started.

    Raises:
        ConfigError: An argument is wrong, unknown or missing; the message names it.
    """
    try:
        bound = signature(function).bind(*args, **options)
    except TypeError as error:
        raise ConfigError(f"{function.__name__}: {error}.") from None
    types = _types_of(function)
    return {name: _in_type(types[name], name, value) for name, value in bound.arguments.items()}


@cache
def _types_of(function: Callable[..., Any]) -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(function, include_extras=True)
    return {name: TypeAdapter(hint) for name, hint in hints.items() if name != "return"}


def _in_type(adapter: TypeAdapter[Any], name: str, value: Any) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        own = first.get("ctx", {}).get("error")
        if isinstance(own, ConfigError):
            raise own from None
        reason = first["msg"]
        if first["type"] == "string_pattern_mismatch":
            # A person reads what the pattern means; each field with a pattern has a description.
            reason = f"Give {adapter.json_schema()['description']}"
        raise ConfigError(f"{name}: {value!r:.80} is not accepted. {reason}.") from None


def _needs_server() -> bool:
    if inside_a_run():
        return False
    address = PREFECT_API_URL.value()
    embedded = address is None or address == os.environ.get(EMBEDDED_MARK)
    return embedded and not still_there()
