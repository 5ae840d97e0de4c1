"""SwitchDriver on Open vSwitch: ports by OVSDB, flows by OpenFlow.

A port asks for the OpenFlow number that its rules name already (`ofport_request`): the rules are there before the port
is, so one transaction adds a port and no frame ever passes unchecked. After a restart of the switch the numbers are
the same, and the bridge (fail_mode secure) passes nothing until the rules are back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from libs.common.clock import Clock
from libs.common.errors import Unavailable
from libs.common.telemetry import Log
from services.hostd import flows
from services.hostd.model import PortView, SwitchPort
from services.hostd.openflow import OpenFlowClient
from services.hostd.ovsdb import (
    Operation,
    OvsdbClient,
    Replica,
    as_map,
    as_set,
    one,
    to_map,
    uuid_set,
)

ATTACHMENT_KEY, CONTAINER_KEY, CLUSTER_KEY = (
    "gantry-attachment",
    "gantry-container",
    "gantry-cluster",
)
RECONNECT_S = 0.1
CONNECT_WAIT_S = 10.0


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


class OvsSwitch:
    """See SwitchDriver. `run` must run; calls made while there is no connection wait for one a little."""

    def __init__(self, db_socket: Path, bridge: BridgeSettings, *, clock: Clock, log: Log) -> None:
        self._db_socket = db_socket
        self._bridge = bridge
        self._clock = clock
        self._log = log
        self._db: OvsdbClient | None = None
        self._of: OpenFlowClient | None = None
        self._db_ready, self._of_ready = asyncio.Event(), asyncio.Event()
        self._restarted = asyncio.Event()
        self._changing = asyncio.Lock()

    # -- connections -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep both connections until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_ovsdb())
            group.create_task(self._keep_openflow())

    async def _keep_ovsdb(self) -> None:
        while True:
            try:
                self._db = client = await OvsdbClient.connect(str(self._db_socket))
                async with asyncio.TaskGroup() as group:
                    group.create_task(client.read_forever())
                    group.create_task(self._set_up_bridge(client))
            except* Unavailable as errors:
                self._log.warning("no connection to OVSDB", reason=str(errors.exceptions[0]))
            finally:
                self._db_ready.clear()
                if self._db is not None:
                    self._db.close()
            await self._clock.sleep(RECONNECT_S)

    async def _keep_openflow(self) -> None:
        path = str(self._db_socket.with_name(f"{self._bridge.name}.mgmt"))
        while True:
            await self._db_ready.wait()
            try:
                self._of = client = await OpenFlowClient.connect(path)
                self._of_ready.set()
                self._restarted.set()
                self._log.info("connected to the switch", bridge=self._bridge.name)
                await client.read_forever()
                self._log.warning("the switch is gone", bridge=self._bridge.name)
            except Unavailable as error:
                self._log.warning("no connection to the switch", reason=str(error))
            finally:
                self._of_ready.clear()
                if self._of is not None:
                    self._of.close()
            await self._clock.sleep(RECONNECT_S)

    async def _set_up_bridge(self, db: OvsdbClient) -> None:
        await db.follow()
        bridges = db.replica.by_name("Bridge")
        known = bridges.get(self._bridge.name)
        if known is None:
            await db.transact([*_new_bridge(self._bridge), _bump_next_cfg()[0]])
        else:
            owner = as_map(known[1]["external_ids"]).get(CLUSTER_KEY, self._bridge.cluster)
            if owner != self._bridge.cluster:
                raise Unavailable(f"bridge {self._bridge.name} belongs to cluster {owner}")
            await db.transact([_own_bridge(self._bridge), _bump_next_cfg()[0]])
        await db.until(
            lambda: self._bridge.name in db.replica.by_name("Bridge"), "the bridge did not appear"
        )
        await self._commit(db, put_uplinks(db.replica, self._bridge))
        self._db_ready.set()

    async def _connected(self) -> tuple[OvsdbClient, OpenFlowClient]:
        try:
            async with asyncio.timeout(CONNECT_WAIT_S):
                await self._db_ready.wait()
                await self._of_ready.wait()
        except TimeoutError:
            raise Unavailable("Open vSwitch is not running") from None
        assert self._db is not None
        assert self._of is not None
        return self._db, self._of

    # -- the port --------------------------------------------------------------------------------------

    async def restarted(self) -> None:
        """See SwitchDriver."""
        await self._restarted.wait()
        self._restarted.clear()

    def is_connected(self) -> bool:
        """See SwitchDriver."""
        return self._db_ready.is_set() and self._of_ready.is_set()

    async def view(self) -> tuple[PortView, ...]:
        """See SwitchDriver."""
        db, _ = await self._connected()
        return tuple(views(db.replica, self._bridge.name).values())

    async def ensure(self, ports: Sequence[SwitchPort]) -> tuple[PortView, ...]:
        """See SwitchDriver."""
        async with self._changing:
            db, of = await self._connected()
            before = views(db.replica, self._bridge.name)
            # Rules of a number that now goes to another port must not help the new one.
            fresh = [port for port in ports if not _serves(before.get(port.name), port)]
            rules = [rule for port in ports for rule in flows.rules_of(port)]
            await of.apply([flows.OWNER_COOKIE | port.ofport for port in fresh], rules)
            await self._commit(db, put_ports(db.replica, self._bridge.name, ports))
            after = views(db.replica, self._bridge.name)
            result = tuple(_judge(after.get(port.name), port) for port in ports)
            good = [port for port, view in zip(ports, result, strict=True) if view.error is None]
            await of.apply([], [], [(port.ofport, flows.announcement(port)) for port in good])
            return result

    async def remove(self, names: Sequence[str]) -> None:
        """See SwitchDriver."""
        async with self._changing:
            db, of = await self._connected()
            known = views(db.replica, self._bridge.name)
            gone = [name for name in names if name in known]
            if not gone:
                return
            ports, interfaces = db.replica.by_name("Port"), db.replica.by_name("Interface")
            # The rules bear the number that was asked for, whether the port ever got it or not.
            numbers = [one(interfaces[name][1]["ofport_request"]) for name in gone]
            uuids = uuid_set([ports[name][0] for name in gone])
            await self._commit(db, [_mutate_ports(self._bridge.name, "delete", uuids)])
            await of.apply([flows.OWNER_COOKIE | number for number in numbers if number], [])

    async def restore_flows(self, wanted: Callable[[], Sequence[SwitchPort]]) -> None:
        """See SwitchDriver."""
        async with self._changing:
            _, of = await self._connected()
            ports = wanted()
            rules = [flows.DEFAULT_RULE, *(rule for port in ports for rule in flows.rules_of(port))]
            await of.apply([], rules)
            await of.apply(flows.stale_cookies(await of.cookies(), ports), [])

    async def cookies(self) -> frozenset[int]:
        """See SwitchDriver."""
        _, of = await self._connected()
        return frozenset(await of.cookies())

    async def _commit(self, db: OvsdbClient, operations: list[Operation]) -> None:
        """Transact, then wait until the switch has taken it up."""
        if not operations:
            return
        guard = {
            "op": "wait",
            "table": "Bridge",
            "where": [["name", "==", self._bridge.name]],
            "columns": ["name"],
            "until": "==",
            "rows": [{"name": self._bridge.name}],
            "timeout": 0,
        }
        results = await db.transact([guard, *operations, *_bump_next_cfg()])
        number = results[-1]["rows"][0]["next_cfg"]
        await db.until(
            lambda: db.replica.config("cur_cfg") >= number, "the switch did not take a change up"
        )


def _bump_next_cfg() -> list[Operation]:
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


def _mutate_ports(bridge: str, how: str, ports: object) -> Operation:
    return {
        "op": "mutate",
        "table": "Bridge",
        "where": [["name", "==", bridge]],
        "mutations": [["ports", how, ports]],
    }


def _new_bridge(bridge: BridgeSettings) -> list[Operation]:
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


def _own_bridge(bridge: BridgeSettings) -> Operation:
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
            _mutate_ports(bridge.name, "insert", ["set", [["named-uuid", f"p{n}"]]]),
        ]
    return operations


def put_ports(replica: Replica, bridge: str, ports: Sequence[SwitchPort]) -> list[Operation]:
    """The operations after which the bridge has these ports; those it has as wanted need none."""
    known, interfaces = replica.by_name("Port"), replica.by_name("Interface")
    operations: list[Operation] = []
    added = []
    for n, port in enumerate(ports):
        marks = to_map({ATTACHMENT_KEY: port.attachment, CONTAINER_KEY: port.container})
        row = {"tag": port.vlan, "external_ids": marks}
        if port.name in known:
            interface = interfaces[port.name][1]
            if one(interface["ofport_request"]) != port.ofport:
                operations.append(_update("Interface", port.name, {"ofport_request": port.ofport}))
            operations.append(_update("Port", port.name, row))
            continue
        added.append(["named-uuid", f"p{n}"])
        interface_row = {"name": port.name, "ofport_request": port.ofport, "external_ids": marks}
        port_row = {"name": port.name, "interfaces": ["named-uuid", f"i{n}"], **row}
        operations += [
            {"op": "insert", "table": "Interface", "uuid-name": f"i{n}", "row": interface_row},
            {"op": "insert", "table": "Port", "uuid-name": f"p{n}", "row": port_row},
        ]
    if added:
        operations.append(_mutate_ports(bridge, "insert", ["set", added]))
    return operations


def _update(table: str, name: str, row: dict[str, object]) -> Operation:
    return {"op": "update", "table": table, "where": [["name", "==", name]], "row": row}


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
        found[row["name"]] = PortView(
            name=row["name"],
            vlan=one(row["tag"]),
            ofport=number if number is not None and number > 0 else None,
            attachment=marks[ATTACHMENT_KEY],
            container=marks.get(CONTAINER_KEY, ""),
            error=one(interface["error"]),
        )
    return found


def _serves(view: PortView | None, port: SwitchPort) -> bool:
    return view is not None and (view.attachment, view.ofport) == (port.attachment, port.ofport)


def _judge(view: PortView | None, port: SwitchPort) -> PortView:
    """The view, with an error when the switch did not give what was asked for."""
    if view is None:
        return PortView(port.name, None, None, port.attachment, port.container, "it vanished")
    if view.error is None and view.ofport != port.ofport:
        reason = f"the switch gave it number {view.ofport}, not {port.ofport}"
        return PortView(view.name, view.vlan, view.ofport, view.attachment, view.container, reason)
    return view
