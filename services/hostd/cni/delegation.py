"""Addresses of another IPAM plugin (host-local, static) under our main plugin."""

from __future__ import annotations

from ipaddress import ip_interface, ip_network

import orjson

from services.hostd.cni.model import LATEST, SINCE, VERSIONS, CniError, Code, Command
from services.hostd.cni.ports import IpamPlugins
from services.hostd.cni.request import Ask
from services.hostd.cni.result import read
from services.hostd.model import Address, Caller

BEFORE_LATEST = "1.0.0"  # says the same where 1.1.0 does
DEFAULT = "0.0.0.0/0"


class Delegation:
    """Calls of the IPAM plugin that a configuration names; with none named, nothing is done."""

    def __init__(self, plugins: IpamPlugins) -> None:
        self._plugins = plugins

    async def add(self, ask: Ask, caller: Caller) -> Caller:
        """The caller with the address, the routes and the dns that the plugin gives.

        Raises CniError, also for what it gave and can't be used: a DEL is due then.
        """
        if not ask.delegate:
            return caller
        _, stdin = await self._prepared(ask)
        said = await self._plugins.run(ask.delegate, Command.ADD, ask.call.env, stdin)
        return _with_given(ask, said, caller)

    async def delete(self, ask: Ask) -> None:
        """Have it forget the attachment."""
        await self._run(ask, Command.DEL)

    async def check(self, ask: Ask) -> None:
        """Ask whether it still knows of the attachment."""
        await self._run(ask, Command.CHECK)

    async def gc(self, ask: Ask) -> None:
        """Tell it what is valid, if it knows how to listen."""
        await self._run(ask, Command.GC)

    async def status(self, ask: Ask) -> None:
        """Ask whether it could give an address, if it knows how to say."""
        await self._run(ask, Command.STATUS)

    async def _run(self, ask: Ask, command: Command) -> None:
        if not ask.delegate:
            return
        version, stdin = await self._prepared(ask)
        if VERSIONS.index(version) >= VERSIONS.index(SINCE.get(command, VERSIONS[0])):
            await self._plugins.run(ask.delegate, command, ask.call.env, stdin)

    async def _prepared(self, ask: Ask) -> tuple[str, bytes]:
        """The configuration in a version that the plugin knows: the asked one, or the one before the latest."""
        env, raw = ask.call.env, dict(ask.raw)
        known = await self._plugins.versions(ask.delegate, env.get("CNI_PATH", ""))
        version = ask.conf.version
        if version == LATEST and version not in known:
            version = BEFORE_LATEST
        if version not in known:
            raise CniError(
                Code.VERSION,
                f"{ask.delegate} does not know CNI {ask.conf.version}",
                f"it knows {', '.join(known)}",
            )
        raw["cniVersion"] = version
        if isinstance(ask.conf.prev, dict):
            raw["prevResult"] = {**ask.conf.prev, "cniVersion": version}
        return version, orjson.dumps(raw)


def _with_given(ask: Ask, said: bytes, caller: Caller) -> Caller:
    try:
        result = read(orjson.loads(said))
    except ValueError as error:
        raise CniError(Code.DECODE, f"{ask.delegate} did not answer in JSON", str(error)) from None
    if ask.conf.vlan is None:
        raise CniError(Code.CONFIG, "vlan is missing", f"{ask.delegate} does not know it")
    ips = [ip_interface(each.address) for each in result.ips]
    if [each.version for each in ips] != [4]:
        given = ", ".join(map(str, ips)) or "nothing"
        raise CniError(
            Code.CONFIG, f"{ask.delegate} must give one IPv4 address", f"it gave {given}"
        )
    gateway = result.ips[0].gateway
    if other := [each.dst for each in result.routes if ip_network(each.dst).version != 4]:
        raise CniError(Code.CONFIG, f"{ask.delegate} gave a route that leads nowhere", other[0])
    default = [each for each in result.routes if each.dst == DEFAULT]
    address = Address(
        ip=str(ips[0].ip),
        prefix=ips[0].network.prefixlen,
        gateway=default[0].gw or gateway if default else gateway,
        vlan=ask.conf.vlan,
        generation=0,
    )
    others = tuple(each for each in result.routes if each.dst != DEFAULT)
    changes = {
        "given": address,
        "routes": (*others, *caller.routes),
        "default_route": bool(default),
        "dns": caller.dns or dict(result.dns),
    }
    return caller.model_copy(update=changes)
