"""The question whether files that came with the working folder are trusted; asked on a terminal only."""

from __future__ import annotations

import sys
from pathlib import Path

from tta_dev_primitives.blocks.credentials.config_trust import refuse_untrusted, trust_config, untrusted
from tta_dev_primitives.blocks.prefect_server.endpoint import (
    ConfiguredApi,
    api_doubt,
    configured_api,
    trust_api,
)
from tta_dev_primitives.commands._output import console
from tta_dev_primitives.config import OrchestrationConfig, load_orchestration_config


def load_trusted(path: Path | None) -> OrchestrationConfig:
    """Load the configuration, and ask or refuse when it needs trust.

    Raises:
        UntrustedConfigError: It needs trust, and nothing can be asked or the answer is no.
    """
    config = load_orchestration_config(path)
    ask_trust(config)
    return config


def ask_trust(config: OrchestrationConfig) -> None:
    """Ask once what the files of the working folder may do; without a terminal, refuse what needs trust.

    Raises:
        UntrustedConfigError: The configuration needs trust, and nothing can be asked or the answer is no.
    """
    doubts = untrusted(config)
    api = configured_api()
    about_api = None if api is None else api_doubt(api)
    if (doubts or about_api) and sys.stdin.isatty() and sys.stderr.isatty():
        _ask(config, doubts, api, about_api)
    refuse_untrusted(config)


def _ask(
    config: OrchestrationConfig, doubts: list[str], api: ConfiguredApi | None, about_api: str | None
) -> None:
    from rich.prompt import Confirm

    out = console(stderr=True)
    out.print("These files came with the working folder, and ask for more than it may without your word:")
    for doubt in [*doubts, *([about_api] if about_api else [])]:
        out.print(f"  {doubt}")
    if Confirm.ask("Trust them as they are now?", default=False, console=out):
        trust_config(config)
        if api is not None and about_api is not None:
            trust_api(api)
