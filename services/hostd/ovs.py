"""SwitchDriver on Open vSwitch: ports by OVSDB, flows by OpenFlow.

A port asks for the OpenFlow number that its rules name already (`ofport_request`): the rules are there before the port
is, so one transaction adds a port and no frame ever passes unchecked. After a restart of the switch the numbers are
the same, and the bridge (fail_mode secure) passes nothing until the rules are back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from libs.common.clock import Clock
from libs.common.errors import Unavailable
from libs.common.telemetry import Log
from libs.common.waiting import TaskGroup
from services.hostd import flows
from services.hostd.model import PortView, Probe, SwitchPort, SwitchReport
from services.hostd.ofclient import OpenFlowClient
from services.hostd.openflow import Flow, difference
from services.hostd.ovsdb import Operation, OvsdbClient, as_map, one, uuid_set
from services.hostd.rows import (
    CLUSTER_KEY,
    BridgeSettings,
    bump_next_cfg,
    drop_limits,
    judge,
    mutate_ports,
    new_bridge,
    own_bridge,
    put_ports,
    put_uplinks,
    serves,
    uplink_numbers,
    uplinks,
    views,
)

RECONNECT_S = 0.1
CONNECT_WAIT_S = 10.0
PROBE_TRIES, PROBE_PAUSE_S, PROBE_RULE_S = 3, 0.1, 2


class OvsSwitch:
    """See SwitchDriver. `run` must run; calls made while there is no connection wait for one a little."""

    def __init__(self, db_socket: Path, bridge: BridgeSettings, *, clock: Clock, log: Log) -> None:
        self._db_socket = db_socket
        self._bridge = bridge
        self._management = db_socket.with_name(f"{bridge.name}.mgmt")
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
        async with TaskGroup() as group:
            group.create_task(self._keep_ovsdb())
            group.create_task(self._keep_openflow())

    async def _keep_ovsdb(self) -> None:
        while True:
            try:
                self._db = client = await OvsdbClient.connect(str(self._db_socket))
                async with TaskGroup() as group:
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
        path = str(self._management)
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
            await db.transact([*new_bridge(self._bridge), bump_next_cfg()[0]])
        else:
            owner = as_map(known[1]["external_ids"]).get(CLUSTER_KEY, self._bridge.cluster)
            if owner != self._bridge.cluster:
                raise Unavailable(f"bridge {self._bridge.name} belongs to cluster {owner}")
            await db.transact([own_bridge(self._bridge), bump_next_cfg()[0]])
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

    async def ping(self) -> None:
        """See SwitchDriver."""
        _, of = await self._connected()
        await of.barrier()

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
            fresh = [port for port in ports if not serves(before.get(port.name), port)]
            deletes: list[int | Flow] = [flows.OWNER_COOKIE | port.ofport for port in fresh]
            rules = [rule for port in fresh for rule in flows.rules_of(port)]
            # Those of a port that stays must stay, too: packets in flight, counters.
            for port in (each for each in ports if each not in fresh):
                present = await of.flows(flows.OWNER_COOKIE | port.ofport)
                missing, surplus = difference(present, flows.rules_of(port))
                rules += missing
                deletes += surplus
            await of.apply(deletes, rules)
            await self._commit(db, put_ports(db.replica, self._bridge, ports))
            after = views(db.replica, self._bridge.name)
            result = tuple(judge(after.get(port.name), port) for port in ports)
            good = [port for port, view in zip(ports, result, strict=True) if view.error is None]
            frames = [(port.ofport, f) for port in good for f in flows.announcements(port)]
            # One that got another number than its rules name has none: it would be taken for an uplink.
            astray = flows.strays(result, ports)
            await of.apply([], astray, frames)
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
            # The rules bear the number that was asked for; those that silence a port astray, the number it got.
            numbers = {one(interfaces[name][1]["ofport_request"]) for name in gone}
            numbers |= {known[name].ofport for name in gone}
            uuids = uuid_set([ports[name][0] for name in gone])
            await self._commit(db, [mutate_ports(self._bridge.name, "delete", uuids)])
            await of.apply([flows.OWNER_COOKIE | number for number in numbers if number], [])
            await self._commit(db, drop_limits(db.replica, self._bridge))

    async def restore_flows(self, wanted: Callable[[], Sequence[SwitchPort]]) -> None:
        """See SwitchDriver."""
        async with self._changing:
            db, of = await self._connected()
            found = views(db.replica, self._bridge.name).values()
            ports = flows.standing(found, wanted())
            strays = flows.strays(found, ports)
            missing, surplus = difference(await of.flows(), [*strays, *_rules(ports)])
            # What is right stays as it is. First come the new ones: traffic goes on.
            await of.apply([], missing)
            await of.apply(surplus, [])

    async def inspect(self, wanted: Callable[[], Sequence[SwitchPort]]) -> SwitchReport:
        """See SwitchDriver."""
        async with self._changing:
            db, of = await self._connected()
            present = await of.flows()
            found = views(db.replica, self._bridge.name)
            ports = flows.standing(found.values(), wanted())
            strays = flows.strays(found.values(), ports)
            missing, surplus = difference(present, [*strays, *_rules(ports)])
            return SwitchReport(
                ports=tuple(found.values()),
                uplinks=uplinks(db.replica, self._bridge),
                missing=tuple(rule.cookie for rule in missing),
                surplus=tuple(str(each) for each in surplus),
                foreign=tuple(str(each) for each in present if each.is_foreign),
            )

    async def probe(self, probes: Sequence[Probe]) -> Mapping[Probe, str]:
        """See SwitchDriver."""
        if not self._bridge.uplinks:
            return {}
        db, _ = await self._connected()
        numbers = uplink_numbers(db.replica, self._bridge)
        wanted = {each.address: each for each in probes}
        found: dict[Probe, str] = {}

        def told(frame: bytes) -> None:
            address, sender = flows.claimed(frame) or ("", "")
            if address in wanted:
                found.setdefault(wanted[address], sender)

        failure: Unavailable | None = None
        # On a connection of its own: on the other one all that rules tell would come, always.
        client = await OpenFlowClient.connect(str(self._management))
        async with TaskGroup() as group:
            group.create_task(client.read_forever())
            try:
                client.listen(told)
                await client.apply([], [flows.catching(each, PROBE_RULE_S) for each in probes])
                for _ in range(PROBE_TRIES):
                    for each in (p for p in probes if p not in found):
                        client.send_tagged(each.vlan, numbers, flows.question(each))
                    await self._clock.sleep(PROBE_PAUSE_S)
            except Unavailable as error:
                failure = error  # raised below: from here it would leave as a group
            finally:
                client.close()
        if failure is not None:
            raise failure
        return found

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
        results = await db.transact([guard, *operations, *bump_next_cfg()])
        number = results[-1]["rows"][0]["next_cfg"]
        await db.until(
            lambda: db.replica.config("cur_cfg") >= number, "the switch did not take a change up"
        )


def _rules(ports: Sequence[SwitchPort]) -> list[flows.Rule]:
    # The switch takes them in this order: what lets all else pass comes when every port has its own.
    return [*(rule for port in ports for rule in flows.rules_of(port)), *flows.SHARED_RULES]
