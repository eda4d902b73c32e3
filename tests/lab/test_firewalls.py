"""Through firewalls that leave one way open: an HTTP proxy, or a reverse proxy that passes WebSockets on."""
from __future__ import annotations

from . import encrypted, product
from .encrypted import MarkedStick, captured, in_clear, tls_stat
from .guest import Guest
from .pair import Pair
from .product import AGENT, SLOW, USBIPA

PROXY = 8888
TINYPROXY = """User tinyproxy
Group tinyproxy
Port 8888
Timeout 3600
LogLevel Connect
Syslog On
MaxClients 50
ConnectPort 3240
BasicAuth kitchen {password}
"""
HTTPS = 443
NGINX = """server {
    listen 443 ssl;
    listen [::]:443 ssl;
    server_name host;
    ssl_certificate /etc/nginx/lab.pem;
    ssl_certificate_key /etc/nginx/lab.key;
    location /usbip {
        proxy_pass http://127.0.0.1:3240;
        proxy_http_version 1.1;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection "upgrade";
        proxy_read_timeout 1h;
        proxy_buffering off;
    }
}
"""


def start_proxy(host: Guest, password: str) -> None:
    host.put("/etc/tinyproxy/tinyproxy.conf", TINYPROXY.format(password=password))
    host.run(["systemctl", "restart", "tinyproxy"], SLOW)
    until_listening(host, PROXY)


def until_listening(guest: Guest, port: int) -> None:
    guest.until(f"ss -Hltn 'sport = :{port}' | grep -q .", SLOW)


def certify(host: Guest, names: str = "DNS:host") -> bytes:
    """Gives nginx a certificate that nobody has signed but itself; returns it."""
    host.sh("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 "
            f"-subj '/CN=the lab' -addext subjectAltName={names} "
            "-addext keyUsage=critical,digitalSignature,keyCertSign "
            "-keyout /etc/nginx/lab.key -out /etc/nginx/lab.pem 2>&1", SLOW)
    return host.get("/etc/nginx/lab.pem")


def trust(node: Guest, certificate: bytes) -> None:
    """Has all of the node's programs trust *certificate*, as update-ca-certificates does."""
    node.put("/etc/ssl/certs/lab.pem", certificate)
    node.sh("cd /etc/ssl/certs && ln -sf lab.pem $(openssl x509 -hash -noout -in lab.pem).0")


def try_again(node: Guest, busid: str) -> None:
    """By hand, so that nobody waits for the agent's next attempt."""
    node.run(["usbip-agent", "connect", "-b", busid, "-r", encrypted.HOST], SLOW, check=False)


def until_told(node: Guest, busid: str, reason: str) -> None:
    """Waits until the reason of the device's state is this, and doctor says likewise, with a cure."""
    product.until_reason(node, busid, reason)
    said = node.run(["usbip-agent", "doctor", "--json"], SLOW, check=False).json["checks"]
    [finding] = [each for each in said if each["name"] == f"host {encrypted.HOST}"]
    assert finding["outcome"] == "failed" and finding["cure"], finding
    node.until(f"echo {finding['what']!r} | grep -qE '{reason}'", SLOW)


def test_an_http_proxy(pair: Pair) -> None:
    """TLS goes through it from end to end: so the kernel still encrypts."""
    node, host = pair.node, pair.host
    encrypted.listen(host)
    encrypted.only_port(node, host, PROXY)
    start_proxy(host, "open.sesame")
    code = encrypted.invite(host)
    said = product.failure(node, f"usbip-agent join {code}", 1)
    assert "host:3240: no answer for 10 s" in said and encrypted.dropped(node) > 0, said
    said = product.failure(node, f"usbip-agent join {code} --proxy http://kitchen:wrong@host:{PROXY}", 1)
    assert "wants other credentials (401" in said, said  # by the standard it were 407
    said = product.failure(node, f"usbip-agent join {code} --proxy http://host:{PROXY}", 1)
    assert "wants credentials (407 Proxy Authentication Required)" in said, said
    assert host.run(["usbipa", "nodes", "--json"], SLOW).json["nodes"] == []

    encrypted.enrol(pair, "--proxy", f"http://kitchen:open.sesame@host:{PROXY}")
    stick = MarkedStick()
    with captured(host):
        busid = encrypted.connected(pair, stick, "tls")
        assert host.disk_hash(stick) == stick.sha256
    assert in_clear(host, busid, encrypted.SIZE) == []
    assert tls_stat(node)["TlsCurrTxSw"] == tls_stat(host)["TlsCurrTxSw"] == 1
    assert product.imports(host)[busid]["transport"] == "tls"
    assert "open.sesame" not in node.journal(AGENT)

    host.run(["systemctl", "stop", "tinyproxy"], SLOW)
    until_told(node, busid, "the proxy host port 8888: connection refused")
    start_proxy(host, "another")
    try_again(node, busid)
    until_told(node, busid, "the proxy host port 8888 wants other credentials .401")
    host.run(["systemctl", "stop", USBIPA], SLOW)
    start_proxy(host, "open.sesame")
    try_again(node, busid)
    until_told(node, busid, "the proxy host port 8888 cannot reach host port 3240 .500")
    host.run(["systemctl", "start", USBIPA], SLOW)
    try_again(node, busid)
    product.until_state(node, busid, "connected")
    assert host.disk_hash(stick) == stick.sha256
    node.unplug(stick)
    encrypted.until_clean(pair)


def test_a_reverse_proxy(pair: Pair) -> None:
    """It ends the outer TLS; the one inside the WebSocket knows the node."""
    node, host = pair.node, pair.host
    encrypted.listen(host, "tls", "ws")
    encrypted.only_port(node, host, HTTPS)
    certificate = certify(host)
    host.put("/etc/nginx/sites-enabled/default", NGINX)
    host.run(["systemctl", "restart", "nginx"], SLOW)
    url = "wss://host/usbip"
    said = product.failure(node, f"usbip-agent join {encrypted.invite(host, where=url)}", 1)
    assert "certificate of host is not accepted" in said, said

    trust(node, certificate)
    encrypted.enrol(pair, where=url)
    stick = MarkedStick()
    with captured(host):
        busid = encrypted.connected(pair, stick, "wss")
        assert host.disk_hash(stick) == stick.sha256
    assert in_clear(host, busid, encrypted.SIZE) == []
    [imported] = product.imports(host).values()
    assert (imported["transport"], imported["node"]) == ("ws", encrypted.NODE)
    assert imported["peer"].startswith("127.0.0.1:")

    host.run(["systemctl", "stop", "nginx"], SLOW)
    until_told(node, busid, "connection refused")
    certify(host)
    host.run(["systemctl", "start", "nginx"], SLOW)
    try_again(node, busid)
    until_told(node, busid, "certificate of host is not accepted")
    trust(node, certify(host, "DNS:another"))
    host.run(["systemctl", "reload", "nginx"], SLOW)
    try_again(node, busid)
    until_told(node, busid, "certificate of host is not accepted: .*name")
    trust(node, certify(host))
    host.run(["systemctl", "stop", USBIPA], SLOW)
    host.run(["systemctl", "reload", "nginx"], SLOW)
    try_again(node, busid)
    until_told(node, busid, "host cannot reach usbipa behind it .502")
    host.run(["systemctl", "start", USBIPA], SLOW)
    try_again(node, busid)
    product.until_state(node, busid, "connected")
    assert host.disk_hash(stick) == stick.sha256
    node.unplug(stick)
    encrypted.until_clean(pair)
