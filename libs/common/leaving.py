"""A process that ends in order takes its leave of the monitor: that another one is in its place then is no alert.

The monitor may be away: then it may tell of a restart that somebody asked for.
"""

from __future__ import annotations

from urllib.parse import quote

from libs.common.errors import GantryError
from libs.common.http import ServiceClient

LEAVES = "/v1/leaves"
TIMEOUT_S = 1.0  # the process has its own time to end in


async def take_leave(client: ServiceClient, run: str) -> None:
    """Say that the process that called itself so ends because it was told to."""
    path = f"{LEAVES}/{quote(run, safe='')}"
    try:
        await client.call("monitor", "PUT", path, timeout_s=TIMEOUT_S)
    except GantryError:
        pass  # a restart may be told of that was nobody's loss
