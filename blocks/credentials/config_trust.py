"""What a configuration that came with a folder may do without being asked, and the refusal of anything else.

It may send a provider's usual key to that provider's own address, and other model keys to loopback. It may not
loosen the budget of real money: a higher limit, another ledger, own prices, a paid model said to be free.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

from tta_dev_primitives.blocks.ledger.database.protocol import sqlite_path
from tta_dev_primitives.blocks.prefect_server.folder_settings import folder_settings, trust_name
from tta_dev_primitives.blocks.prefect_server.server_settings import is_loopback
from tta_dev_primitives.blocks.providers.address_rules import host_of
from tta_dev_primitives.config import OrchestrationConfig
from tta_dev_primitives.config.errors import ConfigError, UntrustedConfigError
from tta_dev_primitives.config.hidden_url import HiddenUrl
from tta_dev_primitives.config.home import tta_home
from tta_dev_primitives.config.loader import SEARCH_PATHS, load_orchestration_config
from tta_dev_primitives.config.models.catalogue import load_catalogue
from tta_dev_primitives.config.models.providers import load_providers
from tta_dev_primitives.config.models.resolve import defined_targets
from tta_dev_primitives.config.models.targets import Target, default_billing
from tta_dev_primitives.config.reading.dotenv import find_variable
from tta_dev_primitives.config.reading.trusted_files import (
    digest_of_settings,
    dotenv_settings,
    is_home,
    is_trusted,
    trust_file,
)

_MOST_USD = Decimal(100)
"""The limit of the default configuration."""
_NAMED_AS_A_KEY = re.compile(
    r"(?!.*(SECRET|PRIVATE|SSH|GPG|SIGN|CRYPT|MASTER|DEPLOY|ACCESS|ADMIN|ROLE|LICEN[CS]E|SDK|JWT|SESSION|COOKIE))"
    r"(?!(AWS|AZURE|GITHUB|GITLAB|STRIPE|APP|CI|DB|DATABASE|PREFECT|CLOUDFLARE|CF|SENTRY|SENDGRID|TWILIO|DD|NPM)_)"
    r"((.*_)?(SANDBOX|OLLAMA|VLLM|LMSTUDIO|LM_STUDIO|LITELLM|LLAMA|LLM|LOCAL|MODEL|DEMO|FAKE|DUMMY|TEST|MY|FREE|PAID)"
    r"_API_KEY\d*|((?!\w*API_KEY)[A-Z0-9]+_){0,2}KEY\d*|API_KEY\d*|K_?\w{0,4}|KEY_\w{1,8}|NONE|UNUSED)",
    re.IGNORECASE,
)
"""Other variables are those of other services: not even loopback gets them, any user may listen there."""
_SHOWN = 4
_MONEY = ("TTA_HOME", "TTA_LEDGER_URL", "TTA_BUDGET_LIMIT_USD")


def refuse_untrusted(config: OrchestrationConfig) -> None:
    """Stop a run whose configuration came with the working folder and asks for more than it may."""
    _refuse(untrusted(config))


def refuse_untrusted_ledger(config: OrchestrationConfig) -> None:
    """As `refuse_untrusted`, for commands that only open the ledger."""
    _refuse(list(_ledger_doubts(config, _foreign_dotenv())))


def _refuse(doubts: list[str]) -> None:
    if not doubts:
        return
    more = [f"... and {len(doubts) - _SHOWN} more"] if len(doubts) > _SHOWN else []
    raise UntrustedConfigError(
        "; ".join([*doubts[:_SHOWN], *more])
        + ".\nThis came with the working folder and is not trusted. Read it, then run `tta trust` "
        "(or set TTA_TRUST=1, or name the file with --config)."
    )


def untrusted(config: OrchestrationConfig) -> list[str]:
    """What the configuration and the `.env` of the working folder ask for and may not have; empty: all is well."""
    foreign, env = _is_foreign(config), _foreign_dotenv()
    if not foreign and not env:
        return []
    catalogue = load_catalogue()
    targets = list(defined_targets(config, catalogue).values())
    real = [target for target in targets if not _is_local(target)]
    doubts: list[str] = []
    if foreign:
        usual = {name: provider.api_key_env for name, provider in catalogue.providers.items()}
        for target in targets:
            doubts += _key_doubts(target, usual.get(target.provider), config.source)
        if real:
            doubts += _money_doubts(config, real)
    doubts += _ledger_doubts(config, env)
    if env and not all(_is_in_dotenv(target.api_key_env) for target in real):
        path = Path(".env").absolute()
        doubts += [f"{path}: {name} would decide the budget of a key of yours" for name in env]
    return list(dict.fromkeys(doubts))


def trust_config(config: OrchestrationConfig) -> list[Path]:
    """Trust the files of the working folder that `config` came from; returns them."""
    done = []
    if config.source is not None and config.digest is not None:
        trust_file(config.source, config.digest)
        done.append(config.source)
    if dotenv_settings():
        path = Path(".env").absolute()
        trust_file(path, digest_of_settings(dotenv_settings()))
        done.append(path)
    for path, settings in folder_settings():
        trust_file(trust_name(path), digest_of_settings(settings))
        done.append(path)
    return list(dict.fromkeys(done))


def _is_foreign(config: OrchestrationConfig) -> bool:
    if not config.provenance.from_folder or config.source is None or config.digest is None:
        return False
    return not is_trusted(config.source, config.digest)


def _foreign_dotenv() -> list[str]:
    """The variables of money that an untrusted `.env` sets and the environment does not."""
    settings = dotenv_settings()
    names = [name for name in _MONEY if name in settings and not os.environ.get(name, "").strip()]
    if "TTA_BUDGET_LIMIT_USD" in names and _is_low(settings["TTA_BUDGET_LIMIT_USD"]):
        names.remove("TTA_BUDGET_LIMIT_USD")
    if not names or is_home(Path()) or is_trusted(Path(".env"), digest_of_settings(settings)):
        return []
    return names


def _own_file() -> OrchestrationConfig | None:
    """The file in the user's home, which a folder's file does not loosen."""
    try:
        return load_orchestration_config(Path(SEARCH_PATHS[-1]), use_env_overrides=False)
    except (FileNotFoundError, ConfigError):
        return None


def _most_usd() -> Decimal:
    """What a folder may let a month spend: the limit of the user's own file, at most that of the defaults."""
    own = _own_file()
    if own is None or not own.cost_tracking.enabled:
        return _MOST_USD
    return min(own.cost_tracking.budget_limit, _MOST_USD)


def _billed_keys() -> set[str]:
    """The variables of keys whose calls the user's own file counts as paid."""
    own = _own_file()
    found = {} if own is None else defined_targets(own, load_catalogue())
    return {target.api_key_env for target in found.values() if target.billing == "paid"}


def _is_low(limit: str) -> bool:
    try:
        return Decimal(limit.strip()) <= _most_usd()
    except ArithmeticError:
        return False


def _key_doubts(target: Target, usual: str | None, source: Path | None) -> Iterator[str]:
    host, own = host_of(target.provider, target.base_url), host_of(target.provider, None)
    variable = target.api_key_env
    if _is_local(target):
        known = variable in {provider.api_key_env for provider in load_providers().values()}
        if not known and not _is_in_dotenv(variable) and not _NAMED_AS_A_KEY.fullmatch(variable):
            yield f"{source}: {variable} is no key of a model and would be sent to {host}"
    elif host != own or not host:
        yield f"{source}: the key in {variable} would be sent to {host or 'an address'}, not to {target.provider}'s own"
    elif variable != usual:
        yield f"{source}: {variable} would be sent to {host}, whose usual key is {usual}"


def _ledger_doubts(config: OrchestrationConfig, env: list[str]) -> Iterator[str]:
    """A folder's ledger may lie in that folder. Another host learns all texts and this user's database password."""
    dotenv = Path(".env").absolute()
    found = find_variable("TTA_LEDGER_URL")
    url = HiddenUrl((config.cost_tracking.ledger_url or "") if found is None else found.text.strip())
    foreign = "TTA_LEDGER_URL" in env if found is not None else _is_foreign(config)
    if url and foreign:
        source = dotenv if found is not None else config.source
        path = sqlite_path(url)
        if path is None and not _is_own_server(url):
            host = url.place.partition("://")[2].partition("/")[0]
            yield f"{source}: the ledger's address would send spending and answers to {host or 'another host'}"
        elif path is not None and not _is_below_here(path):
            yield f"{source}: the ledger would be written to {path}, outside of this folder"
    if "TTA_HOME" in env:
        # What lies there is believed: a profile of Prefect runs code, also when the folder brought it.
        yield f"{dotenv}: TTA_HOME would take ledger, keys and server settings from {tta_home()}"


def _is_own_server(url: HiddenUrl) -> bool:
    """Whether a database is on this machine, alone, and gets the password of its address, not one of the user's."""
    try:
        parts = urlsplit(url)
        one = "," not in parts.netloc and not parts.query
    except ValueError:
        return False
    return one and bool(parts.password) and is_loopback(parts.hostname or "")


def _is_below_here(path: Path) -> bool:
    return path.resolve().is_relative_to(Path.cwd().resolve())


def _money_doubts(config: OrchestrationConfig, real: list[Target]) -> Iterator[str]:
    tracking, source = config.cost_tracking, config.source
    if tracking.ledger_url is not None and find_variable("TTA_LEDGER_URL") is None:
        yield f"{source}: ledger_url would keep spending out of your own ledger"
    own = _own_file()
    if tracking.timezone != (own.cost_tracking.timezone if own else "UTC"):
        yield f"{source}: timezone {tracking.timezone} would begin a month of your ledger at another time"
    if not tracking.enabled:
        yield f"{source}: cost_tracking.enabled: false would take the limit away"
    most = _most_usd()
    if tracking.budget_limit > most and "TTA_BUDGET_LIMIT_USD" not in config.overrides:
        yield f"{source}: budget_limit_usd {tracking.budget_limit:f} is above {most:f} USD"
    priced = {e.model for e in config.executors if e.price is not None}
    if config.orchestrator.price is not None:
        priced.add(config.orchestrator.model)
    billed = _billed_keys()
    for target in real:
        if target.name in priced:
            yield f"{source}: the price of {target.name} is its own, not the provider's"
        is_billed = (
            default_billing(target.provider, target.api_model) == "paid" or target.api_key_env in billed
        )
        if target.billing == "free" and is_billed:
            yield f"{source}: {target.name} would be recorded as free, {target.provider} bills it"


def _is_in_dotenv(variable: str) -> bool:
    """Any other key is the user's: of the environment, of a Prefect block, or one that is still to come."""
    found = find_variable(variable)
    return found is not None and found.origin == ".env"


def _is_local(target: Target) -> bool:
    return target.base_url is not None and is_loopback(urlsplit(target.base_url).hostname or "")
