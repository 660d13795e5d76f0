"""`tta check`: everything that can be wrong before a run, each with the remedy."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.text import Text

from tta_dev_primitives.commands._options import Config, Flag, Json
from tta_dev_primitives.commands._output import console, counted, print_json
from tta_dev_primitives.config import OrchestrationConfig, load_orchestration_config
from tta_dev_primitives.config.check import CheckLine, check_config, fail, ok, warn
from tta_dev_primitives.config.errors import ConfigError, OrchestrationError
from tta_dev_primitives.config.models.catalogue import Catalogue, load_catalogue, today_utc
from tta_dev_primitives.config.models.targets import Target

if TYPE_CHECKING:
    from tta_dev_primitives.blocks.ledger.ledger import Ledger

_MARKS = {"ok": ("ok  ", "green"), "warn": ("warn", "yellow"), "fail": ("fail", "red")}


def check(
    *,
    live: Flag = False,
    config: Config = None,
    json: Json = False,
) -> int:
    """Check the configuration, keys, model lifetimes, prices, the ledger and the Prefect server.

    Exit code 1 when anything fails.

    Args:
        live: Also ask each provider which models it serves (needs keys; costs nothing).
    """
    lines = list(_lines(config, live))
    failed = any(line.level == "fail" for line in lines)
    if json:
        checks = [{"level": x.level, "subject": x.subject, "message": x.message, "fix": x.fix} for x in lines]
        print_json({"ok": not failed, "checks": checks})
        return 1 if failed else 0
    out = console()
    for line in lines:
        out.print(Text.assemble(_MARKS[line.level], " ", (line.subject, "bold"), f": {line.message}"))
        if line.fix:
            out.print(f"     {line.fix}", style="dim")
    counts = {level: sum(line.level == level for line in lines) for level in _MARKS}
    out.print(
        f"\n{counts['ok']} ok, {counted(counts['warn'], 'warning')}, {counted(counts['fail'], 'failure')}"
    )
    return 1 if failed else 0


def _lines(path: Path | None, live: bool) -> Iterator[CheckLine]:
    try:
        config = load_orchestration_config(path)
    except (ConfigError, FileNotFoundError) as error:
        yield fail("configuration", str(error))
        return
    from tta_dev_primitives.blocks.credentials.config_trust import untrusted

    catalogue = load_catalogue()
    yield from check_config(config, catalogue, today_utc())
    yield from _addresses(config, catalogue)
    doubts = untrusted(config)
    for doubt in doubts:
        yield fail("trust", f"{doubt}; runs refuse it", "Read the file, then run: tta trust")
    if not doubts:
        yield from _network()
    yield from _ledger(config)
    from tta_dev_primitives.blocks.prefect_server.doctor import check_server

    yield from check_server()
    if live and not doubts:
        yield from asyncio.run(_live(config, catalogue))


def _addresses(config: OrchestrationConfig, catalogue: Catalogue) -> Iterator[CheckLine]:
    """Addresses that a run would refuse, and keys that go elsewhere than to the provider they were made for."""
    from tta_dev_primitives.blocks.providers.address_rules import base_of, host_of
    from tta_dev_primitives.config.models.resolve import defined_targets

    for target in defined_targets(config, catalogue).values():
        if target.base_url is None:
            continue
        try:
            base = base_of(target)
        except ConfigError as error:
            yield fail(target.name, str(error))
            continue
        own, usual = host_of(target.provider, None), catalogue.providers[target.provider].api_key_env
        if own and base.host != own and target.api_key_env == usual:
            yield warn(
                target.name,
                f"the key in {usual} is sent to {base.host}, not to {target.provider}'s own {own}",
                "see that base_url is meant; a proxy is better given a key of its own, in a variable of its own",
            )


def _network() -> Iterator[CheckLine]:
    from tta_dev_primitives.blocks.providers.network import network_facts

    try:
        yield ok("network", "; ".join(network_facts()))
    except ConfigError as error:
        yield fail("network", str(error))


def _ledger(config: OrchestrationConfig) -> Iterator[CheckLine]:
    from tta_dev_primitives.blocks.ledger.database.protocol import default_ledger_url
    from tta_dev_primitives.blocks.ledger.ledger import Ledger

    try:
        tracking = config.cost_tracking
        ledger = Ledger.open(default_ledger_url(tracking.ledger_url), timezone=tracking.timezone)
        problems, balance, closed, left = asyncio.run(_read(ledger, config))
    except OrchestrationError as error:
        yield fail("ledger", str(error), "No paid call is made until the ledger can be used.")
        return
    for problem in problems:
        yield fail("ledger", problem, "Look at it with `tta ledger show`; keep a copy of the file.")
    for key in closed:
        yield warn("ledger", f"{key} is closed after a wrong bill", "tta ledger resolve")
    if not problems:
        limit = f"{tracking.budget_limit:f}" if tracking.enabled else "no limit"
        yield ok("ledger", f"{ledger.database.place}: {balance} USD spent of {limit}; the journal adds up")
    yield from _audits(config, left)


async def _read(
    ledger: Ledger, config: OrchestrationConfig
) -> tuple[list[str], str, list[str], Decimal | None]:
    await ledger.sum_up()
    problems = await ledger.verify()
    balance, closed = await ledger.balance(), [q.key for q in await ledger.quarantines()]
    left = balance.left(config.cost_tracking.limit)
    return problems, f"{balance.month}: {balance.spent:f}", closed, left


def _audits(config: OrchestrationConfig, left: Decimal | None) -> Iterator[CheckLine]:
    """Use cases whose free answers cannot be checked any more this month."""
    from tta_dev_primitives.config.models.resolve import defined_targets
    from tta_dev_primitives.flows.reporting.risk_budget_figures import use_cases_without_audits

    orchestrator = defined_targets(config, load_catalogue()).get(config.orchestrator.model)
    for name in use_cases_without_audits(config, orchestrator, left) if orchestrator is not None else ():
        yield warn(
            "validation",
            f"{name}: {left:f} USD of the month are left, less than one check costs: free answers are not accepted",
            "Raise cost_tracking.budget_limit_usd, or set validation.mode: never",
        )


_LEVELS: dict[str, Literal["ok", "warn", "fail"]] = {"served": "ok", "retires": "warn", "unknown": "warn"}


async def _live(config: OrchestrationConfig, catalogue: Catalogue) -> list[CheckLine]:
    """Ask each provider for its model list; one line a configured model."""
    from tta_dev_primitives.blocks.providers.client import ProviderClient
    from tta_dev_primitives.blocks.providers.model_lists import ask_model_lists
    from tta_dev_primitives.config.models.resolve import defined_targets

    targets = list(defined_targets(config, catalogue).values())
    async with ProviderClient() as client:
        states = await ask_model_lists(targets, catalogue, client=client)
    return [
        warn(_place(found.target), "not asked: its key is missing")
        if found.state == "keyless"
        else CheckLine(
            _LEVELS.get(found.state, "fail"),
            _place(found.target),
            found.note,
            _remedy(found.state, found.target, catalogue),
        )
        for found in states
    ]


def _place(target: Target) -> str:
    return f"{target.name} at {target.provider}"


def _remedy(state: str, target: Target, catalogue: Catalogue) -> str | None:
    match state:
        case "served":
            return None
        case "gone" | "retires":
            if catalogue.is_compatible(target.provider):
                return f"pull {target.api_model} on that server, or name a model that it serves"
            entry = catalogue.find(target.api_model, target.provider)
            successor = catalogue.successor(entry, today_utc()) if entry else None
            named = f"name {successor.name} instead" if successor else "name another model"
            return f"{named}; `tta models` lists today's"
        case _:
            address = f" and base_url ({target.base_url})" if target.base_url else ""
            return f"check {target.api_key_env}{address}, then run `tta check --live` again"
