"""A configuration file cut to the keys that somebody has: the text is edited, so that its comments stay. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Collection

import yaml
from pydantic import ValidationError

from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.models.providers import load_providers
from tta_dev_primitives.config.models.resolve import resolve_targets
from tta_dev_primitives.config.options import ConfigFile, OrchestrationConfig
from tta_dev_primitives.config.template import todays_config

_ALL_WORK = """\
  executors:
    - model: {model}
      provider: {provider}
      api_key_env: {variable}
      use_cases: [simple, moderate, complex, expert, speed-critical, reasoning]
"""
_NOTHING_JUDGES = """
  # Without {variable} no model plans or judges: answers rest on the local checks alone.
  # Take these two lines out once you have that key.
  planning: never
  validation: {{mode: never}}
"""


_ONE_MODEL = """\
orchestration:
  # One model does all the work; nothing plans or judges, so answers rest on the local checks.
  # To have them judged: name a stronger model as the orchestrator and take the next two lines out.
  planning: never
  validation: {{mode: never}}
{private}
  orchestrator:
    model: {model}
{endpoint}
  executors:
    - model: {model}
{indented}
      use_cases: [simple, moderate, complex, expert, speed-critical, reasoning]

  fallback_strategy:
    models: [{model}]

  cost_tracking:
    budget_limit_usd: 10.0
"""


OWN_SERVER_KEY = "OWN_SERVER_API_KEY"


def own_server_keys() -> frozenset[str]:
    """Variables of keys that a server of one's own may do without."""
    servers = load_providers().values()
    return frozenset({OWN_SERVER_KEY, *(entry.api_key_env for entry in servers if entry.own_server)})


def one_model_config(
    model: str,
    provider: str,
    *,
    api_key_env: str,
    billing: str,
    base_url: str | None = None,
    private: bool = False,
) -> str:
    """A configuration in which one model of a preset or of one's own server does all the work, as YAML text."""
    lines = [f"provider: {provider}", f"api_key_env: {api_key_env}", f"billing: {billing}"]
    if base_url is not None:
        lines.insert(1, f"base_url: {json.dumps(base_url)}")
    return _ONE_MODEL.format(
        model=json.dumps(model),
        endpoint="\n".join(f"    {line}" for line in lines) + "\n",
        indented="\n".join(f"      {line}" for line in lines),
        private="  allow_private_hosts: true\n" if private else "",
    )


def server_address(text: str) -> str:
    """The address of a server as a person types it, in full: `localhost:11434` is `http://localhost:11434/v1`."""
    url = text.strip().rstrip("/")
    url = url if "://" in url else f"http://{url}"
    return url if url.count("/") > 2 else f"{url}/v1"


def key_variables(text: str) -> tuple[str, ...]:
    """The variables that the configuration of this text reads keys from, in its order.

    Raises:
        ConfigError: It is no configuration, for example because a model's name holds blanks.
    """
    return tuple(dict.fromkeys(t.api_key_env for t in resolve_targets(_parsed(text)).values()))


def with_keys_only(text: str, have: Collection[str]) -> str:
    """The text without the executors and fallback models whose keys are missing.

    The orchestrator stays; without its key the text says that it is never asked, so that the file can be used.

    Args:
        have: Variables of the keys that are there.

    Raises:
        ConfigError: No model would be left.
    """
    config = _parsed(text)
    out = {name for name, target in resolve_targets(config).items() if target.api_key_env not in have}
    cut = text
    for executor in config.executors:
        if executor.api_key_env not in have:
            cut = _without_executor(cut, executor.model)
    if not any(executor.api_key_env in have for executor in config.executors):
        cut = _with_other_executor(cut, have)
    for name in out:
        cut = re.sub(rf"(?m)^ +- {re.escape(name)}(?= *(?:#.*)?$).*\n", "", cut)
    cut = _with_some_fallback(cut)
    orchestrator = resolve_targets(config)[config.orchestrator.model]
    if orchestrator.api_key_env not in have:
        cut = cut.rstrip("\n") + "\n" + _NOTHING_JUDGES.format(variable=orchestrator.api_key_env)
    return cut


def _without_executor(text: str, model: str) -> str:
    return re.sub(rf"(?m)^    - model: {re.escape(model)}(?= *(?:#.*)?$).*\n(?:      .*\n)*\n?", "", text)


def _with_other_executor(text: str, have: Collection[str]) -> str:
    """No executor is left: the first of the full example whose key is there takes all work, else the orchestrator."""
    if not have:
        raise ConfigError("no key, no models: name at least one provider whose key you have.")
    block = "  executors: []\n"
    for other in _parsed(todays_config()).executors:
        if other.api_key_env in have:
            block = _ALL_WORK.format(model=other.model, provider=other.provider, variable=other.api_key_env)
            break
    return re.sub(r"(?m)^  executors:.*\n\n?", block + "\n", text)


def _with_some_fallback(text: str) -> str:
    """An emptied fallback list falls back on the first executor, else on the orchestrator."""
    if re.search(r"(?m)^    models:\s*\n +- ", text):
        return text
    config = _parsed(re.sub(r"(?m)^    models:\s*$", "    models: []", text))
    last = config.executors[0].model if config.executors else config.orchestrator.model
    return re.sub(r"(?m)^    models:[^\S\n]*$", f"    models: [{last}]", text)


def _parsed(text: str) -> OrchestrationConfig:
    try:
        return ConfigFile.model_validate(yaml.safe_load(text)).orchestration
    except ValidationError as error:
        raise ConfigError("; ".join(dict.fromkeys(fault["msg"] for fault in error.errors()))) from None
