"""One task on its way through plan, execute and validate: what is known of it so far.

Plain classes on purpose: Prefect walks dataclasses and models among task parameters, which costs time for every
item of a chunk, and the attempts of one task run must share what they learn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

from tta_dev_primitives.blocks.ledger.savings_account import Pair
from tta_dev_primitives.blocks.ledger.stored_replies import GuardedReply
from tta_dev_primitives.blocks.ledger.task_records import TaskDecision
from tta_dev_primitives.blocks.wire.reading import fewest_tokens, flat
from tta_dev_primitives.blocks.wire.reply_problems import unknown_finish
from tta_dev_primitives.blocks.wire.types import ChatRequest
from tta_dev_primitives.config.errors import BudgetExceededError, OrchestrationError
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.config.provider_errors import ErrorClass
from tta_dev_primitives.flows.answers.output_type import OutputType
from tta_dev_primitives.flows.answers.parts import Part
from tta_dev_primitives.flows.planning.plan_model import Plan
from tta_dev_primitives.flows.routing.candidates import Route
from tta_dev_primitives.flows.tasks.result import Attempt, BudgetView, OrchestrationResult
from tta_dev_primitives.flows.validation.case import Answer, Candidate, Case, Decided
from tta_dev_primitives.flows.validation.local_checks import Checked
from tta_dev_primitives.flows.validation.rulings import task_key
from tta_dev_primitives.flows.validation.steps import Answers, PaidSolve, Step

_NAMED = 3
"""Models that the name of a task run holds."""

LocalCheck = Callable[[str], Awaitable[Sequence[str]]]
"""A job's own check of an answer: one short word or line for each failure, empty when it may go on."""


class Item:
    """One task and everything a run has learned about it."""

    def __init__(
        self,
        id: str,
        task: str,
        *,
        use_case: str | None = None,
        system: str | None = None,
        calls_left: int = 6,
        plan: Plan | None = None,
        check: LocalCheck | None = None,
        output: OutputType | None = None,
        seed: int | None = None,
    ) -> None:
        self.id = id
        self.task = task
        self.system = system
        self.use_case = use_case or ""
        self.calls_left = calls_left
        self.plan = plan
        self.check = check
        self.repairs: str | None = None
        """What a model whose answer failed `check` is asked for once more; None: the next model is asked."""
        self.output = output
        """The type of the answer; None: text."""
        self.schema: Mapping[str, Any] | None = None
        """The form of a text that `check` reads: models are asked for it, other forms may pass the check."""
        self.seed = seed
        """Which of several independent answers is asked for; None: any."""
        self.route = Route(())
        self.targets: Mapping[str, Target] = {}
        self.case: Case | None = None
        self.step: Step | None = None
        self.replies: list[GuardedReply] = []
        """Replies behind the answers of the case, in the same order."""
        self.requests: dict[tuple[object, ...], ChatRequest] = {}
        """Requests that were made for this task: each is looked up, weighed and sent, and is one object all the way."""
        self.attempts: list[Attempt] = []
        self.reasons: list[str] = []
        self.warnings: list[str] = []
        self.budget: BudgetView | None = None
        """The month's budget when this task ended."""
        self.month: str | None = None
        """The ledger's month when the task began: that of all its figures."""
        self.refusal: BudgetExceededError | None = None
        self.error: OrchestrationError | None = None
        self.result: OrchestrationResult | None = None
        self.key: str | None = None
        """Key of the task with all its settings; None: the same task again is not recognised."""
        self.before: Decided | None = None
        """How the same task ended before."""
        self.kept: GuardedReply | None = None
        """The reply that was delivered when the same task ended before."""
        self.decided: TaskDecision | None = None
        """How this task ended, for the same task again."""
        self.earned = Decimal(0)
        """What its end adds to the month's savings, USD."""
        self.pair: Pair | None = None
        self.parts: dict[object, Part] = {}
        self.watch: Callable[[Answer], None] | None = None
        """Called with each answer as it comes."""
        self.logged = False
        """Each of its steps is a line in the run's log: a run of one task, none of a job."""
        self.task_runs = frozenset[UUID]()
        """The last task runs that it went through, for the edges of Prefect's graph."""

    @property
    def open_case(self) -> Case:
        """The case of a planned item."""
        if self.case is None:
            raise RuntimeError(f"item {self.id} was not planned")
        return self.case

    @property
    def cost_usd(self) -> Decimal:
        """What this task has cost so far, USD."""
        return sum((a.cost_usd for a in self.attempts), Decimal(0))

    @property
    def content_key(self) -> str:
        """What the risk ledger knows the task by: its content, not its id."""
        return task_key(self.task, self.system)

    @property
    def part(self) -> Part | None:
        """The fields that are asked for now, of a typed answer; None: the whole."""
        step = self.step
        if self.output is None or not isinstance(step, Answers | PaidSolve) or not step.fields:
            return None
        key = (step.fields, step.base)
        if key not in self.parts:
            self.parts[key] = Part.of(self.output, step.fields, self.open_case.answers[step.base].text)
        return self.parts[key]

    def answered(self, target: Target, guarded: GuardedReply, found: Checked) -> None:
        """Keep one answer with what its local checks found."""
        failures = found.failures
        reply = guarded.reply
        self.replies.append(guarded)
        odd = unknown_finish(reply)
        if odd is not None:
            self.note(
                f"{target.name}: ended with the unknown reason {flat(odd, limit=40)!r}; its answer may be cut"
            )
        if "prompt_cut" in failures:
            read, least = reply.usage.total_input, fewest_tokens(self.task)
            self.note(
                f"{target.name}: its server cut the prompt: it read {read} tokens of at least {least}. Give it a "
                "larger context (Ollama: num_ctx), or take it out of the use case"
            )
        read, wrote = reply.usage.total_input, reply.usage.output_tokens
        self.case = self.open_case.with_answer(
            Answer(Candidate.of(target), found.text, failures, found.final, read, wrote, found.fields)
        )
        if self.watch is not None:
            self.watch(self.case.answers[-1])

    def failed(self, target: Target, error_class: ErrorClass, reason: str) -> None:
        """Keep that a model brought nothing, and why."""
        self.reasons.append(f"{target.name}: {reason}")
        self.case = self.open_case.without([target.name])

    def replaced(self, retired: Target, by: Target) -> Target | None:
        """Let `by` take the place of `retired` from here on.

        Returns:
            The model to ask at once; None when it was a model of this task already, whose own turn comes or was.
        """
        twin = next((t for t in self.targets.values() if t.key == by.key), None)
        serving = twin or by
        self.targets = {**self.targets, serving.name: serving}
        self.case = self.open_case.with_replacement(retired.name, Candidate.of(serving))
        return None if twin is not None else serving

    def note(self, text: str) -> None:
        """Add a warning once."""
        if text not in self.warnings:
            self.warnings.append(text)


class AttemptChain:
    """One walk over models for a batch of items: attempt n asks the n-th model of each item that still fails.

    Args:
        walks: The items, each with its models.
        left: Called with each item that is answered, or has no model left.
    """

    def __init__(
        self,
        walks: Sequence[tuple[Item, Sequence[Target]]],
        left: Callable[[Item], None] = lambda _: None,
    ) -> None:
        self.left = left
        self.walks: dict[str, list[Target]] = {item.id: list(targets) for item, targets in walks}
        self.open: list[Item] = [item for item, _ in walks]
        self.size = len(self.open)
        self.after = frozenset[UUID]().union(*(item.task_runs for item in self.open))
        """The task runs before that of this chain."""
        self.failures: dict[str, None] = {}
        """Why the last attempt brought no answer for some: error classes."""

    @property
    def length(self) -> int:
        """How many attempts the chain can need at most."""
        return max((len(targets) for targets in self.walks.values()), default=0)

    def attempt_name(
        self, number: int, targets: Iterable[Target] | None = None, why: Iterable[str] = ()
    ) -> str:
        """The name of the task run in its n-th attempt.

        Args:
            number: From 1.
            targets: The models that answered; None: those whose turn it is.
            why: What failed in the attempt before.
        """
        if targets is None:
            targets = [walk[0] for walk in (self.walks[item.id] for item in self.open) if walk]
        counts = Counter(target.name for target in targets)
        named = [model if n == 1 else f"{model} x{n}" for model, n in counts.most_common(_NAMED)]
        models = ", ".join([*named, *(["..."] if len(counts) > _NAMED else [])])
        retry = ": ".join([f"retry {number - 1}", *([", ".join(why)] if why else [])])
        return f"execute[{models}]" + (f" ({retry})" if number > 1 else "")

    def take_named(self, item: Item, target: Target) -> None:
        """Take one model off the item's walk: usually the next, in bulk the first that has quota."""
        self.walks[item.id].remove(target)

    def following(self, item: Item) -> Target | None:
        """The model that the item would be sent to next."""
        walk = self.walks[item.id]
        return walk[0] if walk else None
