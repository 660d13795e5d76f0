"""One sandbox for all tests of its own; each test gets it without rules and without calls."""

from collections.abc import Iterator

import pytest

from tta_dev_primitives.deployments.sandbox import Sandbox


@pytest.fixture(scope="session")
def running() -> Iterator[Sandbox]:
    """It serves to the end of the session."""
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running: Sandbox) -> Sandbox:
    """As a new one."""
    running.use(None)
    running.calls.clear()
    return running
