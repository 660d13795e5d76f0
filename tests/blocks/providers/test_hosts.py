"""Where a key may travel: which addresses are taken, which are refused, and what the refusal says."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_samples import PROVIDERS, at_address, target

from tta_dev_primitives.blocks.providers.address_rules import address_refusal, base_of, host_of, is_private
from tta_dev_primitives.blocks.wire.formats import wire_format
from tta_dev_primitives.config.errors import ConfigError


def full_url(provider: str, base_url: str | None, path: str | None = None) -> str:
    """Where a chat call of `provider` goes."""
    model = replace(target(provider), base_url=base_url, allow_private_hosts=True)
    form = wire_format(provider)
    from wire_samples import ask

    return base_of(model).join(path or form.build(model, ask()).path)


def test_each_provider_has_its_own_address() -> None:
    """Without `base_url` the key goes to the provider itself."""
    assert full_url("anthropic", None) == "https://api.anthropic.com/v1/messages"
    assert full_url("google-ai-studio", None) == (
        "https://generativelanguage.googleapis.com/v1beta/models/the-model:generateContent"
    )
    assert full_url("groq", None) == "https://api.groq.com/openai/v1/chat/completions"
    assert full_url("openrouter", None) == "https://openrouter.ai/api/v1/chat/completions"


def test_a_compatible_server_has_no_address_of_its_own() -> None:
    """Its `base_url` must be given."""
    with pytest.raises(ConfigError, match="Set base_url"):
        base_of(replace(target("openai-compatible"), base_url=None))


@pytest.mark.parametrize(
    ("provider", "base_url", "url"),
    [
        ("anthropic", "https://h.example", "https://h.example/v1/messages"),
        ("anthropic", "https://h.example/", "https://h.example/v1/messages"),
        ("anthropic", "https://h.example/v1", "https://h.example/v1/messages"),
        ("anthropic", "https://h.example/proxy/", "https://h.example/proxy/v1/messages"),
        ("groq", "https://h.example:8443", "https://h.example:8443/openai/v1/chat/completions"),
        ("groq", "https://h.example/openai/v1/", "https://h.example/openai/v1/chat/completions"),
        ("openrouter", "https://h.example/api/v1/", "https://h.example/api/v1/chat/completions"),
        ("openai-compatible", "http://127.0.0.1:11434/v1", "http://127.0.0.1:11434/v1/chat/completions"),
        ("openai-compatible", "http://[::1]:11434/v1/", "http://[::1]:11434/v1/chat/completions"),
        ("openai-compatible", "https://H.Example:443/v1", "https://h.example/v1/chat/completions"),
    ],
)
def test_base_urls_are_written_as_the_sdks_take_them(provider: str, base_url: str, url: str) -> None:
    """A trailing slash, or a part of the path that other tools want, does no harm."""
    assert full_url(provider, base_url) == url


def test_the_model_list_keeps_its_query() -> None:
    """Also when part of its path stood in the base."""
    want = "https://h.example/v1/models?limit=1000"
    assert full_url("anthropic", "https://h.example/v1", "/v1/models?limit=1000") == want


REFUSED = {
    "http://h.example": "https://",
    "ftp://h.example": "https://",
    "h.example": "https://",
    "https://": "no valid host",
    "https://user:secret@h.example": "user name or password",
    "https://h.example?key=secret": "query",
    "https://h.example/#x": "query",
    "https://h.example/a b": "characters",
    "https://h.example\\@evil.example": "characters",
    "https://h.example\n": "characters",
    "https://①②⑦.0.0.1": "characters",
    "https://h.example:99999": "not an address",
    "https://h.example:0": "not an address",
    "https://h.example/../x": "not an address",
    "https://[::1": "not an address",
    "https://-h.example": "no valid host",
    "https://127.0.0.1": "allow_private_hosts",
    "https://127.0.0.1.": "allow_private_hosts",
    "https://localhost": "allow_private_hosts",
    "https://LOCALHOST.": "allow_private_hosts",
    "https://api.localhost": "allow_private_hosts",
    "https://10.1.2.3": "allow_private_hosts",
    "https://172.16.0.1": "allow_private_hosts",
    "https://192.168.1.1": "allow_private_hosts",
    "https://100.64.0.1": "allow_private_hosts",
    "https://169.254.169.254": "allow_private_hosts",
    "https://0.0.0.0": "allow_private_hosts",
    "https://224.0.0.1": "allow_private_hosts",
    "https://255.255.255.255": "allow_private_hosts",
    "https://[::1]": "allow_private_hosts",
    "https://[::]": "allow_private_hosts",
    "https://[fe80::1%25eth0]": "allow_private_hosts",
    "https://[fc00::1]": "allow_private_hosts",
    "https://[fd00:ec2::254]": "allow_private_hosts",
    "https://[::ffff:127.0.0.1]": "allow_private_hosts",
    "https://[::ffff:7f00:1]": "allow_private_hosts",
    "https://[64:ff9b::10.0.0.1]": "allow_private_hosts",
    "https://[64:ff9b:1::127.0.0.1]": "allow_private_hosts",
    "https://[::127.0.0.1]": "allow_private_hosts",
    "https://[::ffff:0:127.0.0.1]": "allow_private_hosts",
    "https://[fec0::1]": "allow_private_hosts",
    "https://[2002:7f00:1::]": "allow_private_hosts",
    "https://2130706433": "plain form, 127.0.0.1",
    "https://0x7f000001": "plain form, 127.0.0.1",
    "https://0x7f.1": "plain form, 127.0.0.1",
    "https://017700000001": "plain form, 127.0.0.1",
    "https://0177.0.0.1": "plain form, 127.0.0.1",
    "https://127.1": "plain form, 127.0.0.1",
    "https://2852039166": "plain form, 169.254.169.254",
}


@pytest.mark.parametrize(("base_url", "said"), REFUSED.items())
def test_an_address_that_breaks_a_rule_is_refused_with_its_mend(base_url: str, said: str) -> None:
    """The message names the model and the option, never the secret that stood in the address."""
    with pytest.raises(ConfigError, match=said) as caught:
        base_of(at_address(target("anthropic"), base_url, private=False))
    assert "the-model" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "base_url", ["http://127.0.0.1:8080", "http://[::1]:8080", "http://192.168.1.5", "http://box.lan"]
)
def test_private_addresses_are_taken_when_allowed(base_url: str) -> None:
    """Plain http then too; a name must turn out private when it is resolved."""
    assert base_of(at_address(target("anthropic"), base_url)).reach == "private"


@pytest.mark.parametrize("base_url", ["http://8.8.8.8", "https://0x7f.1", "https://user@127.0.0.1"])
def test_allowing_private_hosts_allows_nothing_else(base_url: str) -> None:
    """Keys do not go to public addresses in clear text, whatever is set."""
    with pytest.raises(ConfigError):
        base_of(at_address(target("anthropic"), base_url))


def test_what_a_name_resolves_to_is_judged_by_reach() -> None:
    """https to a public host must not end on a private address, plain http not on a public one."""
    assert address_refusal("h", "8.8.8.8", "public") is None
    assert address_refusal("h", "8.8.8.8", "any") is None
    assert "plain http" in (address_refusal("h", "8.8.8.8", "private") or "")
    assert "allow_private_hosts" in (address_refusal("h", "10.0.0.1", "public") or "")
    assert address_refusal("h", "10.0.0.1", "any") is None
    assert address_refusal("h", "fe80::1%eth0", "private") is None


@given(st.ip_addresses(v=4))
def test_wrapping_an_address_in_ipv6_hides_nothing(inner: ipaddress.IPv4Address) -> None:
    """Mapped, 6to4 and NAT64 forms are judged by what is inside."""
    number = int(inner)
    mapped = ipaddress.IPv6Address((0xFFFF << 32) | number)
    sixtofour = ipaddress.IPv6Address((0x2002 << 112) | (number << 80))
    nat64 = ipaddress.IPv6Address(int(ipaddress.IPv6Address("64:ff9b::")) | number)
    assert {is_private(a) for a in (mapped, sixtofour, nat64)} == {is_private(inner)}


@given(st.sampled_from(PROVIDERS), st.text(max_size=40), st.booleans())
def test_no_text_is_an_address_by_accident(provider: str, text: str, private: bool) -> None:
    """Any text: a checked base, or a `ConfigError`."""
    for candidate in (text, f"https://{text}", f"http://127.0.0.1{text}"):
        try:
            base = base_of(at_address(target(provider), candidate or "x", private=private))
        except ConfigError:
            continue
        assert base.url.startswith(("https://", "http://"))
        assert private or base.url.startswith("https://")


def test_a_key_is_bound_to_host_and_port() -> None:
    """What a block's address is compared by."""
    assert host_of("anthropic", None) == "api.anthropic.com"
    assert host_of("anthropic", "https://API.anthropic.com:443/v1") == "api.anthropic.com"
    assert host_of("openai-compatible", "http://127.0.0.1:11434/v1") == "127.0.0.1:11434"
    assert host_of("openai-compatible", None) == ""
