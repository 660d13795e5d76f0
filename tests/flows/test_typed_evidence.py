"""Typed tasks: fields that differ are asked again alone, of a third family, then of the orchestrator."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from sandbox_runs import CLAUDE, GEMINI, LLAMA, At, SandboxOf, executor
from test_typed_runs import TASK, Invoice, answers
from typed_world import Models, run_job, tasks_of

from tta_dev_primitives.flows.reporting.run_artifacts import field_rows
from tta_dev_primitives.flows.tasks.result import BudgetView, OrchestrationResult
from tta_dev_primitives.flows.validation.case import Answer, Candidate, Case
from tta_dev_primitives.flows.validation.evidence import Evidence
from tta_dev_primitives.flows.validation.field_votes import status_of
from tta_dev_primitives.flows.validation.labels import label_of, orchestrator_accepts
from tta_dev_primitives.flows.validation.next_step import next_step
from tta_dev_primitives.flows.validation.risk_state import Action, Label, RiskPolicy, RiskState, Ruling
from tta_dev_primitives.flows.validation.rulings import TaskRow, learn_once, rule_once
from tta_dev_primitives.flows.validation.steps import Answers, Consult, Deliver, PaidSolve

G, L, D = (Candidate(name, name, "free") for name in ("gemini", "llama", "deepseek"))
PAID = Candidate("claude", "claude", "paid")


def case(*values: dict[str, str | None], free: tuple[Candidate, ...] = (G, L, D), **more: Any) -> Case:
    """A typed task that the free models answered so."""
    made = Case("json", "simple", (*free, PAID), PAID, schema="s", **more)
    for by, forms in zip(free, values, strict=False):
        made = made.with_answer(answer(by, forms))
    return made


def answer(by: Candidate, forms: dict[str, str | None], fields: tuple[str, ...] | None = None) -> Answer:
    return Answer(by, json.dumps(forms), (), json.dumps(forms), fields=fields)


def ruled(before: Case, action: Action) -> Case:
    step = next_step(before)
    assert isinstance(step, Consult), step
    return before.with_ruling(Ruling(action, step.evidence, 0.9, 0.05))


def signal(of: Case) -> str:
    step = next_step(of)
    assert isinstance(step, Consult), step
    return step.evidence.signal


def test_a_third_family_answers_only_what_differs() -> None:
    """Its vote settles the field, and the first object that has all voted values is delivered."""
    asked = case({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "9", "c": "3"})
    assert next_step(asked) == Answers((("deepseek",),), ("b",), 0)
    settled = asked.with_answer(answer(D, {"a": "1", "b": "9", "c": "3"}, ("b",)))
    assert signal(settled) == "fields-agree"
    step = next_step(ruled(settled, "deliver"))
    assert step == Deliver(1, True, "agreement", 0.9)
    assert status_of(settled) == {"a": "agreed", "b": "agreed", "c": "agreed"}


def test_what_is_still_disputed_goes_to_the_orchestrator_alone() -> None:
    """The agreed fields are ruled on; a check asks for the whole object."""
    split = case({"a": "1", "b": "2"}, {"a": "1", "b": "9"}).with_answer(
        answer(D, {"a": "1", "b": "7"}, ("b",))
    )
    assert signal(split) == "fields-agree"
    assert next_step(ruled(split, "deliver")) == PaidSolve(("claude",), "disputed", ("b",), 0)
    for action in ("audit", "escalate"):
        assert next_step(ruled(split, action)) == PaidSolve(("claude",), action)  # type: ignore[arg-type]
    ended = ruled(split, "deliver").with_answer(answer(PAID, {"a": "1", "b": "5"}, ("b",)))
    step = next_step(ended)
    assert step == Deliver(3, True, "paid", 1.0)
    assert label_of(ended, step) is None
    assert orchestrator_accepts(ended, 0) is None
    assert status_of(ended) == {"a": "agreed", "b": "disputed"}


def test_a_check_looks_at_the_agreed_fields() -> None:
    """The orchestrator's word on a disputed field is no failure of what was agreed; on an agreed one it is."""
    split = ruled(case({"a": "1", "b": "2"}, {"a": "1", "b": "9"}, free=(G, L)), "audit")
    for own, good in (({"a": "1", "b": "5"}, True), ({"a": "4", "b": "2"}, False)):
        ended = split.with_answer(answer(PAID, own))
        step = next_step(ended)
        label = label_of(ended, step)
        assert label is not None
        assert label.passed is good
        assert step == Deliver(2, True, "audit", 1.0)
    assert orchestrator_accepts(ended, 0, whole=True) is False


@pytest.mark.parametrize("free", [(G, L), (G, L, Candidate("gemini-flash", "gemini", "free"))])
def test_nothing_agreed_is_solved_whole(free: tuple[Candidate, ...]) -> None:
    """A second model of a family that answered has no vote."""
    made = case({"a": "1"}, {"a": "2"}, free=free)
    assert signal(made) == "fields-split"
    assert next_step(ruled(made, "escalate")) == PaidSolve(("claude",), "escalate")


def test_open_text_is_not_voted_on() -> None:
    """It must be there; two models write it in two ways."""
    made = case({"a": "1", "text": None}, {"a": "1", "text": None})
    assert signal(made) == "fields-agree"
    assert status_of(made) == {"a": "agreed", "text": "unchecked"}


def test_without_money_a_disputed_answer_is_not_accepted() -> None:
    """The best free answer goes out, and says so."""
    made = ruled(case({"a": "1", "b": "2"}, {"a": "1", "b": "9"}, free=(G, L)), "deliver").without_paid()
    assert next_step(made) == Deliver(0, False, "none", 0.9)
    assert status_of(made)["b"] == "disputed"


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (None, []),
        ({"a": {"b": "x|y"}, "c": ["<b>", "`"]}, [("a.b", '"x|y"'), ("c", '`` ["<b>", "`"] ``')]),
        ({"![p](https://e.example)": "two\nlines"}, [("`![p](https://e.example)`", '`"two\\nlines"`')]),
        ([{"n": 1}, -2], [("item 1", '{"n": 1}'), ("item 2", "-2")]),
        ("red", [("answer", '"red"')]),
    ],
)
def test_the_table_of_the_ui_has_any_data_as_inert_cells(data: Any, rows: list[tuple[str, str]]) -> None:
    """The UI may read cells as Markdown; lists are rows as fields are."""
    budget = BudgetView(month="2026-11", limit_usd=None, spent_usd=Decimal(0), held_usd=Decimal(0))
    paths = (
        ["a.b", "c"]
        if isinstance(data, dict) and "a" in data
        else list(data)
        if isinstance(data, dict)
        else []
    )
    result = OrchestrationResult(
        content="", model="m", provider="p", use_case="simple", accepted=True, budget=budget,
        data=data, fields=dict.fromkeys(paths, "agreed"),
    )  # fmt: skip
    assert [(row["field"], row["value"]) for row in field_rows(result)] == rows


GOOD = {"number": "A-7", "total": 12.5}


async def test_disputed_fields_in_a_real_run(at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    """The orchestrator's request holds the disputed field only; cost stays below the whole object's baseline."""
    monkeypatch.setattr("tta_dev_primitives.flows.validation.rulings.rule", _trusting)
    workflow = at(
        answers(
            gemini=[json.dumps(GOOD)],
            llama=[json.dumps(GOOD | {"total": 12.4})],
            claude=[json.dumps({"total": 12.45})],
        )
    )
    result = await workflow.execute(TASK, use_case="simple", output_type=Invoice)
    assert result.data == Invoice(number="A-7", total=12.45)
    assert result.fields == {"number": "agreed", "total": "disputed"}
    assert (result.evidence, result.model) == ("paid", CLAUDE)
    sent = [json.dumps(call.body) for call in workflow.sandbox.calls if call.provider == "anthropic"]
    assert len(sent) == 1
    assert '"total": {' in sent[0]
    assert '"number": {' not in sent[0]
    assert 0 < result.cost_usd <= result.baseline_cost_usd
    assert field_rows(result)[1] == {"field": "total", "models": "disputed", "value": "12.45"}
    again = await workflow.execute(TASK, use_case="simple", output_type=Invoice)
    assert again.data == result.data
    assert again.cost_usd == 0
    assert again.reused


async def test_a_part_that_does_not_fit_the_whole_is_asked_for_as_a_whole(
    sandbox_of: SandboxOf, at: At, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The type's own rules see the whole object; nothing that breaks them is delivered."""
    monkeypatch.setattr("tta_dev_primitives.flows.validation.rulings.rule", _trusting)
    scenario = answers(
        gemini=[json.dumps(GOOD)], llama=[json.dumps(GOOD | {"total": 12.4})], claude=['{"total": -1}']
    )
    third = "deepseek-chat"
    scenario += (
        f"- match: {{model: {third}}}\n  reply: {{text: '{{\"total\": -3}}'}}\n  times: 1\n"
        f"- match: {{model: {third}}}\n  reply: {{text: '{json.dumps(GOOD)}'}}\n"
    )
    sandbox = sandbox_of(scenario)
    more = [
        executor(GEMINI, "google-ai-studio", ["simple"]),
        executor(LLAMA, "groq", ["simple"]),
        executor(third, "openai-compatible", ["simple"], billing="free"),
    ]
    result = await at(sandbox, executors=more).execute(TASK, use_case="simple", output_type=Invoice)
    assert result.data == Invoice(number="A-7", total=12.5)
    assert [a.outcome for a in result.attempts if a.model == third] == ["wrong_format", "ok"]
    assert result.fields == {"number": "agreed", "total": "agreed"}
    assert result.cost_usd == 0


def _trusting(state: Any, evidence: Evidence, *_: Any, task: str = "", **__: Any) -> tuple[Ruling, Any]:
    """A ledger that has seen enough."""
    order = state.strata[evidence.stratum].order
    return Ruling("deliver", evidence, 0.95, 0.02, task=task, order=order), state


@pytest.mark.parametrize(
    ("models", "fields", "saved", "right"),
    [
        (Models(3, 0.06), 6, 0.85, 0.99),
        (Models(2, 0.03), 5, 0.7, 0.99),
        (Models(3, 0.06, shared=0.5), 6, 0.3, 0.97),  # in this order the first checks are lucky
        (Models(3, 0.02, bad=0.3), 6, 0.3, 0.98),
    ],
)
def test_a_job_saves_and_stays_right(models: Models, fields: int, saved: float, right: float) -> None:
    """The small version of tests/benchmarks/typed_bench.py: wrong data called agreed stays within the risk budget."""
    rng = random.Random(2)
    job = run_job(models, tasks_of(300, rng, fields=fields), rng)
    assert job.saving >= saved
    assert job.accuracy >= right
    assert job.dearer == 0
    assert job.wrong_agreed <= models.policy.eps * job.tasks


def test_a_field_that_is_often_wrong_goes_to_the_orchestrator_alone() -> None:
    """Its rejections leave the stratum of the others; it comes back when the orchestrator confirms its values."""
    policy, evidence = RiskPolicy(0.15), Evidence("simple", "fields-agree", strong=True, schema="s")
    state, held = RiskState(), []
    for number in range(40):
        ruling, state, row = rule_once(
            state, TaskRow(), f"t{number}", evidence, policy, secret="s", month="2026-11"
        )
        held.append(tuple(ruling.withheld))
        fields = {"a": True, "b": number >= 6}
        checked = None if ruling.action == "deliver" else fields["b"] or bool(ruling.withheld)
        if ruling.action == "deliver":
            fields = {path: right for path, right in fields.items() if path in ruling.withheld}
        label = Label(ruling, checked, fields=fields, task=ruling.task)
        _, state, _ = learn_once(state, row, label, policy)
    stratum = next(iter(state.strata.values()))
    assert held[2] == ()
    assert held[3] == held[10] == ("b",)
    assert stratum.fields["s"]["b"].k == 6
    assert held[-1] == () or stratum.fields["s"]["b"].withheld
    assert stratum.unjudged > 0


def test_a_withheld_field_is_asked_for_with_the_disputed_ones() -> None:
    """A whole solution says what the fields that are delivered on votes are worth; a cut one what it was asked for."""
    agreed = case({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "2", "c": "3"})
    ruling = replace(ruled(agreed, "deliver").ruling, withheld=("b",))
    asked = agreed.with_ruling(ruling)
    assert next_step(asked) == PaidSolve(("claude",), "disputed", ("b",), 0)
    ended = asked.with_answer(answer(PAID, {"a": "1", "b": "7", "c": "3"}, ("b",)))
    label = label_of(ended, next_step(ended))
    assert label is not None
    assert (label.passed, label.fields) == (None, {"b": False})
    audited = agreed.with_ruling(replace(ruling, action="audit"))
    ended = audited.with_answer(answer(PAID, {"a": "1", "b": "7", "c": "3"}))
    label = label_of(ended, next_step(ended))
    assert label is not None
    assert (label.passed, label.fields) == (True, {"a": True, "b": False, "c": True})
