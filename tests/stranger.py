"""A station beyond an uplink that answers for addresses, in whatever VLAN it is asked."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv6Address

from tests import frames as f

STRANGER_MAC = "02:aa:00:00:00:01"


@contextmanager
def stranger(namespace: str, ifname: str, claims: set[str]) -> Iterator[None]:
    """Answer ARP requests and neighbour solicitations for `claims`, which may change, by one interface."""
    sock = f.raw_socket(namespace, ifname)
    ended = threading.Event()

    def run() -> None:
        with suppress(PermissionError):  # who asks waits for 0.3 s only
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -19)
        while not ended.is_set():
            try:
                got = f.receive(sock)
            except OSError:  # told once that the interface went down; it may come back
                continue
            if got is None:
                continue
            frame, vlan = got
            reply = _answer(frame, claims)
            if reply is not None:
                sock.send(frame[6:12] + f.tagged(f.QTAG, vlan, f.ethernet(STRANGER_MAC, *reply)))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        sock.close()


def _answer(frame: bytes, claims: set[str]) -> tuple[int, bytes] | None:
    kind, body = int.from_bytes(frame[12:14]), frame[14:]
    if kind == f.ARP and body[6:8] == b"\0\1":
        asked = socket.inet_ntoa(body[24:28])
        return (f.ARP, f.arp(2, STRANGER_MAC, asked, "0.0.0.0")) if asked in claims else None
    if kind == f.IPV6 and body[6] == f.ICMPV6 and body[40] == 135:
        asked = str(IPv6Address(body[48:64]))
        if asked in claims:
            return f.IPV6, f.discovery(136, asked, "ff02::1", asked, STRANGER_MAC)
    return None
