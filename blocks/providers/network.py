"""What the environment says about the way to providers: proxies and certificate authorities.

Only the environment of the process counts, never a `.env`: a folder must not choose through what the keys travel.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import ssl
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import (  # type: ignore[attr-defined]  # the second is not in the stubs
    getproxies_environment,
    proxy_bypass_environment,
)

import httpx

from tta_dev_primitives.blocks.providers.address_rules import Base, is_loopback
from tta_dev_primitives.config.errors import ConfigError

_PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


def proxy_of(base: Base) -> str | None:
    """The proxy through which calls to `base` go; None: straight there.

    Https goes through `HTTPS_PROXY` (else `ALL_PROXY`) unless `NO_PROXY` lists the host: the proxy sees the name of
    the host, and neither key nor text. Loopback and plain http, whose key a proxy could read, never do.

    Raises:
        ConfigError: The proxy is not an http or https one.
    """
    if not base.url.startswith("https://") or is_loopback(base.host):
        return None
    proxies = getproxies_environment()
    url = proxies.get("https") or proxies.get("all")
    if not url or _is_spared(base, proxies):
        return None
    url = usable_proxy(url)
    if url is None:
        raise ConfigError(f"{_variable()}: {NO_PROXY_URL} Correct it, or list {base.host} in NO_PROXY.")
    return url


NO_PROXY_URL = "expected http://host:port; other kinds of proxy, SOCKS among them, are not supported."


def usable_proxy(url: str) -> str | None:
    """The address of a proxy with its scheme; None: it is not an http or https one."""
    url = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        return None
    return url if usable else None


def _is_spared(base: Base, proxies: dict[str, str]) -> bool:
    """Whether `NO_PROXY` lists the host: by name, suffix, `*`, or the network of its address."""
    if proxy_bypass_environment(f"{base.host}:{base.port}", proxies):
        return True
    try:
        address = ipaddress.ip_address(base.host)
    except ValueError:
        return False
    for entry in proxies.get("no", "").split(","):
        with suppress(ValueError):
            if address in ipaddress.ip_network(entry.strip(), strict=False):
                return True
    return False


def certificates() -> tuple[str, str] | None:
    """The variable and path of the certificate authorities that replace the bundled ones; None: the bundled ones."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        if os.environ.get(name):
            return name, os.environ[name]
    return None


def verifying_context() -> ssl.SSLContext:
    """A TLS context that always verifies, by the authorities that the environment names, else by the bundled ones."""
    return _context(certificates())


@functools.lru_cache(maxsize=4)
def _context(chosen: tuple[str, str] | None) -> ssl.SSLContext:
    """A context costs 45 ms, so a process makes one."""
    if chosen is None:
        return httpx.create_ssl_context(trust_env=False)
    name, path = chosen
    to_fix = f"Correct {name}, or unset it to use the bundled authorities."
    is_file = name == "SSL_CERT_FILE"
    if not (Path(path).is_file() if is_file else Path(path).is_dir()):
        raise ConfigError(f"{name}: there is no {'file' if is_file else 'folder'} {path}. {to_fix}")
    try:
        return ssl.create_default_context(**({"cafile": path} if is_file else {"capath": path}))  # type: ignore[arg-type]
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"{name}: {path} holds no certificates ({type(error).__name__}). {to_fix}"
        ) from None


def network_facts() -> list[str]:
    """What is in effect, one line each, without passwords."""
    proxies = getproxies_environment()
    url = proxies.get("https") or proxies.get("all")
    facts = ["no proxy"]
    if url:
        shown = url.rpartition("@")[2].removeprefix("http://")
        spared = f", except to {proxies['no']}" if proxies.get("no") else ""
        facts = [f"https calls go through the proxy {shown} ({_variable()}){spared}; loopback never does"]
        proxy_of(Base("https://provider.invalid", "provider.invalid", 443, "public"))
    chosen = certificates()
    facts.append(
        "bundled certificate authorities"
        if chosen is None
        else f"certificate authorities of {'='.join(chosen)}"
    )
    verifying_context()
    return facts


def _variable() -> str:
    return next((name for name in _PROXY_VARIABLES if os.environ.get(name)), "HTTPS_PROXY")
