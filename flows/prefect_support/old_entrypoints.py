"""Flows that stored deployments of version 0.1.0 still look for at their old places."""

from collections.abc import Callable
from typing import Any

from tta_dev_primitives.config.errors import ConfigError

__all__ = ["moved_from"]


def moved_from(module: str, *names: str) -> Callable[[str], Any]:
    """The `__getattr__` of `module`, which held the flows `names` in version 0.1.0.

    Raises:
        ConfigError: One of the flows is asked for; the message names the remedy.
    """

    def getattr_(name: str) -> Any:
        if name in names:
            raise ConfigError(
                f"The flow {module}.{name} moved with version 0.2.0. "
                "To fix: run `tta deploy`, which updates the stored deployments."
            )
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return getattr_
