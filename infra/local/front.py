"""HAProxy in front of several gateways, as people and tools reach them: one address, any of them behind it."""

from __future__ import annotations

from collections.abc import Mapping


def render(port: int, gateways: Mapping[str, int]) -> str:
    """The text of haproxy.cfg: listens on loopback at `port`; `gateways` has each one's own port, by name."""
    servers = "\n".join(
        f"    server {name} 127.0.0.1:{own} check inter 500ms fall 2 rise 1"
        for name, own in gateways.items()
    )
    return _TEXT.format(port=port, servers=servers)


_TEXT = """\
global
    fd-hard-limit 20000
defaults
    mode http
    timeout connect 2s
    timeout client 1h
    timeout server 1h
    timeout check 2s
    option redispatch 1
    retries 3
frontend gateway
    bind 127.0.0.1:{port}
    default_backend gateways
backend gateways
    balance roundrobin
    option httpchk GET /readyz
{servers}
"""
