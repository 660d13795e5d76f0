"""The tasks of `tta demo`, each with what it shows; `demo_scenario.yaml` scripts the answers."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from importlib.resources import files

from tta_dev_primitives.deployments.sandbox.scenario.file import parse_scenario
from tta_dev_primitives.deployments.sandbox.scenario.scenario import Scenario


@dataclass(frozen=True, slots=True)
class DemoTask:
    """One task of the demo."""

    use_case: str
    task: str
    shows: str
    budget_limit_usd: Decimal | None = None
    """The month's limit under which this task runs; None leaves the demo's own."""


DEMO_TASKS: tuple[DemoTask, ...] = (
    DemoTask("simple", "Which is the largest planet of the solar system?",
             "a free model answers, a free model of another family judges"),
    DemoTask("moderate", "Explain why bees matter to farming, for the newsletter of a village shop.",
             "another free model is the first choice for this use case"),
    DemoTask("complex", "Outline the agenda of a home composting workshop. List the materials it needs. "
                        "Write a two-sentence invitation.",
             "three parts in one task: a paid plan waits until savings pay for it"),
    DemoTask("expert", "Write a Python function that merges overlapping intervals.",
             "no executor lists this use case: the fallback list serves it"),
    DemoTask("reasoning", "Prove that the product of two odd numbers is odd.",
             "the first answer fails validation, the next model is asked"),
    DemoTask("speed-critical", "Answer quickly: write a one-line status line for the control room.",
             "the fast model answers 429, the next one takes over"),
    DemoTask("moderate", "Write a slogan for a bicycle shop.",
             "no free answer is good enough, and the budget refuses the paid model", Decimal("0.0001")),
)  # fmt: skip


def demo_scenario() -> Scenario:
    """The scenario of the demo."""
    folder = files("tta_dev_primitives.deployments.sandbox")
    text = folder.joinpath("demo_scenario.yaml").read_text(encoding="utf-8")
    return parse_scenario(text, source="demo_scenario.yaml")
