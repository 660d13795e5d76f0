"""A month's report: exact sums, honest savings, one page that shows them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from sandbox_runs import CLAUDE, GEMINI, At
from support.risk_world import learn

from tta_dev_primitives import cli
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.months import month_before
from tta_dev_primitives.blocks.ledger.task_records import TaskRecord, record_results
from tta_dev_primitives.blocks.ledger.types import CallInfo, Outcome
from tta_dev_primitives.config import load_orchestration_config
from tta_dev_primitives.config.models.resolve import resolve_targets
from tta_dev_primitives.flows.reporting.chart import spend_chart
from tta_dev_primitives.flows.reporting.page import html_page, markdown_page, places_of, shown_usd
from tta_dev_primitives.flows.reporting.risk_budget_figures import accounts_of, use_cases_without_audits
from tta_dev_primitives.flows.reporting.spend import Quality, SpendReport, gather, quality_of
from tta_dev_primitives.flows.validation.case import Policy
from tta_dev_primitives.flows.validation.evidence import Evidence
from tta_dev_primitives.flows.validation.risk import rule
from tta_dev_primitives.flows.validation.risk_state import Label, RiskPolicy, RiskState

MONTH = "2026-11"


def ledger_at(folder: Path, day: int) -> Ledger:
    """The ledger of `folder` with its clock at noon of a day in November."""
    at = datetime(2026, 11, day, 12, tzinfo=UTC).timestamp()
    return Ledger.open(f"sqlite:///{folder / 'ledger.db'}", clock=lambda: at)


async def spend(ledger: Ledger, amount: str, model: str = CLAUDE) -> None:
    """One settled paid call."""
    call = CallInfo(provider="anthropic", model=model, role="execute", use_case="complex")
    hold = await ledger.reserve(call, Decimal(1), Decimal(100))
    await ledger.settle(hold, Decimal(amount), outcome=Outcome())


async def report_of(folder: Path, limit: str | None = "10") -> SpendReport:
    """The report of November under the default configuration."""
    config = load_orchestration_config(None, use_env_overrides=False)
    ledger = ledger_at(folder, 23)
    return await gather(config, ledger, MONTH, limit=None if limit is None else Decimal(limit))


async def test_the_saving_counts_all_that_the_month_was_charged(tmp_path: Path) -> None:
    """Costs of tasks that never ended count against the saving; answers from the store count neither way."""
    ledger = ledger_at(tmp_path, 3)
    await spend(ledger, "0.25")
    await spend(ledger, "0.05")  # its task was killed: no record
    done = TaskRecord(flow_run_id="a", item_id="1", use_case="complex", cost=Decimal("0.25"), baseline=Decimal(1),
                      model=GEMINI, evidence="judge", accepted=True)  # fmt: skip
    stored = TaskRecord(flow_run_id="b", item_id="1", use_case="complex", cost=Decimal(0), baseline=Decimal(1),
                        model=GEMINI, evidence="judge", accepted=True, reused=True)  # fmt: skip
    await record_results(ledger, MONTH, [done, stored])
    found = await report_of(tmp_path)
    assert (found.saved.tasks, found.saved.reused) == (2, 1)
    assert (found.saved.cost, found.saved.baseline) == (Decimal("0.3"), Decimal(1))
    assert found.saved.ratio == pytest.approx(0.7)
    assert found.saved_by_use_case[0].cost == Decimal("0.25")
    assert found.days == {"2026-11-03": Decimal("0.3")}


async def test_a_month_without_calls_is_an_empty_report(tmp_path: Path) -> None:
    """Nothing spent, nothing saved, no division by zero, and a page that says so."""
    found = await report_of(tmp_path, limit="0")
    assert found.saved.ratio == 0.0
    page = html_page(found)
    assert "no calls yet" in page
    assert "No paid verdict" in page
    assert "100.0%" in markdown_page(found)  # a limit of nothing is used up


async def test_the_page_is_whole_and_escapes_what_it_shows(tmp_path: Path) -> None:
    """One file without script or address, in which a model's name cannot become markup."""
    await spend(ledger_at(tmp_path, 2), "0.5", model="<script>alert(1)</script>")
    page = html_page(await report_of(tmp_path))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "prefers-color-scheme: dark" in page
    assert "budget $10.00" in page
    HTMLParser().feed(page)


async def test_the_artifact_tells_what_the_page_tells(tmp_path: Path) -> None:
    """Models, use cases, savings and the causes of failures stand in both, one table each."""
    ledger = ledger_at(tmp_path, 3)
    await spend(ledger, "0.25")
    failed = CallInfo(provider="groq", model="a|b", role="execute", use_case="simple", billing="free")
    hold = await ledger.reserve(failed, Decimal(0), Decimal(100))
    await ledger.release(hold, "429", outcome="quota_exhausted")
    done = TaskRecord(flow_run_id="a", item_id="1", use_case="complex", cost=Decimal("0.25"), baseline=Decimal(1),
                      model=GEMINI, evidence="judge", accepted=True)  # fmt: skip
    await record_results(ledger, MONTH, [done])
    found = await report_of(tmp_path)
    page = markdown_page(found)
    assert f"| {CLAUDE} | 1 | 0 |" in page
    assert "| $0.2500 | $0.0000 |" in page
    assert "| complex | 1 | 1 | $0.2500 | $1.0000 | 75.0% |" in page
    assert "| a\\|b | quota exhausted | 1 |" in page
    assert all(word in html_page(found) for word in (CLAUDE, "75.0 %", "a|b", "quota exhausted"))


def test_all_amounts_of_a_table_have_one_precision() -> None:
    """What the smallest amount needs; an amount of nothing needs none."""
    assert places_of([Decimal(0), Decimal(12)]) == 2
    assert places_of([Decimal(12), Decimal("0.25")]) == 4
    assert places_of([Decimal(12), Decimal("-0.00025")]) == 6
    assert month_before("2026-01") == "2025-12"
    assert month_before("2026-12") == "2026-11"


@pytest.mark.parametrize("limit", [None, Decimal(0), Decimal("0.000001"), Decimal(100), Decimal(999_999)])
def test_the_chart_suits_any_budget(limit: Decimal | None) -> None:
    """Between three and seven lines of scale, for a millionth of a dollar as for a million."""
    chart = spend_chart(MONTH, {"2026-11-30": Decimal("0.0000007")}, limit)
    assert 3 <= chart.count('text-anchor="end"') <= 9


def test_the_interval_of_few_verdicts_is_wide() -> None:
    """Three of three endorsed is no proof of 100 %: Wilson's interval begins at 44 %."""
    low, high = Quality("simple", 3, 3, 0).interval
    assert low == pytest.approx(0.4385, abs=1e-3)
    assert high == pytest.approx(1.0)


SCENARIO = Path(__file__).resolve().parents[3] / "config" / "scenarios" / "balanced.yaml"


def agreed_state(asked: int, contradicted: int) -> RiskState:
    """A risk ledger that was told so of two agreeing models, and once of an answer that stood alone."""
    state, policy = RiskState(), RiskPolicy(0.15)
    pair = Evidence("reasoning", "agree2of2", models=("a", "b"), strong=True)
    alone = Evidence("reasoning", "single", models=("a",))
    for evidence, accepted in [(alone, False)] + [(pair, n >= contradicted) for n in range(asked)]:
        ruling, state = rule(state, evidence, policy, 0.0)
        state, _ = learn(state, Label(ruling, accepted), policy)
    return state


async def test_the_report_tells_how_often_agreeing_models_were_contradicted(tmp_path: Path) -> None:
    """A count with its interval, without saying who was right; an answer that stood alone does not count."""
    (told,) = quality_of(agreed_state(34, 2))
    assert (told.labels, told.agreed, told.contradicted, told.doubtful) == (35, 34, 2, False)
    assert "on 2 of 34 tasks (95 % interval 2%-19%); which side was right was not judged." in told.on_agreed
    assert told.to_json()["agreed_but_contradicted"] == 2

    found = replace(await report_of(tmp_path), quality=(told,))
    assert told.on_agreed in markdown_page(found)
    assert told.on_agreed in html_page(found)


def test_an_orchestrator_that_often_contradicts_agreeing_models_is_questioned() -> None:
    """13 of 34, as Claude 3 Opus on hard maths: another one is suggested; a single verdict is no reason."""
    (often,), (few,) = quality_of(agreed_state(34, 13)), quality_of(agreed_state(1, 1))
    assert "try another `orchestrator.model`" in often.on_agreed
    assert "try another" not in few.on_agreed
    assert Quality("simple", 3, 3, 0).on_agreed == ""


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("0", "$0.00"),
        ("12.345", "$12.34"),
        ("0.0171", "$0.0171"),
        ("0.0000004", "$0.000000"),
        ("-0.5", "-$0.5000"),
    ],
)
def test_small_amounts_keep_their_figures(amount: str, shown: str) -> None:
    """Money is rounded where it is shown, to cents only from a dollar on."""
    assert shown_usd(Decimal(amount)) == shown


def test_the_command_prints_one_json_document_and_writes_the_page(
    at: At, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """`tta report --json --html` after a run agrees with the run's own result."""
    workflow = at()
    result = workflow.run("Describe how a kettle works.", use_case="moderate")
    capsys.readouterr()
    source, page = str(workflow.config.source), tmp_path / "page.html"
    with pytest.raises(SystemExit, match="0"):
        cli.main(["report", "--config", source, "--json", "--html", str(page)])
    found = json.loads(capsys.readouterr().out)
    assert found["spent_usd"] == f"{result.cost_usd:f}"
    assert found["savings"]["baseline_usd"] == f"{result.baseline_cost_usd:f}"
    assert found["savings"]["savings_ratio"] == pytest.approx(result.savings_ratio)
    assert GEMINI in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--month", "2026-13"], "expected YYYY-MM"),
        (["--json", "--csv"], "give one of them"),
        (["--html", "/nowhere/page.html"], "cannot be written"),
    ],
)
def test_a_wrong_option_is_named_with_its_mend(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2 and one line that says what to write instead."""
    with pytest.raises(SystemExit, match="2"):
        cli.main(["report", *arguments])
    assert said in capsys.readouterr().err


@pytest.mark.server
def test_the_report_needs_no_prefect() -> None:
    """`tta report` must not pay the two seconds that importing Prefect takes."""
    code = "import sys, tta_dev_primitives.commands.report; sys.exit('prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=110).returncode == 0


def test_each_use_case_has_an_account() -> None:
    """Deliveries, labels, the expected share of rejections against the budget, the window and the alarms."""
    state, policy = RiskState(), RiskPolicy(0.15)
    for use_case, count in (("simple", 700), ("expert", 40)):
        pair = Evidence(use_case, "agree2of2", models=("a", "b"), strong=True)
        for n in range(count):
            ruling, state = rule(state, pair, policy, (n % 100) / 100)
            accepted = None if ruling.action == "deliver" else n % 20 != 0
            state, _ = learn(state, Label(ruling, accepted), policy)
    expert, simple = accounts_of(state, Policy(0.85))
    assert (simple.use_case, simple.deliveries, simple.budget) == ("simple", 700, pytest.approx(0.15))
    assert 450 <= simple.window <= 500
    assert 0 < simple.share <= 0.15
    assert expert.labels + 1 < simple.labels < 200
    assert json.loads(json.dumps(simple.to_json()))["alarms"] == 0


def test_use_cases_without_affordable_audits_are_named() -> None:
    """With less left than a verdict costs, `tta check` warns of each use case; with enough, of none."""
    config = load_orchestration_config(SCENARIO, use_env_overrides=False)
    orchestrator = resolve_targets(config)[config.orchestrator.model]
    named = use_cases_without_audits(config, orchestrator, Decimal("0.0001"))
    assert named == ["simple", "moderate", "complex", "speed-critical"]
    assert use_cases_without_audits(config, orchestrator, Decimal(1)) == []
    assert use_cases_without_audits(config, orchestrator, None) == []


async def test_what_the_promise_leaves_out_is_named(tmp_path: Path) -> None:
    """Learning credit, failed calls and the user's own choice stand in the page, the artifact and the JSON."""
    ledger = ledger_at(tmp_path, 3)

    async def call(usd: str, outcome: str = "ok", **more: Any) -> None:
        made = CallInfo(provider="anthropic", model=CLAUDE, role="execute", use_case="complex", **more)
        hold = await ledger.reserve(made, Decimal(usd), Decimal(100))
        await ledger.settle(hold, Decimal(usd), outcome=Outcome(outcome=outcome))

    assert (await report_of(tmp_path)).beyond.lines == ()
    await call("0.02", outcome="timeout")
    await call("0.03", extra="choice")
    await call("0.001", extra="credit", credit=Decimal("0.01"))
    found = await report_of(tmp_path)
    lines = (
        "Learning credit of paid executors: $0.001000 used, $0.099000 left.",
        "Charged for calls that failed: $0.020000.",
        "Your own choice (planning, validation or dearer models always): $0.030000.",
    )
    assert found.beyond.lines == lines
    assert all(line in html_page(found) and line in markdown_page(found) for line in lines)
    assert found.to_json()["beyond_baseline"]["own_choice_usd"] == "0.03"
