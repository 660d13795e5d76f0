"""What a run gives back: the answer, every attempt, and what it cost."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, cast
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer
from typing_extensions import TypeVar

from tta_dev_primitives.flows.validation.evidence import EvidenceName

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

NO_PAID_CALL = "the budget allows no paid call: the best free answer is delivered without its verdict"
"""The warning of an answer that needed a paid call, which the budget refused."""
Role = Literal["plan", "execute", "validate"]
PaidFrom = Literal["free", "baseline", "savings", "credit", "choice"]
"""What pays for a call: nothing, the baseline (the orchestrator's own answer), the month's savings, these and the
learning credit (a paid executor), or the user's own choice at any price."""


def _money(value: Decimal) -> str:
    return f"{value:f}"


Usd = Annotated[Decimal, PlainSerializer(_money, return_type=str, when_used="json")]
"""US dollars, exact; a string in JSON."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Attempt(_Frozen):
    """One call to a provider, or one that was refused before it was sent."""

    role: Role
    model: str
    provider: str
    outcome: str = Field(description="`ok`, the error class, or `unreadable` (a verdict)")
    input_tokens: int = Field(default=0, description="All prompt tokens, cached ones included")
    output_tokens: int = Field(default=0, description="Thoughts included")
    cost_usd: Usd = Field(default=Decimal(0), description="Settled or presumed cost of this attempt")
    latency_s: float = 0.0
    billing: Literal["free", "paid"] = "free"
    list_value_usd: Usd = Field(default=Decimal(0), description="List price of the tokens of this attempt")
    reused: bool = Field(default=False, description="Taken from the answer store: not sent, not paid again")
    batch: bool = Field(default=False, description="Sent in a batch of the provider, at its batch price")
    reason: str | None = Field(default=None, description="Why it failed, in one redacted line")
    started_at: float = Field(default=0.0, description="Seconds since the epoch")


class BudgetView(_Frozen):
    """The month's budget as it stood when the run ended."""

    month: str = Field(description="YYYY-MM")
    limit_usd: Usd | None = Field(description="None: cost tracking is off, no limit")
    spent_usd: Usd
    held_usd: Usd


class MonthSavings(_Frozen):
    """The tasks that ended in a month, together."""

    tasks: int
    cost_usd: Usd
    baseline_cost_usd: Usd

    @property
    def ratio(self) -> float:
        """The saved share of the baseline; 0 when there is nothing to compare."""
        return float(1 - self.cost_usd / self.baseline_cost_usd) if self.baseline_cost_usd else 0.0


FieldStatus = Literal["agreed", "disputed", "unchecked"]
T = TypeVar("T", default=Any)


class OrchestrationResult(_Frozen, Generic[T]):
    """The answer of one task with the evidence for it, each attempt, and its whole cost."""

    content: str
    model: str
    provider: str
    use_case: str
    accepted: bool
    quality_score: float | None = None
    evidence: EvidenceName = "none"
    attempts: list[Attempt] = []
    cost_usd: Usd = Decimal(0)
    baseline_cost_usd: Usd = Field(
        default=Decimal(0), description="The same task by the orchestrator model alone, at list price"
    )
    savings_ratio: float = Field(default=0.0, description="1 - cost / baseline; negative when we cost more")
    budget: BudgetView
    flow_run_id: str | None = None
    warnings: list[str] = []
    reused: bool = Field(default=False, description="Served wholly from the answer store: it cost nothing")
    judged_by: str | None = Field(
        default=None, description="The model whose verdict the evidence `judge` or `audit` rests on"
    )
    saved: MonthSavings | None = Field(
        default=None, description="What the month has saved so far, this task included"
    )
    id: str | None = Field(default=None, description="The item's id in a bulk job")
    data: T = Field(
        default=cast("Any", None), description="The validated value of a typed task; None without a type"
    )
    fields: dict[str, FieldStatus] = Field(
        default={}, description="Of typed tasks: what the models' answers say of each field"
    )

    @property
    def basis(self) -> str:
        """What the answer is accepted on, in words: the evidence, who judged, the score, and whether it was reused."""
        judge = "" if self.judged_by is None else f" by {self.judged_by}"
        score = "" if self.quality_score is None else f", quality {self.quality_score:.2f}"
        reason = f"{'no verdict' if self.evidence == 'none' else self.evidence}{judge}{score}"
        if self.evidence == "paid":
            free = any(a.model == self.model and a.billing == "free" for a in self.attempts)
            reason = f"answer of the {'orchestrator' if free else 'paid model'}"
        return f"{reason}{', reused' if self.reused else ''}"

    def to_json(self) -> dict[str, Any]:
        """The result as plain JSON types; money as strings."""
        return self.model_dump(mode="json")

    @classmethod
    async def from_flow_run(cls, flow_run: FlowRun | UUID | str) -> OrchestrationResult[Any]:
        """The result of a run of `orchestrate`, on any machine that reaches the Prefect API and the run's storage.

        Where the storage is a folder of the worker, the result of a deployed run is read from its artifact.

        Args:
            flow_run: The run, such as `run_deployment` returns it, or its id.

        Raises:
            OrchestrationError: The run failed (its own error, where that was stored), has not ended, or its result
                cannot be read from here.
            ConfigError: There is no such run, or it is one of another flow.
        """
        # Imported here: with Prefect it takes seconds, which reading results from a file must not cost.
        from tta_dev_primitives.flows.prefect_support.answer_of_run import answer_of_run

        return await answer_of_run(flow_run)
