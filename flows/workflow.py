"""`MultiModelWorkflow`: the Python face of the flows. Importing it costs no Prefect; the first run does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from tta_dev_primitives.config import OrchestrationConfig, load_orchestration_config
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.flows.calling.sync_loop import wait_for
from tta_dev_primitives.flows.tasks.result import OrchestrationResult

if TYPE_CHECKING:
    from tta_dev_primitives.flows.answers.output_type import OutputType
    from tta_dev_primitives.flows.calling.runtime import Runtime

T = TypeVar("T")


class MultiModelWorkflow:
    """Runs tasks through plan, execute and validate, as Prefect flow runs.

    ```python
    workflow = MultiModelWorkflow()          # searches .tta/orchestration-config.yaml and the other places
    result = workflow.run("Summarize ...")   # one flow run
    print(result.content, result.cost_usd, result.savings_ratio)
    ```

    Without PREFECT_API_URL the first run starts a tuned Prefect server on loopback and later runs reuse it.
    """

    def __init__(
        self,
        config_path: str | Path | None = None,
        *,
        config: OrchestrationConfig | None = None,
        use_env_overrides: bool = True,
    ) -> None:
        """Load the configuration, or take one that is loaded.

        Args:
            config_path: The YAML file; None searches the usual places and falls back to the defaults.
            config: The configuration itself, in place of a file; it is used as it is.
            use_env_overrides: Whether the `TTA_*` variables override the file.

        Raises:
            FileNotFoundError: `config_path` is given and missing.
            ConfigError: The file or a variable is invalid (the message names the file and the key), or both a path
                and a configuration are given.
        """
        if config is None:
            self._config = load_orchestration_config(config_path, use_env_overrides=use_env_overrides)
            return
        if config_path is not None:
            raise ConfigError("config_path and config: give one of them.")
        if not isinstance(config, OrchestrationConfig):
            raise ConfigError(
                f"config: expected an OrchestrationConfig, got {type(config).__name__}. A file is config_path."
            )
        self._config = config

    @property
    def config(self) -> OrchestrationConfig:
        """The loaded configuration."""
        return self._config

    @overload
    def run(
        self,
        task: str,
        use_case: str | None = None,
        system: str | None = None,
        *,
        output_type: type[T],
        fresh: bool = False,
    ) -> OrchestrationResult[T]: ...
    @overload
    def run(
        self,
        task: str,
        use_case: str | None = None,
        system: str | None = None,
        output_type: Any = None,
        *,
        fresh: bool = False,
    ) -> OrchestrationResult[Any]: ...

    def run(
        self,
        task: str,
        use_case: str | None = None,
        system: str | None = None,
        output_type: Any = None,
        *,
        fresh: bool = False,
    ) -> OrchestrationResult[Any]:
        """Run one task and wait for its answer. Works inside a running event loop too (a notebook).

        Args:
            task: What to do; not empty.
            use_case: One of the guide's use cases; None lets the local classifier decide.
            system: Extra instructions for the models.
            output_type: What the answer is: a pydantic model, dataclass, TypedDict, Literal, list[...], whatever
                `pydantic.TypeAdapter` takes, or a JSON Schema dict. The result's `data` is then the validated value.
            fresh: Ask anew, and pay again, for answers that are stored.

        Returns:
            The answer with its evidence, attempts and cost.

        Raises:
            BudgetExceededError: The answer needs a paid call that the budget refuses.
            AllModelsFailedError: Every candidate failed; `.attempts` says how.
            ConfigError: The task, the use case, the output type or a needed key is wrong.
        """
        return wait_for(self.execute(task, use_case, system, output_type, fresh=fresh))

    @overload
    async def execute(
        self,
        task: str,
        use_case: str | None = None,
        system: str | None = None,
        *,
        output_type: type[T],
        fresh: bool = False,
    ) -> OrchestrationResult[T]: ...
    @overload
    async def execute(
        self,
        task: str,
        use_case: str | None = None,
        system: str | None = None,
        output_type: Any = None,
        *,
        fresh: bool = False,
    ) -> OrchestrationResult[Any]: ...

    async def execute(
        self,
        task: str,
        use_case: str | None = None,
        system: str | None = None,
        output_type: Any = None,
        *,
        fresh: bool = False,
    ) -> OrchestrationResult[Any]:
        """Run one task as one Prefect flow run; see `run` for arguments and errors.

        The answer comes when it is in the ledger and Prefect has the end of the run. The run's artifacts are written
        while the caller goes on, and when the event loop ends at the latest.
        """
        from tta_dev_primitives.flows.bulk.arguments import flag
        from tta_dev_primitives.flows.tasks.request import check_task

        check_task(task, use_case, system)
        flag("fresh", fresh)
        output = _typed(output_type)
        runtime = await self.ready()
        from tta_dev_primitives.flows.prefect_support.recorded_run import run_recorded

        runtime.output = output
        schema = None if output is None else dict(output.schema)
        result = await run_recorded(runtime, task, use_case, system, self._path, fresh, schema)
        # Prefect keeps plain JSON; the caller gets an instance of the type.
        return (
            result if output is None else result.model_copy(update={"data": output.check(result.data).value})
        )

    @overload
    async def execute_bulk(
        self,
        items: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
        *,
        concurrency: int = 50,
        output_type: type[T],
        on_result: Callable[[OrchestrationResult[T | None]], None] | None = None,
        **options: Any,
    ) -> list[OrchestrationResult[T | None]]: ...
    @overload
    async def execute_bulk(
        self,
        items: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
        *,
        concurrency: int = 50,
        output_type: Any = None,
        on_result: Callable[[OrchestrationResult[Any]], None] | None = None,
        **options: Any,
    ) -> list[OrchestrationResult[Any]]: ...

    async def execute_bulk(
        self,
        items: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
        *,
        concurrency: int = 50,
        output_type: Any = None,
        on_result: Callable[[OrchestrationResult[Any]], None] | None = None,
        **options: Any,
    ) -> list[OrchestrationResult[Any]]:
        """Run many tasks as one flow run.

        Args:
            items: Mappings with `id`, `task` and optional `use_case`, `system` and `schema` (a JSON Schema).
            concurrency: How many provider calls may be open at once.
            output_type: What each answer is, as in `run`; an item's own `schema` goes before it.
            on_result: Called with each result as it comes.
            options: `max_cost`, `patience_s`, `until`, `chunk_size`, `detail`, `keep_going`, also as text: "2.50",
                "1h", "2026-11-30T18:00" (local time).

        Returns:
            One result for each item, in the order given; a failed item has `accepted=False` and its error among
            the warnings.

        Raises:
            ConfigError: An option is wrong, or `items` are no tasks.
        """
        from tta_dev_primitives.flows.bulk.arguments import job_options
        from tta_dev_primitives.flows.bulk.reader import check_items

        check_items(items)
        options = job_options({"concurrency": concurrency, **options})
        if on_result is not None and not callable(on_result):
            raise ConfigError(
                f"on_result: {on_result!r:.80} cannot be called. Expected a function of one result."
            )
        output = _typed(output_type)
        runtime = await self.ready()
        from tta_dev_primitives.flows.bulk.memory_job import run_bulk
        from tta_dev_primitives.flows.calling.runtime import active

        with active(runtime):
            return await run_bulk(items, on_result=on_result, output_type=output, **options)

    @property
    def _path(self) -> str | None:
        return str(self._config.source) if self._config.source is not None else None

    async def ready(self) -> Runtime:
        """This process's runtime, with a Prefect API that answers.

        Raises:
            MissingKeyError: No model can be called; nothing was started.
            PrefectServerError: The API cannot be started or reached.
        """
        from tta_dev_primitives.blocks.credentials.usable_keys import refuse_without_key
        from tta_dev_primitives.flows.prefect_support.api_connection import (
            address_server,
            inside_a_run,
            still_there,
            wait_until_ready,
        )

        if not inside_a_run() and not still_there():
            refuse_without_key(self._config)
            loop = asyncio.get_running_loop()
            addressed = loop.run_in_executor(None, address_server)
            # A process is being started: time to import what needs no Prefect, whose settings must be there first.
            import tta_dev_primitives.blocks.ledger.guarded_call
            import tta_dev_primitives.blocks.providers.client  # noqa: F401

            answers = loop.run_in_executor(None, wait_until_ready, await addressed)
            # Importing Prefect takes seconds; a server that has just been started comes up meanwhile.
            from tta_dev_primitives.flows.prefect_support import recorded_run  # noqa: F401

            await answers
        from tta_dev_primitives.flows.calling.runtime import Runtime

        return await Runtime.of(self._config)


def _typed(wanted: Any) -> OutputType | None:
    if wanted is None:
        return None
    from tta_dev_primitives.flows.answers.output_type import OutputType

    return OutputType.of(wanted)
