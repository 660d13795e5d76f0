"""What one run or one bulk job keeps around the services of its process: orchestrator, risk ledger, chain of calls.

A process keeps one `Services` for each configuration and event loop; `Runtime.of` puts a fresh run around it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Self
from weakref import WeakKeyDictionary

from prefect.context import FlowRunContext

from tta_dev_primitives.blocks.credentials.config_trust import refuse_untrusted
from tta_dev_primitives.blocks.ledger.database.protocol import database_for, default_ledger_url
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.providers.client import ProviderClient
from tta_dev_primitives.blocks.quotas.windows import Priority
from tta_dev_primitives.config import OrchestrationConfig
from tta_dev_primitives.config.errors import MissingKeyError
from tta_dev_primitives.config.models.catalogue import today_utc
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.config.provider_errors import ErrorClass
from tta_dev_primitives.config.reading.api_keys import key_id
from tta_dev_primitives.flows.answers.output_type import OutputType
from tta_dev_primitives.flows.calling.admission import Admission, waits_for
from tta_dev_primitives.flows.calling.batched import Batches
from tta_dev_primitives.flows.calling.chain import Calls
from tta_dev_primitives.flows.calling.given_config import load_given_config
from tta_dev_primitives.flows.calling.job_budget import JobBudget
from tta_dev_primitives.flows.calling.services import Services
from tta_dev_primitives.flows.prefect_support.install import install
from tta_dev_primitives.flows.routing.candidates import Route, candidate_names, route
from tta_dev_primitives.flows.routing.learned_order import learned_names
from tta_dev_primitives.flows.routing.model_score_store import ModelScoreStore
from tta_dev_primitives.flows.routing.model_scores import ModelScores
from tta_dev_primitives.flows.routing.replacements import Replacement, replacement_of, serving_now
from tta_dev_primitives.flows.tasks.open_checks import OpenChecks
from tta_dev_primitives.flows.tasks.result import PaidFrom, Role
from tta_dev_primitives.flows.tasks.savings import paid_from
from tta_dev_primitives.flows.validation.case import Policy
from tta_dev_primitives.flows.validation.evidence import Evidence
from tta_dev_primitives.flows.validation.opinion_costs import LengthRatios, OpinionCosts
from tta_dev_primitives.flows.validation.risk_state import Label, RiskPolicy, Ruling
from tta_dev_primitives.flows.validation.risk_store import RiskStore
from tta_dev_primitives.flows.validation.statistics import coin

_ACTIVE: ContextVar[Runtime | None] = ContextVar("tta_runtime", default=None)
_KEPT: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Kept]] = WeakKeyDictionary()


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


@dataclass(frozen=True, slots=True)
class _Kept:
    services: Services
    until_loop_ends: AsyncGenerator[None]
    """Closes the connections when the loop ends: `asyncio.run` closes the generators that are still open."""


class Runtime:
    """One run or one bulk job. Make it with `of` or `load`; `for_job` makes that of a job.

    Args:
        admission: Who may call now; default: the process's, which only counts.
        waits_for_quota: Whether a model that is out for a while stays a candidate (admission waits for it).
        order: What `routing: learned` knew when the run began; None: the order of the file.
        fresh: Ask anew for what is stored.
        batches: Where paid calls wait for a batch; None: they are sent one by one.
    """

    def __init__(
        self,
        services: Services,
        *,
        admission: Admission | None = None,
        job_budget: JobBudget | None = None,
        waits_for_quota: bool = False,
        order: ModelScores | None = None,
        rng: random.Random | None = None,
        fresh: bool = False,
        batches: Batches | None = None,
    ) -> None:
        self.services = services
        self.batched = batches is not None
        """Whether paid calls go out in batches."""
        self.order = order
        self.waits_for_quota = waits_for_quota
        self.fresh = fresh
        self.priority: Priority = "interactive" if job_budget is None else "bulk"
        self.rng = rng or random.Random()  # noqa: S311 - jitter, no secret
        self.orchestrator: Target = services.targets[services.config.orchestrator.model]
        self.output: OutputType | None = None
        """The answer's type, from a caller in this process: a flow parameter holds only its schema."""
        self.open_checks = OpenChecks()
        self.drifts = 0
        """Drift alarms of this run."""
        self._warnings: tuple[date, tuple[str, ...]] | None = None
        self._learn_from(self.orchestrator)
        self.calls = Calls(
            services,
            admission or services.admission,
            job_budget or JobBudget(None),
            priority=self.priority,
            waits_for_quota=waits_for_quota,
            rng=self.rng,
            fresh=fresh,
            batches=batches,
        )

    @classmethod
    async def of(cls, config: OrchestrationConfig) -> Self:
        """A run around this process's services for `config` on the running event loop.

        Raises:
            ConfigError: A model that nothing defines, settings that contradict each other, or a file of the
                working folder that asks for more than it may without trust.
        """
        install()
        kept = _KEPT.setdefault(asyncio.get_running_loop(), {})
        identity = f"{config.source}|{config.model_dump_json()}|{config.cost_tracking.budget_limit}"
        if identity not in kept:
            refuse_untrusted(config)
            services = Services.of(config, database_for(default_ledger_url(config.cost_tracking.ledger_url)))
            closing = _closing(services.client)
            await anext(closing)
            kept[identity] = _Kept(services, closing)
        return cls(kept[identity].services)

    async def for_run(self, *, fresh: bool = False) -> Self:
        """A new run; with `routing: learned`, what is known now orders the models to its end.

        Args:
            fresh: Ask anew for what is stored.
        """
        learned = self.config.routing != "file"
        order = await self.scores.state() if learned else None
        return type(self)(self.services, order=order, rng=self.rng, fresh=fresh)

    def for_job(
        self,
        admission: Admission,
        job_budget: JobBudget,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        batches: Batches | None = None,
    ) -> Self:
        """One bulk job: the same clients, ledger and risk ledger, with the job's admission, ceiling and clock."""
        return type(self)(
            self.services.at(clock, sleep),
            admission=admission,
            job_budget=job_budget,
            waits_for_quota=True,
            order=self.order,
            rng=self.rng,
            batches=batches,
        )

    def _learn_from(self, orchestrator: Target) -> None:
        """Use the risk ledger and the model scores that this orchestrator's verdicts have made."""
        database = self.services.database
        self.risk = RiskStore.of(database, orchestrator.key, self.policy)
        self.scores = ModelScoreStore(database, orchestrator.key, self.config.quality_threshold)

    @classmethod
    async def load(cls, config_path: str | Path | None) -> Self:
        """A run of a configuration file; None searches the usual places."""
        install()
        return await cls.of(load_given_config(config_path))

    @property
    def config(self) -> OrchestrationConfig:
        """The configuration."""
        return self.services.config

    @property
    def targets(self) -> Mapping[str, Target]:
        """The configuration's models by name."""
        return self.services.targets

    @property
    def ledger(self) -> Ledger:
        """Where money and answers are kept."""
        return self.services.ledger

    @property
    def warnings(self) -> tuple[str, ...]:
        """Which of the configuration's models are retired or will be within 30 days, and what replaces them."""
        today = today_utc()
        if self._warnings is None or self._warnings[0] != today:
            found = (
                w
                for target in self.targets.values()
                for w in self.services.catalogue.warnings_of(target, today)
            )
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
                keyed.append((target, key_id(await self.services.keys.key_of(target))))
            except MissingKeyError as missing:
                reasons[target.name] = str(missing).removeprefix(f"Model '{target.name}': ")
        blocked = await self.services.availability.blocked(keyed)
        replaced: dict[str, Target] = {}
        for target, _ in keyed:
            block = blocked.get(target.key)
            if block is None or waits_for(block, self.waits_for_quota):
                continue
            reasons[target.name] = block.reason
            if block.error_class is ErrorClass.MODEL_GONE:
                found = await self.replacement_of(target)
                if found.target is not None:
                    replaced[target.name] = found.target
                else:
                    reasons[target.name] = f"{block.reason}; {found.why_not}"
        order = None
        if self.order is not None:
            order = learned_names(self.config, self.targets, self.order, use_case)
        return route(
            self.config, self.targets, use_case, executors=order, blocked=reasons, replacements=replaced
        )

    async def replacement_of(self, retired: Target) -> Replacement:
        """The catalogue's replacement of a model that its provider no longer serves, or why there is none."""
        return await replacement_of(self.services, retired, waits_for_quota=self.waits_for_quota)

    async def choose_orchestrator(self) -> None:
        """Let the replacement plan and judge for as long as the provider says that the orchestrator is retired."""
        named = self.targets[self.config.orchestrator.model]
        serving = await serving_now(self.services, named, waits_for_quota=self.waits_for_quota)
        if serving.key != self.orchestrator.key:
            # What one model has accepted says nothing of what another would.
            self._learn_from(serving)
        self.orchestrator = serving

    def paid_from(self, role: Role, target: Target) -> PaidFrom:
        """What pays for a call of `target` in this role."""
        return paid_from(role, target, self.orchestrator, self.config)

    def repair_paid_from(self, target: Target) -> PaidFrom:
        """What pays for asking a model again: the orchestrator's second answer is no part of the baseline."""
        pays = self.paid_from("execute", target)
        return "savings" if pays == "baseline" else pays

    async def opinion_costs(self) -> OpinionCosts | None:
        """What the orchestrator's opinions cost, with the lengths learned so far; None: it is free or unpriced."""
        orchestrator = self.orchestrator
        if orchestrator.billing == "free" or orchestrator.price is None:
            return None
        lengths = await self.ledger.answer_lengths(orchestrator.key)
        return OpinionCosts(
            orchestrator.price,
            LengthRatios(lengths),
            orchestrator.max_output_tokens,
            orchestrator.capabilities.room_to_think,
        )

    async def rule(
        self, items: Sequence[tuple[str, Evidence]], observed: Sequence[tuple[str, Evidence]] = ()
    ) -> list[Ruling]:
        """Ask the risk ledger about many items in one transaction; see `RiskStore.rule`."""
        # A batch of checks takes hours: nothing waits for another one.
        under_way = None if self.batched else self.open_checks.by_stratum
        rulings = await self.risk.rule(items, self.risk_policy, observed, under_way)
        self.drifts += sum(ruling.drifted for ruling in rulings)
        return rulings

    async def coin_of(self, task: str, purpose: str) -> float:
        """A number in [0, 1) of a task (its content key) and a purpose: the same whenever the task comes again."""
        return coin(await self.risk.secret(), purpose, task)

    async def learn(self, labels: Sequence[Label]) -> list[str]:
        """Record what items have shown; returns the strata that raised a drift alarm."""
        alarms = await self.risk.learn(labels, self.risk_policy)
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


async def _closing(client: ProviderClient) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        await client.aclose()
