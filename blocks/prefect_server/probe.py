"""One GET to a Prefect API as Prefect's own client would send it: certificate, custom headers, proxy."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from typing import Any

from tta_dev_primitives.config.errors import ConfigError, PrefectConfigError

CUSTOM_HEADERS = "PREFECT_CLIENT_CUSTOM_HEADERS"
_YES = {"1", "true", "t", "yes", "y", "on"}


def custom_headers(settings: Mapping[str, str]) -> dict[str, str]:
    """The headers that Prefect's client adds to each request; they may hold a secret."""
    try:
        found = json.loads(settings.get(CUSTOM_HEADERS) or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        # Not shown: a header may be a secret.
        raise PrefectConfigError(
            f'{CUSTOM_HEADERS} is no JSON object of text; write e.g. {{"X-Team": "blue"}}.'
        )
    return found


def _tls(settings: Mapping[str, str]) -> ssl.SSLContext | bool:
    """What httpx takes as `verify`."""
    unverified = settings.get("PREFECT_API_TLS_INSECURE_SKIP_VERIFY", "").strip().lower() in _YES
    certificates = settings.get("PREFECT_API_SSL_CERT_FILE")
    if unverified or not certificates:
        return not unverified
    try:
        return ssl.create_default_context(cafile=certificates)
    except OSError as error:
        raise PrefectConfigError(
            f"PREFECT_API_SSL_CERT_FILE: {certificates} cannot be read as certificates: "
            f"{error.strerror or error}. Write the path of a PEM file."
        ) from None


def get_json(
    url: str,
    *,
    timeout_s: float,
    headers: Mapping[str, str] | None = None,
    settings: Mapping[str, str] | None = None,
) -> tuple[int, Any]:
    """GET `url`: status and decoded JSON (None when the body is none). Redirects are not followed.

    Args:
        settings: Prefect's, for a configured API, which may be behind a proxy; None: a server of our own.

    Raises:
        OSError: Nothing listens, or no whole answer came in time.
        PrefectConfigError: The certificate file cannot be read.
    """
    import httpx  # 0.1 s

    verify = _tls(settings) if settings is not None and url.startswith("https:") else False
    try:
        with httpx.Client(verify=verify, timeout=timeout_s, trust_env=settings is not None) as client:
            answer = client.get(url, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL, ImportError) as error:
        raise OSError(str(error) or type(error).__name__) from None
    try:
        return answer.status_code, answer.json()
    except ValueError:
        return answer.status_code, None


def without_proxy(host: str) -> dict[str, str]:
    """The variables that let clients of this process reach `host`, a server of our own, past a proxy.

    Raises:
        ConfigError: A proxy that is set is none for Prefect's client, which looks at it all the same.
    """
    from urllib.request import getproxies_environment, proxy_bypass

    proxies = getproxies_environment()
    # Websockets of plain http take any proxy that is set, also HTTPS_PROXY.
    if not proxies.keys() - {"no"}:
        return {}
    from tta_dev_primitives.blocks.providers.network import NO_PROXY_URL, usable_proxy

    for kind in ("http", "https", "all"):
        if proxies.get(kind) and usable_proxy(proxies[kind]) is None:
            raise ConfigError(f"{kind.upper()}_PROXY: {NO_PROXY_URL} Correct it, or unset it here.")
    if proxy_bypass(host):
        return {}
    value = ",".join(filter(None, [proxies.get("no"), host]))
    return {"NO_PROXY": value, "no_proxy": value}
