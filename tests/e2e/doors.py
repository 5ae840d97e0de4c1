"""Knocking at ports of this machine, as somebody who is not known."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import aiohttp

_LISTENS = "0A"


async def answer_of(port: int, asked: str) -> int:
    """The status of `/path` or `POST /path` at 127.0.0.1. Raises aiohttp.ClientError when nobody listens."""
    method, path = ("GET", asked) if asked.startswith("/") else asked.split()
    body = {"type": "SUBSCRIBE"} if method == "POST" else None
    url = f"http://127.0.0.1:{port}{path}"
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, json=body) as answer,
    ):
        return answer.status


def listening_at(port: int) -> set[str]:
    """The addresses at which something listens on a port, by the kernel's tables of this namespace; v6 in its hex."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            address, _, number = local.partition(":")
            if state == _LISTENS and int(number, 16) == port:
                v4 = socket.inet_ntoa(struct.pack("=I", int(address[:8], 16)))
                found.add(v4 if table == "tcp" else address)
    return found
