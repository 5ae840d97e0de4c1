"""Generations of hosts' keys: which key of a host is good, by name; 0 for a host that was never removed.

The gateway decides them. Whoever lets hosts in asks it for all that are not 0, again and again, and keeps them in its
own store too: so a removal holds while the gateway is away, and over a restart.
"""

from __future__ import annotations

from collections.abc import Mapping

from libs.common.errors import Unavailable
from libs.common.http import ServiceClient, call_json

PATH = "/v1/host-generations"


class Generations:
    """What this process has heard."""

    def __init__(self) -> None:
        self._known: Mapping[str, int] = {}

    def current(self) -> Mapping[str, int]:
        """All of them; the very same mapping until one changes."""
        return self._known

    def learn(self, told: Mapping[str, int]) -> None:
        """Take up what is newer: generations only grow."""
        newer = {host: told[host] for host in told if told[host] > self._known.get(host, 0)}
        if newer:
            self._known = {**self._known, **newer}


async def ask_generations(peers: ServiceClient) -> dict[str, int]:
    """Those that the gateway knows. Raises Unavailable."""
    told = await call_json(peers, "gateway", "GET", PATH)
    try:
        return {str(host): int(generation) for host, generation in told["generations"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Unavailable("the gateway did not tell of hosts' generations") from None
