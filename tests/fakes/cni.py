"""What hostd's CNI plugins have besides hostd's ports: kept DELs, and another IPAM plugin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from libs.common.errors import Unavailable
from services.hostd.cni.model import CniError, Code, Command


@dataclass
class FakeQueue:
    """DelQueue in memory; `kept` is what the shim wrote, `taken` what is being worked on."""

    kept: dict[str, bytes] = field(default_factory=dict)
    taken: dict[str, bytes] = field(default_factory=dict)
    refused: dict[str, bytes] = field(default_factory=dict)
    broken: bool = False

    async def names(self) -> tuple[str, ...]:
        """See DelQueue."""
        self._arrive()
        return tuple(sorted({*self.kept, *self.taken}))

    async def take(self, name: str) -> bytes | None:
        """See DelQueue."""
        self._arrive()
        if name in self.kept:
            self.taken[name] = self.kept.pop(name)
        return self.taken.get(name)

    async def done(self, name: str) -> None:
        """See DelQueue."""
        self._arrive()
        self.taken.pop(name, None)

    async def refuse(self, name: str) -> None:
        """See DelQueue."""
        self._arrive()
        self.refused[name] = self.taken.pop(name)

    def _arrive(self) -> None:
        if self.broken:
            raise Unavailable("kept DELs can't be read")


@dataclass
class FakeIpamPlugins:
    """IpamPlugins: one plugin, `host-local`, that gives rising addresses of 10.90.0.0/24 and knows CNI up to 1.0.0."""

    held: dict[tuple[str, str], str] = field(default_factory=dict)
    known: tuple[str, ...] = ("0.4.0", "1.0.0")
    calls: list[Command] = field(default_factory=list)
    result: dict[str, object] = field(default_factory=dict)  # more of, or otherwise in, its results
    fail: int = 0  # the code with which it fails

    async def versions(self, kind: str, path: str) -> tuple[str, ...]:
        """See IpamPlugins."""
        self._find(kind, path)
        return self.known

    async def run(self, kind: str, command: Command, env: Mapping[str, str], stdin: bytes) -> bytes:
        """See IpamPlugins."""
        self._find(kind, env.get("CNI_PATH", ""))
        self.calls.append(command)
        conf = orjson.loads(stdin)
        if conf["cniVersion"] not in self.known:
            raise CniError(Code.VERSION, f"{kind}: incompatible CNI versions")
        if self.fail:
            raise CniError(self.fail, f"{kind}: it failed")
        key = env["CNI_CONTAINERID"], env["CNI_IFNAME"]
        if command is Command.DEL:
            self.held.pop(key, None)
        elif command is Command.CHECK and key not in self.held:
            raise CniError(Code.PLUGIN, f"{kind}: it has no such container")
        elif command is Command.ADD:
            if key in self.held:
                raise CniError(Code.PLUGIN, f"{kind}: it has an address already")
            taken = {int(each.rpartition(".")[2]) for each in self.held.values()}
            number = next(n for n in range(2, 250) if n not in taken)
            self.held[key] = f"10.90.0.{number}"
            ips = [{"address": f"10.90.0.{number}/24", "gateway": "10.90.0.1"}]
            return orjson.dumps({"cniVersion": conf["cniVersion"], "ips": ips, **self.result})
        return b""

    def _find(self, kind: str, path: str) -> None:
        if kind != "host-local" or not path:
            raise CniError(Code.PLUGIN, f"there is no plugin {kind}", f"CNI_PATH is {path!r}")
