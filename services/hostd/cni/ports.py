"""What the CNI plugins need besides hostd's own ports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from services.hostd.cni.model import Command


class DelQueue(Protocol):
    """DELs that the shim kept while hostd did not answer; one an attachment and plugin, by name.

    The shim writes, hostd takes. Every method raises Unavailable.
    """

    async def names(self) -> tuple[str, ...]:
        """All there are, sorted."""
        ...

    async def take(self, name: str) -> bytes | None:
        """The call, None when there is none (any more). It is given again until `done` or `refuse`."""
        ...

    async def done(self, name: str) -> None:
        """What was taken is done with; one that came meanwhile stays."""
        ...

    async def refuse(self, name: str) -> None:
        """What was taken can never be done: set it aside for a person to look at."""
        ...


class IpamPlugins(Protocol):
    """Other IPAM plugins on this host."""

    async def versions(self, kind: str, path: str) -> tuple[str, ...]:
        """The versions of CNI that a plugin knows; `path` is CNI_PATH. Raises CniError when there is no such plugin."""
        ...

    async def run(self, kind: str, command: Command, env: Mapping[str, str], stdin: bytes) -> bytes:
        """What it prints. Raises CniError: what the plugin says, or that it failed or took too long."""
        ...


def entry_of(plugin: str, container: str, ifname: str) -> str:
    """The name of a kept DEL, as the shim makes it; the parts have no colon."""
    return f"{plugin}:{container}:{ifname}"
