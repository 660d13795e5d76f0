"""Risk accounts of the fields of typed answers: one that is often wrong is withheld and does not spoil the rest. Pure.

What agrees is delivered or checked as a whole, on the labels of its stratum. Beside these, each field path of a schema
counts how often the orchestrator saw it and gave another value. A field that alone uses much of the risk budget is
asked of the orchestrator in every task, in a schema cut to it; the stratum's labels then speak of the other fields.
It is delivered on the models' votes again when the orchestrator has confirmed them often enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

_FAILURES = 3
"""Wrong values that are enough data to withhold a field."""
_PRIOR = (0.5, 5.0)
_SHARE, _SHARE_AGAIN = 0.5, 0.25
"""Shares of the risk budget: a field whose failure rate is above the first is withheld until it is below the second."""


@dataclass(frozen=True, slots=True)
class FieldAccount:
    """What the orchestrator's values have shown of one field that the models agreed on."""

    n: int = 0
    k: int = 0
    """Values that were compared, and those that differed."""
    alone: int = 0
    """Rejected answers in which it was the only wrong field that was not withheld."""
    withheld: bool = False

    def after(self, *, wrong: bool, alone: bool, eps: float) -> FieldAccount:
        """The account after one more comparison."""
        n, k = self.n + 1, self.k + wrong
        rate = (_PRIOR[0] + k) / (sum(_PRIOR) + n)
        bad = rate > eps * (_SHARE_AGAIN if self.withheld else _SHARE)
        return replace(self, n=n, k=k, alone=self.alone + alone, withheld=k >= _FAILURES and bad)


Accounts = Mapping[str, Mapping[str, FieldAccount]]
"""Schema -> path -> account."""


def withheld(accounts: Accounts, schema: str) -> tuple[str, ...]:
    """The fields of a schema that only the orchestrator may give."""
    return tuple(path for path, account in accounts.get(schema, {}).items() if account.withheld)


def labels_of(accounts: Accounts, schema: str) -> tuple[int, int] | None:
    """Comparisons of a schema, and wrong fields that are not withheld; None: no field of any schema is withheld.

    Where one field was often wrong, others may be: then each schema must show what it is worth.
    """
    if not any(account.withheld for fields in accounts.values() for account in fields.values()):
        return None
    known = accounts.get(schema, {}).values()
    return max((one.n for one in known), default=0), sum(one.k for one in known if not one.withheld)


def checked(
    accounts: Accounts, schema: str, fields: Mapping[str, bool], eps: float, *, whole: bool
) -> tuple[Accounts, int]:
    """Record which fields the orchestrator confirmed.

    Args:
        accounts: What is known.
        schema: The task's schema.
        fields: Path -> whether the orchestrator gave the value that the models agreed on.
        eps: The risk budget.
        whole: The answer's label counts in its stratum.

    Returns:
        The accounts, and how many rejections of the stratum were the fault of fields that are withheld now (less than
        zero: of fields that are delivered again).
    """
    before = accounts.get(schema, {})
    known = {path: before.get(path, FieldAccount()) for path in fields}
    faults = [path for path, right in fields.items() if not right and not known[path].withheld]
    after = {
        path: known[path].after(wrong=not right, alone=whole and faults == [path], eps=eps)
        for path, right in fields.items()
    }
    forgiven = sum(after[path].alone * (after[path].withheld - known[path].withheld) for path in fields)
    return {**accounts, schema: {**before, **after}}, forgiven
