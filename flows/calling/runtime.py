"""What a process keeps between runs of one configuration: clients, ledger, quotas, keys, prices, trust.

A `Runtime` belongs to one event loop; `Runtime.of` gives the same one again for the same configuration there.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from datetime import date
from pathlib import Path
from weakref import WeakKeyDictionary

from prefect.context import FlowRunContext

from tta_dev_primitives.blocks.credentials.config_trust import refuse_untrusted
from tta_dev_primitives.blocks.credentials.key_ids import key_id
from tta_dev_primitives.blocks.ledger.database.protocol import Database, database_for, default_ledger_url
from tta_dev_primitives.blocks.quotas.availability import Availability, Blocked
from tta_dev_primitives.blocks.quotas.quota import Quota
from tta_dev_primitives.config import OrchestrationConfig, load_orchestration_config
from tta_dev_primitives.config.errors import (
    ErrorClass,
    MissingKeyError,
)
from tta_dev_primitives.config.models.catalogue import load_catalogue, today_utc
from tta_dev_primitives.config.models.resolve import resolve_targets
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.flows.calling.admission import Gate
from tta_dev_primitives.flows.calling.caller import Caller
from tta_dev_primitives.flows.calling.job_budget import Purse
from tta_dev_primitives.flows.prefect_support.install import install
from tta_dev_primitives.flows.routing.candidates import Route, candidate_names, route
from tta_dev_primitives.flows.routing.learned_order import learned_names
from tta_dev_primitives.flows.routing.model_score_store import StandingsLedger
from tta_dev_primitives.flows.routing.model_scores import Standings
from tta_dev_primitives.flows.routing.replacements import serving_now, stand_in_of
from tta_dev_primitives.flows.validation.case import Policy
from tta_dev_primitives.flows.validation.risk import Evidence, Label, RiskPolicy, Ruling
from tta_dev_primitives.flows.validation.risk_store import TrustLedger, scope_of

__all__ = ["Runtime", "active", "current_runtime"]

_LOG = logging.getLogger("tta_dev_primitives.runtime")
_PASSING = frozenset({ErrorClass.QUOTA, ErrorClass.RATE_LIMIT, ErrorClass.OVERLOADED})
_ACTIVE: ContextVar[Runtime | None] = ContextVar("tta_runtime", default=None)
_KEPT: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Runtime]] = WeakKeyDictionary()


def current_runtime() -> Runtime | None:
    """The runtime that the caller of a flow in this process has made active."""
    return _ACTIVE.get()


@contextmanager
def active(runtime: Runtime) -> Iterator[None]:
    """Let flows called inside use `runtime` instead of loading the configuration again."""
    token = _ACTIVE.set(runtime)
    try:
        yield
    finally:
        _ACTIVE.reset(token)


class Runtime(Caller):
    """Everything a run needs besides its tasks. Make it with `of` or `load`."""

    def __init__(self, config: OrchestrationConfig, database: Database) -> None:
        super().__init__(config, database)
        self.catalogue = load_catalogue()
        self.targets: dict[str, Target] = resolve_targets(config, self.catalogue)
        self.orchestrator: Target = self.targets[config.orchestrator.model]
        self._database = database
        self._until_loop_ends: AsyncGenerator[None] | None = None
        self.trust = TrustLedger(database, scope_of(self.orchestrator.key, self.policy))
        self.standings = self._standings_of(self.orchestrator)
        self.order: Standings | None = None
        """What `routing: learned` knew when this run began; None: the order of the file."""
        self.gate = Gate()
        self.waits_for_quota = False
        """Whether a model that is out for a while stays a candidate (the gate waits for it) or is passed over."""
        self._warnings: tuple[date, tuple[str, ...]] | None = None
        self.drifts = 0
        """Drift alarms since this runtime was made."""
        self.rng = random.Random()  # noqa: S311 - jitter and audit coins, no secret

    @classmethod
    async def of(cls, config: OrchestrationConfig) -> Runtime:
        """The runtime of `config` on the running event loop, made on first use.

        Raises:
            ConfigError: A model that nothing defines, settings that contradict each other, or a file of the
                working folder that asks for more than it may without trust.
            LedgerError: The ledger's database cannot be used.
        """
        install()
        kept = _KEPT.setdefault(asyncio.get_running_loop(), {})
        identity = f"{config.source}|{config.model_dump_json()}|{config.cost_tracking.budget_limit}"
        if identity not in kept:
            refuse_untrusted(config)
            made = cls(config, database_for(default_ledger_url(config.cost_tracking.ledger_url)))
            made._until_loop_ends = made._open()
            await anext(made._until_loop_ends)
            kept[identity] = made
        return kept[identity]

    async def for_run(self) -> Runtime:
        """This runtime as one run uses it: with `routing: learned`, what is known now orders the models to its end.

        Raises:
            LedgerError: The ledger's database cannot be used.
        """
        if self.config.routing == "file":
            return self
        run = copy(self)
        run.order = await self.standings.state()
        return run

    def _standings_of(self, orchestrator: Target) -> StandingsLedger:
        return StandingsLedger(self._database, orchestrator.key, self.config.quality_threshold)

    def for_job(
        self,
        gate: Gate,
        purse: Purse,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> Runtime:
        """This runtime as one bulk job uses it: same clients, ledger and trust, with the job's gate and ceiling."""
        job = copy(self)
        job.gate, job.purse, job.priority, job.waits_for_quota = gate, purse, "bulk", True
        job.availability = Availability(self._database, clock=clock)
        job.quota = Quota(self._database, clock=clock, sleep=sleep)
        job.clock, job.sleep = clock, sleep
        return job

    async def _open(self) -> AsyncGenerator[None]:
        """Closes the connections when the loop ends: `asyncio.run` closes the generators that are still open."""
        try:
            yield
        finally:
            await self.client.aclose()

    @classmethod
    async def load(cls, config_path: str | Path | None) -> Runtime:
        """The runtime of a configuration file; None searches the usual places."""
        install()
        return await cls.of(load_orchestration_config(config_path))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Which of the configuration's models are retired or will be within 30 days, and what replaces them."""
        today = today_utc()
        if self._warnings is None or self._warnings[0] != today:
            found = (w for target in self.targets.values() for w in self.catalogue.warnings_of(target, today))
            self._warnings = (today, tuple(dict.fromkeys(found)))
        return self._warnings[1]

    @property
    def policy(self) -> Policy:
        """What the configuration says about trust."""
        return Policy.of(self.config)

    async def route_of(self, use_case: str) -> Route:
        """The candidates of a use case now: without those that have no key, wait for a quota, or are gone."""
        names = candidate_names(self.config, use_case)
        known = [self.targets[name] for name in names if name in self.targets]
        reasons: dict[str, str] = {}
        keyed: list[tuple[Target, str]] = []
        for target in known:
            try:
                keyed.append((target, key_id(await self.key_of(target))))
            except MissingKeyError as missing:
                reasons[target.name] = str(missing)
        blocked = await self.availability.blocked(keyed)
        stand_ins: dict[str, Target] = {}
        for target, _ in keyed:
            block = blocked.get(target.key)
            if block is None or self.waits_for(block):
                continue
            reasons[target.name] = block.reason
            if block.error_class is ErrorClass.MODEL_GONE:
                found = await self.stand_in_of(target)
                if isinstance(found, Target):
                    stand_ins[target.name] = found
                else:
                    reasons[target.name] = f"{block.reason}; {found}"
        order = None
        if self.order is not None:
            order = learned_names(self.config, self.targets, self.order, use_case)
        return route(
            self.config, self.targets, use_case, executors=order, blocked=reasons, replacements=stand_ins
        )

    async def stand_in_of(self, gone: Target) -> Target | str:
        """The catalogue's replacement of a model that its provider no longer serves, or why there is none."""
        return await stand_in_of(self, gone)

    async def choose_orchestrator(self) -> None:
        """Let the replacement plan and judge for as long as the provider says that the orchestrator is gone.

        Raises:
            LedgerError: The database of what is out cannot be used.
        """
        serving = await serving_now(self, self.targets[self.config.orchestrator.model])
        if serving.key != self.orchestrator.key:
            # What one model has endorsed says nothing of what another would.
            self.trust = TrustLedger(self._database, scope_of(serving.key, self.policy))
            self.standings = self._standings_of(serving)
        self.orchestrator = serving

    async def out_now(self, target: Target) -> Blocked | None:
        """Why a model that this run chose is out since, as this process has seen; None: it may be called."""
        block = self.availability.known(target, key_id(await self.key_of(target)))
        return None if block is None or self.waits_for(block) else block

    def waits_for(self, block: Blocked) -> bool:
        """Whether a model that is out stays a candidate, since the job waits until it is back."""
        return self.waits_for_quota and block.error_class in _PASSING

    async def rule(self, evidence: Sequence[Evidence]) -> list[Ruling]:
        """Ask the risk ledger about many items in one transaction."""
        coins = [self.rng.random() for _ in evidence]
        rulings = await self.trust.rule(evidence, self.risk_policy, coins)
        self.drifts += sum(ruling.drifted for ruling in rulings)
        return rulings

    async def learn(self, labels: Sequence[Label]) -> list[str]:
        """Tell the risk ledger what ended items have taught; returns the strata that raised a drift alarm."""
        alarms = await self.trust.learn(labels, self.risk_policy)
        self.drifts += len(alarms)
        return alarms

    @property
    def risk_policy(self) -> RiskPolicy:
        """The risk budget of the configuration."""
        return RiskPolicy(eps=self.policy.eps, gate=self.policy.gate)

    def flow_run_id(self) -> str | None:
        """The id of the flow run that we are in."""
        flow = FlowRunContext.get()
        return str(flow.flow_run.id) if flow is not None and flow.flow_run is not None else None
