"""What hostd writes into OVSDB and reads there: pure operations on rows, and views of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.hostd.model import Bandwidth, PortView, SwitchPort
from services.hostd.ovsdb import Operation, Replica, as_map, as_set, one, to_map

ATTACHMENT_KEY, CONTAINER_KEY, CLUSTER_KEY = (
    "gantry-attachment",
    "gantry-container",
    "gantry-cluster",
)
NETNS_KEY, GENERATION_KEY = "gantry-netns", "gantry-generation"
QUEUEING = "linux-htb"
EMPTY = ["set", []]
COMPARED = ("ofport_request", "ingress_policing_rate")
# A policer's bucket holds an eighth of a second, and at least two full segments.
BURST_PART, LEAST_BURST_KBIT = 8, 1024


@dataclass(frozen=True, slots=True)
class BridgeSettings:
    """The cluster's bridge. `datapath_type` "netdev" runs without the kernel's module, "system" with it.

    `uplinks` are interfaces of the host that carry all VLANs to the other hosts.
    """

    name: str
    cluster: str
    datapath_type: str = "netdev"
    fail_mode: str = "secure"
    uplinks: tuple[str, ...] = ()


def bump_next_cfg() -> list[Operation]:
    where: list[str] = []
    return [
        {
            "op": "mutate",
            "table": "Open_vSwitch",
            "where": where,
            "mutations": [["next_cfg", "+=", 1]],
        },
        {"op": "select", "table": "Open_vSwitch", "where": where, "columns": ["next_cfg"]},
    ]


def mutate_ports(bridge: str, how: str, ports: object) -> Operation:
    return {
        "op": "mutate",
        "table": "Bridge",
        "where": [["name", "==", bridge]],
        "mutations": [["ports", how, ports]],
    }


def new_bridge(bridge: BridgeSettings) -> list[Operation]:
    """A bridge with its internal port."""
    row = {
        "name": bridge.name,
        "datapath_type": bridge.datapath_type,
        "fail_mode": bridge.fail_mode,
        "external_ids": to_map({CLUSTER_KEY: bridge.cluster}),
        "ports": ["named-uuid", "port"],
    }
    interface = {"name": bridge.name, "type": "internal"}
    port = {"name": bridge.name, "interfaces": ["named-uuid", "interface"]}
    bridges = [["bridges", "insert", ["set", [["named-uuid", "bridge"]]]]]
    return [
        {"op": "insert", "table": "Interface", "uuid-name": "interface", "row": interface},
        {"op": "insert", "table": "Port", "uuid-name": "port", "row": port},
        {"op": "insert", "table": "Bridge", "uuid-name": "bridge", "row": row},
        {"op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": bridges},
    ]


def own_bridge(bridge: BridgeSettings) -> Operation:
    """A bridge that is there already gets our mark and our mode; its datapath stays as it is."""
    marks = to_map({CLUSTER_KEY: bridge.cluster})
    return _update("Bridge", bridge.name, {"fail_mode": bridge.fail_mode, "external_ids": marks})


def put_uplinks(replica: Replica, bridge: BridgeSettings) -> list[Operation]:
    """The operations after which the bridge has its uplinks: ports without a tag, so trunks of all VLANs."""
    known = replica.by_name("Port")
    operations: list[Operation] = []
    for n, name in enumerate(each for each in bridge.uplinks if each not in known):
        port = {"name": name, "interfaces": ["named-uuid", f"i{n}"]}
        operations += [
            {"op": "insert", "table": "Interface", "uuid-name": f"i{n}", "row": {"name": name}},
            {"op": "insert", "table": "Port", "uuid-name": f"p{n}", "row": port},
            mutate_ports(bridge.name, "insert", ["set", [["named-uuid", f"p{n}"]]]),
        ]
    return operations


def put_ports(
    replica: Replica, bridge: BridgeSettings, ports: Sequence[SwitchPort]
) -> list[Operation]:
    """The operations after which the bridge has these ports; those it has as wanted need none."""
    known, interfaces = replica.by_name("Port"), replica.by_name("Interface")
    operations, queueing = _put_limits(replica, bridge, ports)
    added = []
    for n, port in enumerate(ports):
        marks = to_map(
            {
                ATTACHMENT_KEY: port.attachment,
                CONTAINER_KEY: port.container,
                NETNS_KEY: port.netns,
                GENERATION_KEY: port.generation,
            }
        )
        limit = port.bandwidth.ingress_kbit
        qos = queueing[limit] if limit is not None else EMPTY
        row = {"tag": port.vlan, "external_ids": marks, "qos": qos}
        policing = _policing(port)
        if port.name in known:
            asked = {"ofport_request": port.ofport, **policing}
            there = interfaces[port.name][1]
            if any(one(there[column]) != asked[column] for column in COMPARED):
                operations.append(_update("Interface", port.name, asked))
            operations.append(_update("Port", port.name, row))
            continue
        added.append(["named-uuid", f"p{n}"])
        interface_row = {
            "name": port.name,
            "ofport_request": port.ofport,
            "external_ids": marks,
            **policing,
        }
        port_row = {"name": port.name, "interfaces": ["named-uuid", f"i{n}"], **row}
        operations += [
            {"op": "insert", "table": "Interface", "uuid-name": f"i{n}", "row": interface_row},
            {"op": "insert", "table": "Port", "uuid-name": f"p{n}", "row": port_row},
        ]
    if added:
        operations.append(mutate_ports(bridge.name, "insert", ["set", added]))
    return operations


def _policing(port: SwitchPort) -> dict[str, object]:
    """What the switch does about a container that sends too much: 0 is nothing."""
    rate = port.bandwidth.egress_kbit or 0
    burst = max(rate // BURST_PART, LEAST_BURST_KBIT) if rate else 0
    return {"ingress_policing_rate": rate, "ingress_policing_burst": burst}


def _put_limits(
    replica: Replica, bridge: BridgeSettings, ports: Sequence[SwitchPort]
) -> tuple[list[Operation], dict[int, list[str]]]:
    """Operations that make what limits lack, and a reference to each (by kbit/s). All ports of a limit share it."""
    there = limits(replica, bridge.cluster)
    operations: list[Operation] = []
    found: dict[int, list[str]] = {}
    for limit in sorted({p.bandwidth.ingress_kbit for p in ports} - {None}):  # type: ignore[type-var]
        assert limit is not None
        if limit in there:
            found[limit] = ["uuid", there[limit]]
            continue
        found[limit] = ["named-uuid", f"q{limit}"]
        row = {
            "type": QUEUEING,
            "other_config": to_map({"max-rate": str(limit * 1000)}),
            "external_ids": to_map({CLUSTER_KEY: bridge.cluster}),
        }
        operations.append({"op": "insert", "table": "QoS", "uuid-name": f"q{limit}", "row": row})
    return operations, found


def limits(replica: Replica, cluster: str) -> dict[int, str]:
    """The cluster's QoS rows: kbit/s -> uuid."""
    found = {}
    for uuid, row in sorted(replica.tables["QoS"].items()):
        rate = as_map(row["other_config"]).get("max-rate", "")
        ours = as_map(row["external_ids"]).get(CLUSTER_KEY) == cluster
        if ours and row["type"] == QUEUEING and rate.isdecimal():
            found[int(rate) // 1000] = uuid
    return found


def drop_limits(replica: Replica, bridge: BridgeSettings) -> list[Operation]:
    """The operations after which no QoS row of the cluster's is there that no port uses."""
    used = {one(row["qos"]) for row in replica.tables["Port"].values()}
    unused = sorted(set(limits(replica, bridge.cluster).values()) - used)
    return [
        {"op": "delete", "table": "QoS", "where": [["_uuid", "==", ["uuid", uuid]]]}
        for uuid in unused
    ]


def _update(table: str, name: str, row: dict[str, object]) -> Operation:
    return {"op": "update", "table": table, "where": [["name", "==", name]], "row": row}


def uplinks(replica: Replica, bridge: BridgeSettings) -> frozenset[str]:
    """Those uplinks that the switch has as ports of the bridge, trunks, without an error."""
    entry = replica.by_name("Bridge").get(bridge.name)
    interfaces = replica.by_name("Interface")
    rows = [replica.tables["Port"].get(uuid) for uuid in as_set(entry[1]["ports"])] if entry else []
    found = {row["name"] for row in rows if row is not None and one(row["tag"]) is None}
    good = (n for n in found & set(bridge.uplinks) if n in interfaces)
    return frozenset(
        name
        for name in good
        if one(interfaces[name][1]["error"]) is None
        and (one(interfaces[name][1]["ofport"]) or 0) > 0
    )


def uplink_numbers(replica: Replica, bridge: BridgeSettings) -> list[int]:
    """The OpenFlow numbers of the uplinks that work."""
    interfaces = replica.by_name("Interface")
    return [one(interfaces[name][1]["ofport"]) for name in sorted(uplinks(replica, bridge))]


def views(replica: Replica, bridge: str) -> dict[str, PortView]:
    """The ports of the bridge that carry an attachment's mark, by name."""
    interfaces = replica.by_name("Interface")
    entry = replica.by_name("Bridge").get(bridge)
    found = {}
    for uuid in as_set(entry[1]["ports"]) if entry else ():
        row = replica.tables["Port"].get(uuid)
        marks = as_map(row["external_ids"]) if row else {}
        if row is None or ATTACHMENT_KEY not in marks or row["name"] not in interfaces:
            continue
        interface = interfaces[row["name"]][1]
        number = one(interface["ofport"])
        queueing = replica.tables["QoS"].get(one(row["qos"]) or "", {"other_config": ["map", []]})
        rate = as_map(queueing["other_config"]).get("max-rate", "0")
        found[row["name"]] = PortView(
            name=row["name"],
            vlan=one(row["tag"]),
            ofport=number if number is not None and number > 0 else None,
            attachment=marks[ATTACHMENT_KEY],
            container=marks.get(CONTAINER_KEY, ""),
            netns=marks.get(NETNS_KEY, ""),
            generation=marks.get(GENERATION_KEY, ""),
            error=one(interface["error"]),
            bandwidth=Bandwidth.model_construct(
                egress_kbit=interface["ingress_policing_rate"] or None,
                ingress_kbit=int(rate) // 1000 or None,
            ),
        )
    return found


def serves(view: PortView | None, port: SwitchPort) -> bool:
    return view is not None and (view.attachment, view.ofport) == (port.attachment, port.ofport)


def judge(view: PortView | None, port: SwitchPort) -> PortView:
    """The view, with an error when the switch did not give what was asked for."""
    if view is None:
        return PortView(port.name, None, None, port.attachment, port.container, "it vanished")
    if view.error is None and view.ofport != port.ofport:
        reason = f"the switch gave it number {view.ofport}, not {port.ofport}"
        return PortView(view.name, view.vlan, view.ofport, view.attachment, view.container, reason)
    return view
