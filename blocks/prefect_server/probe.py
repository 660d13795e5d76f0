"""One GET to a Prefect API as Prefect's own client would send it: certificate, custom headers, proxy. No prefect here.

The standard library, because httpx takes 100 ms to import and `tta --help` may come here.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from tta_dev_primitives.config.errors import PrefectConfigError

_YES = {"1", "true", "t", "yes", "y", "on"}


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """The settings of Prefect's client that decide how an API is reached."""

    certificates: str | None = None
    """PREFECT_API_SSL_CERT_FILE."""
    verify: bool = True
    """False with PREFECT_API_TLS_INSECURE_SKIP_VERIFY."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """PREFECT_CLIENT_CUSTOM_HEADERS; they may hold a secret."""

    @classmethod
    def of(cls, settings: Mapping[str, str]) -> ClientOptions:
        """Read from variables by Prefect's names.

        Raises:
            PrefectConfigError: The custom headers are no JSON object of text.
        """
        return cls(
            certificates=settings.get("PREFECT_API_SSL_CERT_FILE") or None,
            verify=settings.get("PREFECT_API_TLS_INSECURE_SKIP_VERIFY", "").strip().lower() not in _YES,
            headers=_custom_headers(settings.get("PREFECT_CLIENT_CUSTOM_HEADERS") or "{}"),
        )

    def tls(self) -> ssl.SSLContext:
        """The context of an https connection.

        Raises:
            PrefectConfigError: The certificate file cannot be read.
        """
        if not self.verify:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            return context
        import certifi

        file = self.certificates or os.environ.get("SSL_CERT_FILE") or certifi.where()
        try:
            return ssl.create_default_context(cafile=file)
        except OSError as error:
            raise PrefectConfigError(
                f"PREFECT_API_SSL_CERT_FILE: {file} cannot be read as certificates: {error.strerror or error}. "
                "Write the path of a PEM file."
            ) from None


def _custom_headers(text: str) -> dict[str, str]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        # Not shown: a header may be a secret.
        raise PrefectConfigError(
            'PREFECT_CLIENT_CUSTOM_HEADERS is no JSON object of text; write e.g. {"X-Team": "blue"}.'
        )
    return found


def get_json(
    url: str,
    *,
    timeout_s: float,
    headers: Mapping[str, str] | None = None,
    options: ClientOptions | None = None,
) -> tuple[int, Any]:
    """GET `url`: status and decoded JSON (None when the body is none). Redirects are not followed.

    Args:
        url: An http(s) address.
        timeout_s: Seconds for each step of the connection.
        headers: Access to the API.
        options: Of a configured API, which may be behind a proxy; None goes straight to a server of our own.

    Raises:
        OSError: Nothing listens, or no whole answer came in time.
        PrefectConfigError: The certificate file cannot be read.
    """
    parts = urlsplit(url)
    proxy = _proxy_for(parts) if options is not None else None
    connection, target, extra = _connect(parts, proxy, options or ClientOptions(), timeout_s)
    # Prefect lets its own headers win over custom ones.
    sent = {**(options.headers if options is not None else {}), **(headers or {}), **extra}
    try:
        connection.request("GET", target, headers=sent)
        answer = connection.getresponse()
        body = answer.read(1_000_000)
    except http.client.HTTPException as error:
        raise OSError(f"not an HTTP answer: {type(error).__name__}") from None
    finally:
        connection.close()
    try:
        return answer.status, json.loads(body)
    except ValueError:
        return answer.status, None


def _connect(
    parts: SplitResult, proxy: SplitResult | None, options: ClientOptions, timeout_s: float
) -> tuple[http.client.HTTPConnection, str, dict[str, str]]:
    """The connection, what to ask it for, and the headers that the proxy wants."""
    host, port, path = parts.hostname or "", parts.port, parts.path or "/"
    path += f"?{parts.query}" if parts.query else ""
    first, first_port = (host, port) if proxy is None else (proxy.hostname or "", proxy.port or 80)
    access = _proxy_access(proxy)
    if parts.scheme != "https":
        connection = http.client.HTTPConnection(first, first_port, timeout=timeout_s)
        return connection, (path if proxy is None else parts._replace(fragment="").geturl()), access
    secure = http.client.HTTPSConnection(first, first_port, timeout=timeout_s, context=options.tls())
    if proxy is not None:
        secure.set_tunnel(host, port or 443, headers=access)
    return secure, path, {}


def _proxy_for(parts: SplitResult) -> SplitResult | None:
    """The proxy of the environment (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY), as httpx reads it."""
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    if not found or proxy_bypass(parts.hostname or ""):
        return None
    proxy = urlsplit(found if "://" in found else f"http://{found}")
    if proxy.scheme != "http":
        raise OSError(f"a {proxy.scheme} proxy cannot be checked")
    return proxy


def _proxy_access(proxy: SplitResult | None) -> dict[str, str]:
    if proxy is None or not proxy.username:
        return {}
    access = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": "Basic " + base64.b64encode(access.encode()).decode()}


def without_proxy(host: str) -> dict[str, str]:
    """The variables that let clients of this process reach `host`, a server of our own, past a proxy."""
    from urllib.request import getproxies_environment, proxy_bypass

    proxies = getproxies_environment()
    # Websockets of plain http take any proxy that is set, also HTTPS_PROXY.
    if not proxies.keys() - {"no"} or proxy_bypass(host):
        return {}
    value = ",".join(filter(None, [proxies.get("no"), host]))
    return {"NO_PROXY": value, "no_proxy": value}
