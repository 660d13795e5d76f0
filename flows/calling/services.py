"""What a process keeps for one configuration on one event loop, whatever runs: connections, ledger, quotas, keys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Self

from pydantic import SecretStr

from tta_dev_primitives.blocks.credentials.keys import forget_keys, load_key
from tta_dev_primitives.blocks.ledger.database.protocol import Database
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.providers.capabilities import LearnedCapabilities
from tta_dev_primitives.blocks.providers.client import ProviderClient
from tta_dev_primitives.blocks.quotas.availability import Availability
from tta_dev_primitives.blocks.quotas.quota import Quota
from tta_dev_primitives.config import CostTrackingConfig, OrchestrationConfig
from tta_dev_primitives.config.models.catalogue import Catalogue, load_catalogue
from tta_dev_primitives.config.models.resolve import resolve_targets
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.flows.calling.admission import Admission
from tta_dev_primitives.flows.calling.safety_settings import SafetySettings
from tta_dev_primitives.flows.calling.stored_answers import AnswerIndex

_KEY_BELIEVED_S = 2.0
"""Finding a key reads `.env`; a job asks for it before every call."""


class Keys:
    """API keys from the environment, `.env` or a Prefect block, read again every two seconds."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[float, SecretStr]] = {}

    async def key_of(self, target: Target) -> SecretStr:
        """The target's key.

        Raises:
            MissingKeyError: There is none; the message names the variable.
        """
        kept = self._kept.get(target.name)
        if kept is not None and time.monotonic() - kept[0] < _KEY_BELIEVED_S:
            return kept[1]
        key = await load_key(target)
        self._kept[target.name] = (time.monotonic(), key)
        return key

    def forget(self) -> None:
        """Read every key again: a provider refused one, and it may have been replaced."""
        forget_keys()
        self._kept.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The parts of a process that calls go through. Frozen; a bulk job gets its own clock with `at`."""

    config: OrchestrationConfig
    database: Database
    safety: SafetySettings
    catalogue: Catalogue
    targets: Mapping[str, Target]
    client: ProviderClient
    ledger: Ledger
    quota: Quota
    availability: Availability
    capabilities: LearnedCapabilities
    keys: Keys = field(default_factory=Keys)
    answers: AnswerIndex = field(default_factory=AnswerIndex)
    admission: Admission = field(default_factory=Admission)
    """For interactive runs; a bulk job brings its own."""
    clock: Callable[[], float] = time.time
    """Epoch seconds."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    """How the wait before a second try of the same model passes."""

    @classmethod
    def of(cls, config: OrchestrationConfig, database: Database) -> Self:
        """The services of a configuration over its ledger's database.

        Raises:
            ConfigError: A model that nothing defines, or settings that contradict each other.
        """
        catalogue = load_catalogue()
        tracking = config.cost_tracking
        ledger = Ledger(database, timezone=tracking.timezone, alert_threshold=_alert_share(tracking))
        return cls(
            config=config,
            database=database,
            safety=SafetySettings(config, lambda changed: ledger.alert_at(_alert_share(changed))),
            catalogue=catalogue,
            targets=resolve_targets(config, catalogue),
            client=ProviderClient(),
            ledger=ledger,
            quota=Quota(database),
            availability=Availability(database),
            capabilities=LearnedCapabilities(database),
        )

    def at(self, clock: Callable[[], float], sleep: Callable[[float], Awaitable[None]]) -> Self:
        """The same services for one job: quotas and what is out are read by its clock."""
        return replace(
            self,
            clock=clock,
            sleep=sleep,
            quota=Quota(self.database, clock=clock, sleep=sleep),
            availability=Availability(self.database, clock=clock),
        )

    @property
    def limit(self) -> Decimal | None:
        """The month's limit in force now, USD, without approvals; None when cost tracking is off."""
        return self.safety.limit


def _alert_share(tracking: CostTrackingConfig) -> Decimal | None:
    return Decimal(repr(tracking.alert_threshold)) if tracking.enabled else None
