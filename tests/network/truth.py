"""Does a site have exactly what it should: attachments, ports, rules, links, namespaces, addresses, and nothing else.

Every part is asked itself: OVSDB, the switch's tables, the kernel, hostd, ipam. What is to be expected is what the
callers were answered, as hostd's views.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.hostd.flows import OWNER_COOKIE, OWNER_MASK, SHARED_RULES
from services.hostd.registry import SUFFIX
from tests.network import places
from tests.network.site import NETWORKS, UPLINK, NetHost, Site

Views = Mapping[str, Mapping[str, Any]]
"""hostd's views by container; `leave` is the engine's id that was given leave to start, or None."""

_COOKIE = re.compile(r"cookie=0x([0-9a-f]+), ?")
STRANGE = -2  # no number, not even that of a port which has none
_OWN = "PORT,vlan_tci=0x0000/0x1fff,dl_src=MAC"
RULES = (
    "priority=100,PORT actions=drop",
    f"priority=110,arp,{_OWN},arp_spa=IP,arp_sha=MAC actions=NORMAL",
    f"priority=110,ip,{_OWN},nw_src=IP actions=goto_table:1",
)
"""What a port's rules are, as ovs-ofctl tells them, in order."""


async def differences(site: Site, wanted: Mapping[str, Views]) -> list[str]:
    """What is not as it should be; `wanted` has the views by host's name."""
    found = []
    for host in site.hosts:
        views = wanted.get(host.name, {})
        listed = {name: _place(each) for name, each in (await host.attachments()).items()}
        found += _compare(
            f"{host.name}: attachments", listed, {n: _place(v) for n, v in views.items()}
        )
        found += await asyncio.to_thread(_differences, host, views)
    return found + await _ipam_differences(site, wanted)


def _differences(host: NetHost, views: Views) -> list[str]:
    names = {_id(view): f"{host.link_prefix}{_id(view)}"[:15] for view in views.values()}
    ports = _ports(host)
    wanted_ports = {
        names[_id(view)]: (view["vlan"], container) for container, view in views.items()
    }
    has_ports = {name: (port.tag, port.container) for name, port in ports.items()}
    links = {each for each in places.links(host.namespace) if each.startswith(host.link_prefix)}
    namespaces = places.bound(host.run_dir / "netns")
    inner = {
        each: places.addresses(str(host.run_dir / "netns" / each)) for each in sorted(namespaces)
    }
    wanted_inner = {_id(view): (f"{view['ip']}/{view['prefix']}",) for view in views.values()}
    registry = places.bound(host.run_dir / "netns-reg")
    leave = {
        each for v in views.values() if v["leave"] for each in (v["leave"], f"{_id(v)}{SUFFIX}")
    }
    return [
        *_compare(f"{host.name}: ports", has_ports, wanted_ports),
        *_compare(f"{host.name}: links", dict.fromkeys(links), dict.fromkeys(names.values())),
        *_compare(f"{host.name}: addresses in namespaces", inner, wanted_inner),
        *_compare(f"{host.name}: registry", dict.fromkeys(registry), dict.fromkeys(leave)),
        *_rule_differences(host, ports, views),
    ]


def _compare(what: str, has: Mapping[Any, Any], wanted: Mapping[Any, Any]) -> list[str]:
    if has == wanted:
        return []
    more = {key: value for key, value in has.items() if wanted.get(key, ...) != value}
    less = {key: value for key, value in wanted.items() if has.get(key, ...) != value}
    return [f"{what}: there is {more}, wanted is {less}"]


def _id(view: Mapping[str, Any]) -> str:
    return Path(view["namespace"]).name


def _place(view: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(view[key] for key in ("ip", "namespace", "inode", "address_generation", "ready"))


# -- Open vSwitch


@dataclass(frozen=True)
class Port:
    """A port as OVSDB has it."""

    tag: int | None
    container: str
    ofport: int


def _ports(host: NetHost) -> dict[str, Port]:
    """All ports of the bridge but its own and the uplink."""
    on_bridge = set(host.vsctl("list-ports", host.bridge).split()) - {UPLINK}
    ofports = {row["name"]: row["ofport"] for row in _table(host, "Interface", "name,ofport")}
    found = {}
    for row in _table(host, "Port", "name,tag,external_ids"):
        if row["name"] in on_bridge:
            marks = dict(row["external_ids"][1])
            tag = row["tag"] if isinstance(row["tag"], int) else None
            ofport = ofports.get(row["name"])
            number = ofport if isinstance(ofport, int) else -1
            found[row["name"]] = Port(tag, marks.get("gantry-container", ""), number)
    return found


def _table(host: NetHost, table: str, columns: str) -> list[dict[str, Any]]:
    told = json.loads(host.vsctl("--format=json", f"--columns={columns}", "list", table))
    return [dict(zip(told["headings"], row, strict=True)) for row in told["data"]]


def _rules(host: NetHost) -> dict[int, list[str]]:
    """All rules, by the port's number in hostd's mark; those without it under STRANGE."""
    found: dict[int, list[str]] = {}
    for line in host.ofctl("dump-flows", "--no-stats", "--no-names").splitlines():
        if (match := _COOKIE.search(line)) is None:
            continue
        cookie = int(match[1], 16)
        ours = cookie & OWNER_MASK == OWNER_COOKIE
        number = cookie & ~OWNER_MASK if ours else STRANGE
        found.setdefault(number, []).append(line.replace(match[0], "").strip())
    return found


def _rule_differences(host: NetHost, ports: Mapping[str, Port], views: Views) -> list[str]:
    """All ports must have RULES with their own number, MAC and address; there must be the shared ones and no others."""
    rules = _rules(host)
    numbers = {port.ofport: port.container for port in ports.values()}
    found = _compare(
        f"{host.name}: numbers with rules", dict.fromkeys(rules), dict.fromkeys([0, *numbers])
    )
    if len(shared := rules.get(0, [])) != len(SHARED_RULES):
        found.append(f"{host.name}: {len(shared)} shared rules, not {len(SHARED_RULES)}: {shared}")
    shapes = {
        number: _shape(rules.get(number, []), number, views[container])
        for number, container in numbers.items()
        if container in views
    }
    for number, shape in shapes.items():
        if shape != RULES:
            found.append(f"{host.name}: rules of {numbers[number]}: {shape}")
    return found


def _shape(rules: Iterable[str], number: int, view: Mapping[str, Any]) -> tuple[str, ...]:
    """The rules with the port's own number, MAC and address replaced by what they are."""
    own = (
        (rf"in_port={number}\b", "PORT"),
        (re.escape(view["mac"]), "MAC"),
        (rf"{re.escape(view['ip'])}\b", "IP"),
    )
    shaped = []
    for rule in rules:
        for pattern, name in own:
            rule = re.sub(pattern, name, rule)
        shaped.append(rule)
    return tuple(sorted(shaped))


# -- ipam


async def _ipam_differences(site: Site, wanted: Mapping[str, Views]) -> list[str]:
    found = []
    for each in NETWORKS:
        name = str(each["name"])
        used = await site.used(name)
        has = {
            row["address"]: (row["attachment"], row["host"], row["generation"])
            for row in used
            if row["state"] == "allocated"
        }
        expected = {
            view["ip"]: (view["attachment"], host, view["address_generation"])
            for host, views in wanted.items()
            for view in views.values()
            if view["network"] == name
        }
        found += _compare(f"ipam: {name}", has, expected)
        odd = {row["address"]: row["state"] for row in used if row["state"] == "quarantined"}
        found += _compare(f"ipam: quarantine of {name}", odd, {})
    return found
