"""The month's savings: what pays for every call that goes beyond what the orchestrator alone would cost.

    earned   baseline less the cost of the orchestrator's own answers, over all ended tasks of the month
    extra    what verdicts, plans and paid executors were charged (their bound while they are in flight: `held`)
    an extra call is granted while  earned + credit - extra - held >= its bound

The credit is 0 for verdicts and plans, and the learning credit for calls of paid executors. So the ended tasks of a
month never cost more than the orchestrator alone would have cost, plus the credit; charges for failed calls aside.
An extra is reserved and closed in the transaction that holds and moves its money. Amounts are integer pico-USD here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from tta_dev_primitives.blocks.ledger.database.migrations import register_schema
from tta_dev_primitives.blocks.ledger.database.protocol import Tx
from tta_dev_primitives.blocks.ledger.failpoints import failpoint
from tta_dev_primitives.blocks.ledger.money import from_pico, in_usd, pico_floor
from tta_dev_primitives.blocks.ledger.types import CallInfo
from tta_dev_primitives.config.errors import SavingsShortError

_TABLE = """CREATE TABLE ledger_savings (
    scope TEXT NOT NULL, month TEXT NOT NULL,
    tasks INTEGER NOT NULL, cost INTEGER NOT NULL, baseline INTEGER NOT NULL, earned INTEGER NOT NULL,
    extra INTEGER NOT NULL CHECK (extra >= 0), held INTEGER NOT NULL CHECK (held >= 0),
    PRIMARY KEY (scope, month)) STRICT /* hot */"""
_PAIRS = """CREATE TABLE answer_length (
    scope TEXT NOT NULL, orchestrator TEXT NOT NULL, length_class INTEGER NOT NULL,
    pairs INTEGER NOT NULL, ratios REAL NOT NULL, squares REAL NOT NULL,
    PRIMARY KEY (scope, orchestrator, length_class)) STRICT"""
register_schema("savings", 1, [_TABLE, _PAIRS])


@dataclass(frozen=True, slots=True)
class SavingsAccount:
    """The savings of one month, USD."""

    month: str
    tasks: int = 0
    """Tasks that ended, those served from the store aside."""
    cost: Decimal = Decimal(0)
    baseline: Decimal = Decimal(0)
    earned: Decimal = Decimal(0)
    extra: Decimal = Decimal(0)
    held: Decimal = Decimal(0)

    @property
    def left(self) -> Decimal:
        """What further extras may cost; negative while a learning credit is in use."""
        return self.earned - self.extra - self.held


@dataclass(frozen=True, slots=True)
class Ended:
    """What ended tasks add to a month, pico-USD; `earned` is negative where no baseline covers what was charged."""

    tasks: int = 0
    cost: int = 0
    baseline: int = 0
    earned: int = 0


@dataclass(frozen=True, slots=True)
class Pair:
    """One task that an executor and the orchestrator both answered: by how much their lengths differ."""

    orchestrator: str
    """Identity of the orchestrator model."""
    length_class: int
    ratio: float


async def hold_extra(tx: Tx, scope: str, month: str, call: CallInfo, bound: int) -> None:
    """Set `bound` of the month's savings aside for a call.

    Raises:
        SavingsShortError: They do not cover it; the transaction must be rolled back.
    """
    if call.extra in (None, "choice"):
        return
    credit = pico_floor(call.credit, what="learning credit")
    await _open(tx, scope, month)
    failpoint("reserve.after_savings")
    if not await tx.execute(
        "UPDATE ledger_savings SET held = held + ? "
        "WHERE scope = ? AND month = ? AND earned + ? - extra - held >= ?",
        *(bound, scope, month, credit, bound),
    ):
        left = (await read_account(tx, scope, month)).left
        raise SavingsShortError(
            f"Savings: month {month}: {left:f} USD are left for calls beyond the baseline; "
            f"this one needs up to {from_pico(bound):f}",
            month=month,
            left=left,
            needed=from_pico(bound),
        )


async def move_extra(tx: Tx, scope: str, month: str, d_extra: int, d_held: int) -> None:
    """Change what an extra call was charged and holds."""
    await tx.execute(
        "UPDATE ledger_savings SET extra = extra + ?, held = held + ? WHERE scope = ? AND month = ?",
        *(d_extra, d_held, scope, month),
    )


async def earn(tx: Tx, scope: str, month: str, ended: Ended, pairs: Sequence[Pair]) -> None:
    """Add ended tasks to the month, and the lengths of their paired answers to what is known of them."""
    if ended != Ended():
        await _open(tx, scope, month)
        await tx.execute(
            "UPDATE ledger_savings SET tasks = tasks + ?, cost = cost + ?, baseline = baseline + ?, "
            "earned = earned + ? WHERE scope = ? AND month = ?",
            *(ended.tasks, ended.cost, ended.baseline, ended.earned, scope, month),
        )
    for pair in pairs:
        await tx.execute(
            "INSERT INTO answer_length (scope, orchestrator, length_class, pairs, ratios, squares) "
            "VALUES (?, ?, ?, 1, ?, ?) ON CONFLICT (scope, orchestrator, length_class) DO UPDATE SET "
            "pairs = answer_length.pairs + 1, ratios = answer_length.ratios + excluded.ratios, "
            "squares = answer_length.squares + excluded.squares",
            *(scope, pair.orchestrator, pair.length_class, pair.ratio, pair.ratio**2),
        )


async def read_account(tx: Tx, scope: str, month: str) -> SavingsAccount:
    """The savings of a month as they stand."""
    rows = await tx.fetch(
        "SELECT tasks, cost, baseline, earned, extra, held FROM ledger_savings WHERE scope = ? AND month = ?",
        scope,
        month,
    )
    money = ("cost", "baseline", "earned", "extra", "held")
    return SavingsAccount(month, **in_usd(rows[0], *money)) if rows else SavingsAccount(month)


async def _open(tx: Tx, scope: str, month: str) -> None:
    await tx.execute(
        "INSERT INTO ledger_savings (scope, month, tasks, cost, baseline, earned, extra, held) "
        "VALUES (?, ?, 0, 0, 0, 0, 0, 0) "
        "ON CONFLICT (scope, month) DO NOTHING",
        *(scope, month),
    )
