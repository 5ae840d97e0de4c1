"""Results in the form of each version of CNI, and out of it."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from services.hostd.cni.model import CniError, Code, Interface, Ip, Result
from services.hostd.model import Hop

OLD = ("0.1.0", "0.2.0")  # ip4 and ip6 instead of lists; all that Mesos understands
NUMBERED = ("0.3.0", "0.3.1", "0.4.0")  # each address says its family
WITH_MTU = "1.1.0"
UNREADABLE = "another plugin's result can't be read"


def render(result: Result, version: str, prev: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The result as JSON of a version; what a plugin before in the chain made comes first."""
    if version in OLD:
        return _old(result, version)
    before = dict(prev or {})
    shift = len(before.get("interfaces") or ())
    content: dict[str, Any] = {
        **before,
        "cniVersion": version,
        "interfaces": [
            *(before.get("interfaces") or ()),
            *(_interface(each, version) for each in result.interfaces),
        ],
        "ips": [*(before.get("ips") or ()), *(_ip(each, version, shift) for each in result.ips)],
        "routes": [*(before.get("routes") or ()), *(_route(each) for each in result.routes)],
        "dns": dict(result.dns) or before.get("dns"),
    }
    return {key: value for key, value in content.items() if value}


def _old(result: Result, version: str) -> dict[str, Any]:
    content: dict[str, Any] = {"cniVersion": version}
    for key, family in (("ip4", 4), ("ip6", 6)):
        ips = [each for each in result.ips if _family(each.address) == family]
        if not ips:
            continue
        content[key] = {"ip": ips[0].address}
        if ips[0].gateway:
            content[key]["gateway"] = ips[0].gateway
        routes = [_route(each) for each in result.routes if _family(each.dst) == family]
        if routes:
            content[key]["routes"] = routes
    if result.dns:
        content["dns"] = dict(result.dns)
    return content


def _family(address: str) -> int:
    return ipaddress.ip_interface(address).version


def _interface(interface: Interface, version: str) -> dict[str, Any]:
    content: dict[str, Any] = {
        "name": interface.name,
        "mac": interface.mac,
        "mtu": interface.mtu if version == WITH_MTU else 0,
        "sandbox": interface.sandbox,
    }
    return {key: value for key, value in content.items() if value}


def _ip(ip: Ip, version: str, shift: int) -> dict[str, Any]:
    content: dict[str, Any] = {"address": ip.address}
    if version in NUMBERED:
        content["version"] = str(_family(ip.address))
    if ip.gateway:
        content["gateway"] = ip.gateway
    if ip.interface is not None:
        content["interface"] = ip.interface + shift
    return content


def _route(route: Hop) -> dict[str, Any]:
    return {"dst": route.dst, "gw": route.gw} if route.gw else {"dst": route.dst}


def read(content: object) -> Result:
    """A result in any version's form; interfaces are left out. Raises CniError (DECODE)."""
    try:
        return _read(content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CniError(Code.DECODE, UNREADABLE, str(error)) from None


def _read(content: Any) -> Result:
    ips: Sequence[Any] = content.get("ips") or ()
    routes: list[Any] = list(content.get("routes") or ())
    old = [content[key] for key in ("ip4", "ip6") if content.get(key)]
    found = [Ip(_checked(each["address"]), _gateway(each.get("gateway"))) for each in ips]
    for each in old:
        found.append(Ip(_checked(each["ip"]), _gateway(each.get("gateway"))))
        routes += each.get("routes") or ()
    return Result(
        ips=tuple(found),
        routes=tuple(
            Hop(dst=str(ipaddress.ip_network(each["dst"])), gw=_gateway(each.get("gw")))
            for each in routes
        ),
        dns={key: value for key, value in dict(content.get("dns") or {}).items() if value},
    )


def _checked(address: str) -> str:
    if "/" not in address:
        raise ValueError(f"{address!r} has no prefix length")
    return str(ipaddress.ip_interface(address))


def _gateway(address: str | None) -> str | None:
    return str(ipaddress.ip_address(address)) if address else None
