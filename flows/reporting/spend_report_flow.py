"""The flow `spend_report`: a month's figures as artifacts, and the budget alerts that are due."""

from __future__ import annotations

import base64
from datetime import date, datetime, timedelta
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from prefect import flow
from prefect.artifacts import acreate_image_artifact, acreate_markdown_artifact, acreate_table_artifact
from prefect.runtime import flow_run as this_run
from pydantic import Field

from tta_dev_primitives.blocks.ledger.months import month_before
from tta_dev_primitives.blocks.redaction import redact
from tta_dev_primitives.flows.budget import budget_state
from tta_dev_primitives.flows.calling.runtime import Runtime, current_runtime
from tta_dev_primitives.flows.prefect_support.result_storage import KEPT
from tta_dev_primitives.flows.prefect_support.use_embedded_server import use_embedded_server
from tta_dev_primitives.flows.reporting.page import chart_of, markdown_page, report_places, shown_usd
from tta_dev_primitives.flows.reporting.spend import SpendReport, gather


def _run_name() -> str:
    given = this_run.parameters
    return f"spend report {given.get('month') or 'now'}{' (day)' if given.get('period') == 'day' else ''}"


@use_embedded_server
@flow(name="spend-report", flow_run_name=_run_name, **KEPT)
async def spend_report(
    month: Annotated[
        str | None,
        Field(
            pattern=r"^(\d{4}-(0[1-9]|1[0-2])|last)$",
            description="YYYY-MM, or `last` for the month that ended",
        ),
    ] = None,
    config_path: str | None = None,
    period: Literal["month", "day"] = "month",
) -> dict[str, Any]:
    """Report a month's spending, saving and quality as Prefect artifacts, and send the budget alerts that are due.

    Args:
        month: YYYY-MM, or `last` for the month that ended; empty: the current month.
        config_path: Configuration file; empty searches the usual places.
        period: `day` puts yesterday's spending first.

    Returns:
        The report as JSON values, as `tta report --json` prints it.

    Raises:
        LedgerError: The ledger cannot be used.
        ConfigError: The configuration is wrong.
    """
    runtime = current_runtime() or await Runtime.load(config_path)
    budget = await budget_state(runtime)
    wanted = month_before(budget.month) if month == "last" else month or budget.month
    report = await gather(runtime.config, runtime.ledger, wanted, limit=runtime.services.limit)
    yesterday = datetime.now(ZoneInfo(report.timezone)).date() - timedelta(days=1)
    await write_report(report, day=yesterday if period == "day" else None)
    return report.to_json()


async def write_report(report: SpendReport, *, day: date | None = None) -> None:
    """Write the month's artifacts: text, one row a model, and the chart."""
    key = f"tta-spend-{report.month}"
    chart = base64.b64encode(chart_of(report).encode()).decode()
    await acreate_markdown_artifact(
        key=key, markdown=redact(markdown_page(report, day=day)), description="The month's budget"
    )
    await acreate_table_artifact(
        key=f"{key}-models",
        table=[
            {
                "model": line.name,
                "calls": line.calls,
                "failed": line.failed,
                "input tokens": line.input_tokens,
                "from cache": line.cache_read_tokens,
                "output tokens": line.output_tokens,
                "cost USD": f"{line.charged:f}",
                "free, at list price": shown_usd(line.saved, report_places(report)),
            }
            for line in report.money.by_model
        ],
        description="Every model's calls and cost",
    )
    await acreate_image_artifact(
        image_url=f"data:image/svg+xml;base64,{chart}",
        key=f"{key}-chart",
        description="Spending against the budget",
    )
