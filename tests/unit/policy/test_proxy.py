"""Proxies are read as URLs are, and their password is never shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.policy.samples import agent, problems_of
from usbip_agent.policy.agent import AgentPolicy
from usbip_agent.policy.hosts import Host
from usbip_agent.policy.proxy import Proxy, proxy_url

SECRET = "S3cr:t"


@pytest.mark.parametrize("text, proxy, shown", [
    ("http://proxy:3128", Proxy("proxy", 3128), "http://proxy:3128"),
    ("http://proxy.example.net:80/", Proxy("proxy.example.net", 80), "http://proxy.example.net:80"),
    ("http://192.0.2.1:8080", Proxy("192.0.2.1", 8080), "http://192.0.2.1:8080"),
    ("http://[2001:DB8::1]:8080", Proxy("2001:db8::1", 8080), "http://[2001:db8::1]:8080"),
    ("http://me:pw@p:1", Proxy("p", 1, "me", "pw"), "http://me:***@p:1"),
    ("http://me@p:1", Proxy("p", 1, "me"), "http://me:***@p:1"),
    ("http://me:p%40w%3A%25@p:1", Proxy("p", 1, "me", "p@w:%"), "http://me:***@p:1"),
    ("http://m%C3%BC:a:b@p:1", Proxy("p", 1, "mü", "a:b"), "http://mü:***@p:1"),
    ("http://:token@p:1", Proxy("p", 1, "", "token"), "http://:***@p:1"),
])
def test_proxies_that_are_taken(text: str, proxy: Proxy, shown: str) -> None:
    assert proxy_url(text) == proxy
    assert str(proxy) == shown
    assert hash(proxy) == hash(proxy_url(text))


@pytest.mark.parametrize("text", [
    "", "http://", f"http://me:{SECRET}@", f"http://me:{SECRET}@p", f"http://me:{SECRET}@p:0",
    f"http://me:{SECRET}@p:99999", f"http://me:{SECRET}@p:1/path", f"http://me:{SECRET}@p:1?x",
    f"http://me:{SECRET}@-p:1", f"http://me:{SECRET}@[::g]:1", f"http://me:{SECRET}@::1:1",
    f"http://me:{SECRET}%@p:1", f"http://me:{SECRET}%zz@p:1", f"http://me:{SECRET}%ff@p:1",
    f"http://me:{SECRET}%0a@p:1", f"http://me:{SECRET}%00@p:1", f"http://me:{SECRET}/@p:1",
    f"http://me:{SECRET} @p:1", f"http://me:{SECRET}@p:1 ", f"http://me:{SECRET}ü@p:1",
    f"http://me:{SECRET}@x@p:1", f"https://me:{SECRET}@p:1", f"socks5://me:{SECRET}@p:1",
    f"me:{SECRET}@p:1", f"http://me:{SECRET}{'x' * 1024}@p:1", f"http://p:{SECRET}",
])
def test_proxies_that_are_refused_without_a_word_of_them(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError) as caught:
        proxy_url(text)
    assert SECRET not in str(caught.value)
    found = problems_of(agent, tmp_path, f'version: 1\nhosts: {{a: {{address: b, proxy: "{text}"}}}}\n')
    assert len(found) == 1 and SECRET not in found[0]


@pytest.mark.parametrize("entry", [
    f"{{address: 'http://me:{SECRET}@p:1'}}", f"{{address: 'me:{SECRET}@p'}}",
    f"{{transport: wss, url: 'http://me:{SECRET}@p:1'}}", f"{{transport: wss, url: 'wss://me:{SECRET}@p/'}}",
    f"{{transport: wss, url: 'wss://me:{SECRET}@p:x/'}}", f"{{transport: wss, url: 'wss://me:{SECRET}/@p'}}",
    f"{{address: b, proxy: ['http://me:{SECRET}@p:1']}}",
    f"{{address: b, proxy: {{user: me, password: '{SECRET}'}}}}",
])
def test_a_password_in_the_wrong_place_is_not_shown_either(tmp_path: Path, entry: str) -> None:
    assert SECRET not in "".join(problems_of(agent, tmp_path, f"version: 1\nhosts: {{a: {entry}}}\n"))


@pytest.mark.parametrize("url", [
    f"http://me:{SECRET}@p:1", f"me:{SECRET}@p:1", f"http://{SECRET}@p:1", f"http://me:a@{SECRET}/@p:1"])
@pytest.mark.parametrize("text", [
    "node: '%s'", "'%s': 1", "hosts: {a: '%s'}", "hosts: {'%s': {address: b}}\nrules: [{connect: x}]",
    "hosts: {a: {address: b, fingerprint: '%s'}}", "hosts: {a: {address: b, port: '%s'}}",
    "hosts: {a: {address: b, ca: '%s'}}", "rules: [{connect: '%s'}]", "rules: ['%s']",
    "rules: [{match: {class: '%s'}, ignore: true}]", "rules: !<%s> []"])
def test_a_url_shows_no_password_wherever_it_stands(tmp_path: Path, text: str, url: str) -> None:
    found = "".join(problems_of(agent, tmp_path, f"version: 1\n{text % url}\n"))
    assert SECRET not in found
    assert "…@p:1" in found


def test_a_host_with_a_proxy_shows_no_password(tmp_path: Path) -> None:
    policy = agent(tmp_path, f"version: 1\nhosts: {{a: {{address: b, proxy: 'http://me:{SECRET}@p:1'}}}}\n")
    (host,) = policy.hosts
    assert host.proxy == Proxy("p", 1, "me", SECRET)
    for shown in (repr(policy), repr(host), str(host.proxy), f"{host.proxy}", repr(host.proxy)):
        assert SECRET not in shown
    assert policy == AgentPolicy(node=policy.node, hosts=(Host("a", "b", proxy=host.proxy),))


@given(st.text(max_size=80) | st.text(max_size=80).map("http://{}".format)
       | st.text("ab:@/?#[]%0123456789.", max_size=40).map("http://{}".format))
def test_any_text_is_a_proxy_or_a_value_error(text: str) -> None:
    try:
        proxy = proxy_url(text)
    except ValueError as error:
        assert str(error).isprintable()
    else:
        assert 1 <= proxy.port <= 65535 and proxy.host
