"""Where a key may be sent: the rules for `base_url`, checked on the text and on what it resolves to.

A key goes to the provider's own host, or to the `base_url` that the configuration names for it. Loopback,
private and link-local addresses (the metadata service of clouds among them) need `allow_private_hosts: true`;
plain http is allowed to those only.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal
from urllib.parse import urlsplit

from tta_dev_primitives.blocks.wire.formats import wire_format
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.models.targets import Target, endpoint_in

Reach = Literal["public", "any", "private"]
"""Which addresses a connection may end at: `public` only, `any`, or `private` only (plain http)."""
_IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?\.?")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Base:
    """A checked base address, and how far a connection to it may reach."""

    url: str
    host: str
    port: int
    reach: Reach

    def join(self, path: str) -> str:
        """Append a format's path; a part that the user already wrote (`/v1`, `/openai/v1`) is not doubled."""
        return _joined(self.url, path)


@lru_cache(maxsize=256)
def _joined(url: str, path: str) -> str:
    have = [p for p in urlsplit(url).path.split("/") if p]
    want = path.removeprefix("/")
    parts = want.split("?")[0].split("/")
    for n in range(min(len(have), len(parts)), 0, -1):
        if have[-n:] == parts[:n]:
            want = want.split("/", n)[n]
            break
    return f"{url}/{want}"


def address_of(target: Target) -> str | None:
    """The address as it is written, unchecked: the target's own, or its provider's; None: it has none."""
    return target.base_url or wire_format(target.provider).base_url


def base_of(target: Target) -> Base:
    """Check the address of `target` without touching the network.

    Raises:
        ConfigError: The address breaks a rule; the message names it and the remedy.
    """
    text = address_of(target)
    if text is None:
        raise ConfigError(
            f"Model '{target.name}': provider {target.provider} has no address of its own. "
            'Set base_url, for example "https://host.example/v1".'
        )
    # The address of a preset is ours, not the file's: Ollama's may be on this machine.
    private_allowed = target.allow_private_hosts or (target.base_url is None and text.startswith("http://"))
    return _checked(text, f"Model '{target.name}': base_url", private_allowed=private_allowed)


@lru_cache(maxsize=256)
def _checked(text: str, where: str, *, private_allowed: bool) -> Base:
    """The address by the rules; a job asks the same ones before each call."""
    scheme, host, port, path = _parts(text, where)
    literal = _literal(host, where)
    private = is_private(literal) if literal is not None else _names_this_machine(host)
    if private and not private_allowed:
        raise ConfigError(
            f"{where} {host} is a loopback or private address. "
            "Set allow_private_hosts: true if you mean it, or use a public https address."
        )
    if scheme == "http" and not private_allowed:
        raise ConfigError(f"{where} must start with https:// (the key would travel in clear text).")
    if scheme == "http" and literal is not None and not private:
        raise ConfigError(f"{where}: plain http is allowed to private addresses only; use https for {host}.")
    reach: Reach = "private" if scheme == "http" else "any" if private_allowed else "public"
    path = path.rstrip("/")
    path = path.removesuffix(endpoint_in(path))
    shown = f"[{host}]" if ":" in host else host
    netloc = shown if port == _PORTS[scheme] else f"{shown}:{port}"
    return Base(f"{scheme}://{netloc}{path.rstrip('/')}", host, port, reach)


def host_of(provider: str, base_url: str | None) -> str:
    """Host (with port, unless standard) that a key of `provider` is bound to; "" when there is none yet."""
    text = base_url or wire_format(provider).base_url
    if text is None:
        return ""
    scheme, host, port, _ = _parts(text, "base_url")
    return host if port == _PORTS[scheme] else f"{host}:{port}"


def _parts(text: str, where: str) -> tuple[str, str, int, str]:
    if len(text) > 500 or not text.isascii() or not text.isprintable() or "\\" in text or " " in text:
        raise ConfigError(f"{where} holds characters that no address needs. Write it as https://host/path.")
    try:
        url = urlsplit(text)
        port = url.port
        scheme, host = url.scheme.lower(), (url.hostname or "").lower()
    except ValueError:
        raise ConfigError(f"{where} is not an address. Write it as https://host/path.") from None
    if scheme not in _PORTS:
        raise ConfigError(f"{where} must start with https://.")
    if "@" in url.netloc:
        raise ConfigError(f"{where} must not hold a user name or password; the key goes in api_key_env.")
    if "?" in text or "#" in text:
        raise ConfigError(f"{where} must not hold a query or fragment; a key never travels in an address.")
    if not host or (":" not in host and not _HOST.fullmatch(host)):
        raise ConfigError(f"{where} names no valid host. Write it as https://host/path.")
    if port == 0 or ".." in url.path:
        raise ConfigError(f"{where} is not an address. Write it as https://host/path.")
    return scheme, host, port or _PORTS[scheme], url.path


def _literal(host: str, where: str) -> _IPAddress | None:
    """Read an address literal; forms that only C libraries read (decimal, hex, octal) are refused."""
    bare = host.rstrip(".")
    try:
        return ipaddress.ip_address(bare.split("%")[0])
    except ValueError:
        pass
    if ":" in bare:
        raise ConfigError(f"{where}: {host} is not an IPv6 address.")
    try:
        packed = socket.inet_aton(bare)
    except OSError:
        return None
    plain = ipaddress.IPv4Address(packed)
    raise ConfigError(f"{where}: write the address {host} in its plain form, {plain}.")


def _names_this_machine(host: str) -> bool:
    bare = host.rstrip(".")
    return bare == "localhost" or bare.endswith(".localhost")


def is_private_host(host: str) -> bool:
    """Say whether a checked host is plainly on this machine or a private network, without resolving names."""
    try:
        return is_private(ipaddress.ip_address(host.rstrip(".").split("%")[0]))
    except ValueError:
        return _names_this_machine(host)


def is_loopback(host: str) -> bool:
    """Say whether a checked host is this machine, without resolving names."""
    try:
        return ipaddress.ip_address(host.rstrip(".").split("%")[0]).is_loopback
    except ValueError:
        return _names_this_machine(host)


def is_private(address: _IPAddress) -> bool:
    """Say whether `address` is anything but a public unicast one, looking inside IPv6 wrappings of IPv4."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address.teredo is not None:
            inner = address.teredo[1]
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_private(inner)
        # What Python calls global and no public host has: `::127.0.0.1`, local NAT64, the old site-local block.
        if address.is_reserved or address.is_site_local:
            return True
    return not address.is_global or address.is_multicast


def address_refusal(host: str, resolved: str, reach: Reach) -> str | None:
    """Judge the address a name resolved to, right before the connection; None when it may be used."""
    private = is_private(ipaddress.ip_address(resolved.split("%")[0]))
    if private and reach == "public":
        return f"{host} resolves to {resolved}, a private address. Set allow_private_hosts: true to allow it."
    if not private and reach == "private":
        return f"{host} resolves to a public address: plain http is allowed to private ones only; use https."
    return None
