"""The ledger of a configuration and ages of its records, for commands that need no Prefect."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

from tta_dev_primitives.blocks.credentials.config_trust import refuse_untrusted_ledger
from tta_dev_primitives.blocks.ledger.database.protocol import default_ledger_url
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.months import month_before
from tta_dev_primitives.config import OrchestrationConfig, load_orchestration_config
from tta_dev_primitives.config.errors import ConfigError


def open_ledger(config_path: Path | None) -> tuple[OrchestrationConfig, Ledger]:
    """The configuration and its ledger.

    Raises:
        UntrustedConfigError: A configuration that came with the working folder names a ledger on another host.
    """
    config = load_orchestration_config(config_path)
    refuse_untrusted_ledger(config)
    tracking = config.cost_tracking
    return config, Ledger.open(default_ledger_url(tracking.ledger_url), timezone=tracking.timezone)


def limit_of(config: OrchestrationConfig) -> Decimal | None:
    """The month's configured limit; None when cost tracking is off."""
    return config.cost_tracking.budget_limit if config.cost_tracking.enabled else None


async def checked_month(month: str | None, ledger: Ledger) -> str:
    """`month`; `last` is the month before the ledger's, None the ledger's: it never goes back, whatever a clock says.

    Raises:
        ConfigError: It is not written YYYY-MM.
    """
    if month in (None, "last"):
        now = (await ledger.balance()).month
        return now if month is None else month_before(now)
    if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", month):
        raise ConfigError(f"--month {month!r}: expected YYYY-MM, for example 2026-11, or last.")
    return month


_AGE = re.compile(r"(\d{1,6})\s*([hdw])")
_SECONDS = {"h": 3_600, "d": 86_400, "w": 604_800}


def seconds_of(text: str, option: str) -> int:
    """The seconds of an age that was given as `option`.

    Raises:
        ConfigError: It is not a number with h, d or w.
    """
    found = _AGE.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"{option} {text!r}: expected a number with h, d or w, such as 30d.")
    return int(found[1]) * _SECONDS[found[2]]
