"""Which of our errors Prefect's run loggers say, and how."""

from __future__ import annotations

import logging
import sys
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext

from tta_dev_primitives.config.errors import MissingKeyError
from tta_dev_primitives.flows.bulk.output import JobBusyError as JobBusyError
from tta_dev_primitives.flows.prefect_support.log_filter import (
    say_expected_errors_in_one_line,
    shorten_failed_services,
)


@pytest.mark.parametrize("deployed", [True, False])
def test_a_missing_key_is_one_line_in_the_log_of_a_deployed_run(deployed: bool) -> None:
    """No program called a deployed run, so only its log can name the variable; it does so once."""
    try:
        raise MissingKeyError("API key not found: set GROQ_API_KEY.")
    except MissingKeyError:
        record = logging.LogRecord("prefect.flow_runs", logging.ERROR, "", 1, "failed", (), sys.exc_info())
    run = FlowRun(flow_id=uuid4(), deployment_id=uuid4() if deployed else None)
    with FlowRunContext.model_construct(flow_run=run):
        assert say_expected_errors_in_one_line(record) is deployed
    if deployed:
        assert record.getMessage() == "MissingKeyError: API key not found: set GROQ_API_KEY."
        assert record.exc_info is None


@pytest.mark.parametrize(
    ("error", "kept"),
    [("JobBusyError", False), ("BudgetExceededError", False), ("ProviderError", False), ("ValueError", True)],
)
def test_the_state_that_follows_one_of_our_errors_is_not_said_again(error: str, kept: bool) -> None:
    """Wherever the error is defined."""
    said = f"Finished in state Failed('Flow run encountered an exception: {error}: a reason')"
    record = logging.LogRecord("prefect.flow_runs", logging.ERROR, "", 1, said, (), None)
    assert say_expected_errors_in_one_line(record) is kept


def test_a_service_that_cannot_send_is_said_in_one_line_every_ten_minutes() -> None:
    """With the reason, without what was not sent; a later outage of a long program is said as well."""
    said = []
    for minutes in (0, 1, 9, 11, 12):
        record = logging.LogRecord(
            "prefect._internal.concurrency", logging.ERROR, "", 1,
            "Service %r failed to process item %r", ("AService", "a long item"), None,
        )  # fmt: skip
        record.created = 60.0 * minutes
        try:
            raise ConnectionError("All connection attempts\nfailed")
        except ConnectionError:
            if shorten_failed_services(record):
                said.append((minutes, record.getMessage()))
    line = "Prefect's API did not take what AService sends: All connection attempts failed"
    assert said == [(0, line), (11, line)]
