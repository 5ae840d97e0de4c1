"""What containers use, as their hosts count it."""

from __future__ import annotations

from libs.client.model import View


class Traffic(View):
    """Traffic of a container's interface, as the container sees it, since the interface was made."""

    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_packets: int = 0
    tx_packets: int = 0
    rx_dropped: int = 0
    tx_dropped: int = 0


class InstanceStats(View):
    """Numbers of an instance's container at a moment (`at`, Unix seconds).

    `cpu_ns` is the processor time since its start: two answers tell how many processors it uses. `mem_bytes` is without
    what the page cache could give back; `network` is None where the host has no link of it.
    """

    instance: str
    at: float
    cpu_ns: int = 0
    mem_bytes: int = 0
    mem_limit_bytes: int = 0
    pids: int = 0
    network: Traffic | None = None


def cpus_between(before: InstanceStats, after: InstanceStats) -> float | None:
    """Processors used on average between two answers; None where they are not of one container, or of one moment."""
    passed_s = after.at - before.at
    used_ns = after.cpu_ns - before.cpu_ns
    return None if passed_s <= 0 or used_ns < 0 else used_ns / passed_s / 1e9
