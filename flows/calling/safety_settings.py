"""The budget and the other safety settings in force now: a changed file reaches what runs at its next paid call.

Every reservation looks at the file's time and size. A file that is broken, gone or no longer trusted leaves the last
good settings in force, with one warning.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from decimal import Decimal

from tta_dev_primitives.blocks.credentials.config_trust import refuse_untrusted
from tta_dev_primitives.config import CostTrackingConfig, OrchestrationConfig
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.loader import reload_config
from tta_dev_primitives.config.reading.files import read_regular_file

_LOG = logging.getLogger("tta_dev_primitives.budget")
_LIVE = frozenset({"budget_limit_usd", "on_exhausted", "alert_threshold", "approval_timeout_s"})
"""Options of `cost_tracking` that take effect at once; the others wait for the next start."""


class SafetySettings:
    """The safety settings of one configuration, and of its file from then on.

    Args:
        config: The configuration as runs use it. Options that differ from its file's were set in code and stay.
        changed: Called when the file has changed a setting.
    """

    def __init__(
        self, config: OrchestrationConfig, changed: Callable[[CostTrackingConfig], None] = lambda _: None
    ) -> None:
        self._config, self._changed = config, changed
        self._tracking = given = config.cost_tracking
        loaded = config.provenance.cost_tracking or given
        # What the file may not change: options that wait for a restart, and those that were set in code.
        self._fixed = {
            name: getattr(given, name)
            for name in CostTrackingConfig.model_fields
            if name not in _LIVE or getattr(loaded, name) != getattr(given, name)
        }
        self._digest = config.digest
        self._stamp: tuple[int, ...] | None = None
        self._warned = False

    @property
    def now(self) -> CostTrackingConfig:
        """The settings in force."""
        if self._config.source is not None:
            stamp = _stamp_of(self._config.source)
            if stamp != self._stamp:
                self._stamp = stamp
                self._read()
        return self._tracking

    @property
    def limit(self) -> Decimal | None:
        """The month's limit, USD, without approvals (the ledger adds those); None when cost tracking is off."""
        return self.now.limit

    @property
    def learning_credit(self) -> Decimal:
        """USD that paid executors may cost before they have saved as much."""
        return self._config.learning_credit_of(self.now.budget_limit)

    def _read(self) -> None:
        source = self._config.source
        assert source is not None
        try:
            digest = hashlib.sha256(read_regular_file(source).data).hexdigest()
            if digest == self._digest:
                self._warned = False
                return
            config = reload_config(self._config)
            refuse_untrusted(config)
        except (ConfigError, FileNotFoundError) as error:
            if not self._warned:
                _LOG.warning("The budget settings stay as they were until the file is right: %s", error)
            self._warned = True
            return
        self._digest, self._warned = config.digest, False
        before, self._tracking = self._tracking, config.cost_tracking.model_copy(update=self._fixed)
        for name in sorted(_LIVE):
            old, new = getattr(before, name), getattr(self._tracking, name)
            if old != new:
                _LOG.info("cost_tracking.%s is %s from now on (it was %s)", name, new, old)
        self._changed(self._tracking)


def _stamp_of(path: os.PathLike[str]) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
