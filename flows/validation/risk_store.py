"""The risk ledger of one configuration, shared by all its runs: decide and record in one transaction.

store = RiskStore(database, scope_of(orchestrator.key, policy))
rulings = await store.rule([(task_key(text), evidence)], risk_policy)     # many items, one transaction
alarms = await store.learn(labels, risk_policy)
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from tta_dev_primitives.blocks.ledger.database.protocol import Database
from tta_dev_primitives.blocks.ledger.risk_tables import Book, DocumentStore
from tta_dev_primitives.flows.prompts import versions
from tta_dev_primitives.flows.validation.case import Policy
from tta_dev_primitives.flows.validation.evidence import Evidence
from tta_dev_primitives.flows.validation.risk_state import Label, RiskPolicy, RiskState, Ruling
from tta_dev_primitives.flows.validation.rulings import TaskRow, learn_once, observe_once, rule_once

_LOG = logging.getLogger("tta_dev_primitives.validation")
T = TypeVar("T")


def scope_of(orchestrator_key: str, policy: Policy, *, made_by_0_1: bool = False) -> str:
    """What all trust depends on besides the answering models: who judges, by which prompts, at which threshold.

    The answering models' identities are part of each stratum's own key.
    """
    version = ("risk/1", "plan/1 verdict/1") if made_by_0_1 else ("risk/4", versions())
    parts = (version[0], orchestrator_key, version[1], f"{policy.threshold:.6f}", policy.gate)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


class RiskStore:
    """Rulings and labels of one scope, safe under concurrent runs and processes.

    Args:
        scope: A digest of what the labels depend on.
        before: The scope of version 0.1.0, whose labels lack what is needed now; it is deleted with a warning.
    """

    def __init__(self, database: Database, scope: str, before: str | None = None) -> None:
        self._documents, self._scope, self._before = DocumentStore(database), scope, before
        self._secret: str | None = None

    @classmethod
    def of(cls, database: Database, orchestrator_key: str, policy: Policy) -> RiskStore:
        """The store of what an orchestrator says under a policy."""
        return cls(
            database, scope_of(orchestrator_key, policy), scope_of(orchestrator_key, policy, made_by_0_1=True)
        )

    async def rule(
        self,
        items: Sequence[tuple[str, Evidence]],
        policy: RiskPolicy,
        observed: Sequence[tuple[str, Evidence]] = (),
        under_way: Mapping[str, int] | None = None,
    ) -> list[Ruling]:
        """Decide on many items in order, each seeing the decisions before it.

        Args:
            items: Content keys of tasks with what speaks for their answers.
            observed: Tasks whose first two answers have come, but which wait for a third: only their agreement counts.
            under_way: Checks that the run has open, by stratum: rulings may be put off until
                their words come; None: none is.

        Returns:
            The rulings of `items`; behind them a ruling for each of `observed` that raised a drift alarm.
        """

        def work(state: RiskState, rows: dict[str, TaskRow], book: Book) -> tuple[RiskState, list[Ruling]]:
            rulings, alarms, checks = [], [], Counter(under_way)
            for task, seen in observed:
                alarm, state, rows[task] = observe_once(state, rows[task], seen, policy)
                if alarm:
                    alarms.append(Ruling("escalate", seen, 0.0, 1.0, drifted=True, task=task))
            for task, evidence in items:
                ruling, state, rows[task] = rule_once(
                    state,
                    rows[task],
                    task,
                    evidence,
                    policy,
                    secret=book.secret,
                    month=book.month,
                    under_way=None if under_way is None else checks[evidence.stratum],
                )
                checks[evidence.stratum] += ruling.checks
                rulings.append(ruling)
            return state, rulings + alarms

        tasks = [task for task, _ in (*observed, *items)]
        return await self._change(tasks, work) if tasks else []

    async def learn(self, labels: Sequence[Label], policy: RiskPolicy) -> list[str]:
        """Record what items showed and how they ended; returns the strata whose rejections raised a drift alarm."""

        def work(state: RiskState, rows: dict[str, TaskRow], book: Book) -> tuple[RiskState, list[str]]:
            alarms = []
            for label in labels:
                alarm, state, rows[label.task] = learn_once(state, rows[label.task], label, policy)
                if alarm and label.ruling is not None:
                    alarms.append(label.ruling.evidence.stratum)
            return state, alarms

        return await self._change([label.task for label in labels], work) if labels else []

    async def _change(
        self,
        tasks: Sequence[str],
        work: Callable[[RiskState, dict[str, TaskRow], Book], tuple[RiskState, T]],
    ) -> T:
        def within(book: Book) -> T:
            rows = {task: TaskRow.from_json(book.tasks.get(task)) for task in tasks}
            state, result = work(RiskState.from_json(book.body), rows, book)
            book.body, book.tasks = state.to_json(), {task: row.to_json() for task, row in rows.items()}
            return result

        result, begun_anew = await self._documents.change_tasks(
            self._scope, tasks, within, before=self._before
        )
        if begun_anew:
            _LOG.warning(
                "The risk ledger of version 0.1.0 cannot be used any more: free answers are checked anew."
            )
        return result

    async def state(self) -> RiskState:
        """Everything the store knows, for reports."""
        return RiskState.from_json(await self._documents.read(self._scope))

    async def secret(self, first: str | None = None) -> str:
        """The ledger's secret, under which coins are drawn; `first` for a new ledger whose coins must be repeated."""
        self._secret = self._secret or await self._documents.secret(first)
        return self._secret
