"""Stored deployments of version 0.1.0 name flows at their old places."""

import pytest
from prefect import Flow
from prefect.utilities.importtools import import_object

from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.flows.prefect_support.old_entrypoints import MOVED


@pytest.mark.parametrize("entrypoint", sorted(MOVED))
def test_an_old_entrypoint_names_the_remedy(entrypoint: str) -> None:
    """A worker that loads a deployment of 0.1.0 says in one line to deploy again."""
    with pytest.raises(ConfigError, match=r"moved with version 0\.2\.0\. To fix: run `tta deploy`") as caught:
        import_object(entrypoint)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("entrypoint", sorted(MOVED.values()))
def test_a_new_entrypoint_is_a_flow(entrypoint: str) -> None:
    """`tta deploy` moves stored deployments to an entrypoint that loads."""
    assert isinstance(import_object(entrypoint), Flow)
