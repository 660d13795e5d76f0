"""Which Prefect API the user configured, and whether it answers. Does not import prefect."""

from __future__ import annotations

import base64
import json
import os
import tomllib
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from tta_dev_primitives.blocks.prefect_server.probe import CUSTOM_HEADERS, custom_headers, get_json
from tta_dev_primitives.blocks.prefect_server.server_settings import EMBEDDED_MARK, is_loopback, release_of
from tta_dev_primitives.config.errors import PrefectConfigError, PrefectServerError
from tta_dev_primitives.config.reading.dotenv import read_dotenv
from tta_dev_primitives.config.reading.trusted_files import (
    digest_of_settings,
    dotenv_settings,
    is_home,
    is_trusted,
    trust_file,
)

OLDEST = (3, 8)
"""Oldest Prefect server that is supported: that of the pinned client."""


_CREDENTIALS = ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", CUSTOM_HEADERS)
_READ = ("PREFECT_API_", CUSTOM_HEADERS)
FOLDER_FILES = (".env", "prefect.toml", "pyproject.toml")


@dataclass(frozen=True, slots=True)
class ConfiguredApi:
    """A Prefect API that the user chose, and where it was written."""

    url: str
    source: str
    auth: str | None = None
    """`user:password` of a self-hosted API."""
    key: str | None = None
    """API key of Prefect Cloud."""
    file: Path | None = None
    """The file of the working folder that named the address; None: the user's own settings did."""
    settings: Mapping[str, str] | None = None
    """Prefect's settings, as its client reaches it; None for the embedded server, which is reached without a proxy."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Those that the user adds to each request."""
    lent: tuple[str, ...] = ()
    """The credentials (key, auth string, custom headers) that come from another source than the address."""

    def __repr__(self) -> str:
        return f"ConfiguredApi(url={self.url!r}, source={self.source!r})"

    def get(self, path: str) -> tuple[int, Any]:
        """GET a path of it as Prefect's client would: status and decoded JSON (None when the body is none)."""
        headers = dict(self.headers)
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        elif self.auth:
            headers["Authorization"] = "Basic " + base64.b64encode(self.auth.encode()).decode()
        return get_json(self.url + path, timeout_s=5.0, headers=headers, settings=self.settings)


def configured_api(
    environ: Mapping[str, str] | None = None, *, folder: Path | None = None
) -> ConfiguredApi | None:
    """The API address that Prefect itself would use, in Prefect's order; None when nothing sets one.

    Environment, then `.env`, `prefect.toml` and `pyproject.toml` of the working folder, then the active
    profile. An address that `apply_environment` set for the embedded server does not count.
    """
    env = os.environ if environ is None else environ
    place = folder or Path.cwd()
    sources = _sources(env, place)
    for source, values in sources:
        url = values.get("PREFECT_API_URL")
        if url and url != env.get(EMBEDDED_MARK):
            client = ChainMap(*(dict(one) for _, one in sources))
            return ConfiguredApi(
                url=url.rstrip("/"),
                source=source,
                auth=client.get("PREFECT_API_AUTH_STRING"),
                key=client.get("PREFECT_API_KEY"),
                file=place / source if source in FOLDER_FILES else None,
                settings=client,
                headers=custom_headers(client),
                lent=tuple(name for name in _CREDENTIALS if client.get(name) not in (None, values.get(name))),
            )
    return None


def api_doubt(api: ConfiguredApi) -> str | None:
    """What an untrusted file of the working folder would send where; None: all is well.

    Loopback without a key of the user's needs no trust.
    """
    host = _host_of(api.url) or "an address"
    if api.file is None or is_home(api.file.parent) or (is_loopback(host) and not api.lent):
        return None
    if is_trusted(api.file, digest_of_settings(api_settings(api.file))):
        return None
    what = " and ".join([*(f"your {name}" for name in api.lent), "all runs"])
    return f"{api.file}: PREFECT_API_URL would send {what} to {host}"


def trust_api(api: ConfiguredApi) -> None:
    """Trust the file that named the address."""
    if api.file is not None:
        trust_file(api.file, digest_of_settings(api_settings(api.file)))


def api_settings(file: Path) -> dict[str, str]:
    """What is trusted of a file of the working folder that may name a Prefect API."""
    if file.name == ".env":
        return dotenv_settings(file.parent)
    found = _toml(file)
    table = found.get("tool", {}).get("prefect", {}) if file.name == "pyproject.toml" else found
    url = _api_table(table).get("PREFECT_API_URL")
    return {} if url is None else {"PREFECT_API_URL": url}


def _sources(env: Mapping[str, str], folder: Path) -> list[tuple[str, Mapping[str, str]]]:
    home = Path(env.get("PREFECT_HOME") or "~/.prefect").expanduser()
    profiles = Path(env.get("PREFECT_PROFILES_PATH") or home / "profiles.toml")
    return [
        ("the environment", _of_prefect(env)),
        (".env", _of_prefect(read_dotenv(folder))),
        ("prefect.toml", _api_table(_toml(folder / "prefect.toml"))),
        ("pyproject.toml", _api_table(_toml(folder / "pyproject.toml").get("tool", {}).get("prefect", {}))),
        (str(profiles), _active_profile(_toml(profiles), env.get("PREFECT_PROFILE"))),
    ]


def _of_prefect(variables: Mapping[str, str | SecretStr]) -> dict[str, str]:
    """Prefect's own variables, whose case does not count; keys of models stay where they are."""
    found = {
        name.upper(): text for name, text in variables.items() if name.upper().startswith(_READ) and text
    }
    return {n: t.get_secret_value() if isinstance(t, SecretStr) else t for n, t in found.items()}


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PrefectConfigError(f"{path}: Prefect settings cannot be read: {error}") from None


def _api_table(tables: Mapping[str, Any]) -> dict[str, str]:
    api, client = tables.get("api", {}), tables.get("client", {})
    names = {
        "url": "PREFECT_API_URL",
        "auth_string": "PREFECT_API_AUTH_STRING",
        "key": "PREFECT_API_KEY",
        "ssl_cert_file": "PREFECT_API_SSL_CERT_FILE",
        "tls_insecure_skip_verify": "PREFECT_API_TLS_INSECURE_SKIP_VERIFY",
    }
    found = {env: str(api[name]) for name, env in names.items() if api.get(name, "") != ""}
    headers = client.get("custom_headers")
    if headers is not None:
        found[CUSTOM_HEADERS] = headers if isinstance(headers, str) else json.dumps(headers)
    return found


def _active_profile(profiles: Mapping[str, Any], chosen: str | None) -> dict[str, str]:
    name = chosen or profiles.get("active")
    values = profiles.get("profiles", {}).get(name, {})
    return _of_prefect({name: str(value) for name, value in values.items()})


def server_version(api: ConfiguredApi) -> str | None:
    """The version of a configured server; None for Prefect Cloud, which does not tell.

    Raises:
        PrefectConfigError: Address or access are wrong, or came with the working folder untrusted; the message
            has address, reason and remedy.
        PrefectServerError: It does not answer, or is too old.
    """
    doubt = api_doubt(api)
    if doubt is not None:
        raise PrefectConfigError(
            f"{doubt}.\nThis came with the working folder and is not trusted. Read it, then run `tta trust` "
            "(or set TTA_TRUST=1, or PREFECT_API_URL in the environment)."
        )
    where = f"Prefect API {shown(api.url)} (PREFECT_API_URL in {api.source})"
    host = _host_of(api.url)
    if host is None:
        raise PrefectConfigError(f"{where}: not an http(s) address; write e.g. http://127.0.0.1:4200/api.")
    try:
        status, body = api.get("/admin/version")
    except OSError as error:
        raise PrefectServerError(
            f"{where} does not answer: {error}. "
            "Start it, correct the address, or unset it to use the embedded server."
        ) from None
    if status in {401, 403}:
        raise PrefectConfigError(
            f"{where} refuses us ({status}); set PREFECT_API_AUTH_STRING or PREFECT_API_KEY."
        )
    if host.endswith(".prefect.cloud"):
        return None
    if status != 200 or not isinstance(body, str):
        raise PrefectConfigError(f"{where} is not a Prefect API (status {status}); the address ends in /api.")
    if release_of(body) < OLDEST:
        raise PrefectServerError(
            f"{where} runs Prefect {body}; this package needs {OLDEST[0]}.{OLDEST[1]} or newer "
            f"(installed here: {version('prefect')}). Upgrade that server."
        )
    return body


def _host_of(url: str) -> str | None:
    """The host of an http(s) address with a possible port; None for anything else."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
        (host or "").encode("idna")
    except ValueError:
        return None
    written = parts.scheme in {"http", "https"} and not any(sign.isspace() for sign in url)
    return host if host and written else None


def shown(url: str) -> str:
    """The address without user and password, however it is written."""
    scheme, sign, rest = url.rpartition("://")
    return f"{scheme}{sign}{rest.rpartition('@')[2]}"
