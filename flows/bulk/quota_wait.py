"""Wait for free quota, sleep until it comes back, or spend: what a job does when none is left. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

IN_PROCESS_S = 120.0
"""Up to this long a job waits where it is; a longer wait suspends the run: no process sleeps for hours."""


class Step(StrEnum):
    """What to do next."""

    WAIT = "wait"
    """Wait in this process."""
    SLEEP = "sleep"
    """Suspend the run until the moment given; it goes on by itself."""
    SPEND = "spend"
    """Use a paid model now."""
    STOP = "stop"
    """Neither quota nor leave to spend before the deadline."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One step and why."""

    step: Step
    seconds: float
    """Until free quota comes back; 0 for `spend`."""
    reason: str


def decide(
    wait_s: float,
    patience_s: float,
    *,
    waited_s: float = 0.0,
    may_spend: bool = True,
    deadline_s: float = math.inf,
    in_process_s: float = IN_PROCESS_S,
) -> Decision:
    """Decide for the tasks that have no free quota now.

    Args:
        wait_s: Seconds until some free model takes a task; infinite when none ever will.
        patience_s: How long the job may wait for free quota before it may spend; 0: at once, infinity: never.
        waited_s: How much of it earlier waits of this job have used up.
        may_spend: A paid model is a candidate and the budget allows it.
        deadline_s: Seconds until the job must have ended (`--until`).
        in_process_s: The longest wait in this process.
    """
    left = patience_s - waited_s if math.isfinite(patience_s) else math.inf
    reachable = math.isfinite(wait_s) and wait_s < deadline_s
    if may_spend and patience_s != math.inf and (wait_s > left or not reachable):
        why = f"free quota {_when(wait_s)}, patience for {span_text(max(0.0, left))} is left"
        return Decision(Step.SPEND, 0.0, why if reachable else f"{why}; the job would not end in time")
    if not reachable:
        return Decision(Step.STOP, wait_s, f"free quota {_when(wait_s)} and nothing may be spent")
    step = Step.WAIT if wait_s <= in_process_s else Step.SLEEP
    return Decision(step, wait_s, f"free quota comes back in {span_text(wait_s)}")


def _when(seconds: float) -> str:
    return f"is {span_text(seconds)} away" if math.isfinite(seconds) else "never comes"


def span_text(seconds: float) -> str:
    """A duration for people."""
    if not math.isfinite(seconds):
        return "no end"
    whole = int(seconds + 0.5)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return (
        f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
    )
