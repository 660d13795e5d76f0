"""Stored deployments of version 0.1.0 name flows at their old places."""

import pytest
from prefect.utilities.importtools import import_object

from tta_dev_primitives.config.errors import ConfigError


@pytest.mark.parametrize(
    "entrypoint",
    [
        "tta_dev_primitives.flows.bulk.orchestrate_bulk",
        "tta_dev_primitives.flows.report.spend_report",
        "tta_dev_primitives.flows.upkeep.check_models",
        "tta_dev_primitives.flows.upkeep.sweep_ledger",
        "tta_dev_primitives.flows.upkeep.resume_crashed",
    ],
)
def test_an_old_entrypoint_names_the_remedy(entrypoint: str) -> None:
    """A worker that loads a deployment of 0.1.0 says in one line to deploy again."""
    with pytest.raises(ConfigError, match=r"moved with version 0\.2\.0\. To fix: run `tta deploy`") as caught:
        import_object(entrypoint)
    assert "\n" not in str(caught.value)
