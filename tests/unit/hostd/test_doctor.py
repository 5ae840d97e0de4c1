"""The diagnosis as a pure decision: what each fault is called, and that a sound host has none."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.hostd import core, flows
from services.hostd.doctor import Examined, diagnose
from services.hostd.model import (
    Bandwidth,
    LinkState,
    PendingRelease,
    Phase,
    PortView,
    SwitchReport,
    WireView,
)
from services.hostd.state import open_state
from tests.unit.hostd.test_core import CLUSTER, attachment

ONE = attachment(1)
PORT = core.port_of(CLUSTER, ONE)
WIRE = core.wire_of(CLUSTER, ONE)
UP = LinkState(True, 1500, WIRE.mac)
VIEW = PortView(PORT.name, PORT.vlan, PORT.ofport, PORT.attachment, PORT.container)
SWITCH = SwitchReport((VIEW,), frozenset({"up0"}))
WIRED = WireView(UP, UP, frozenset({"10.0.0.1/24"}))
WELL = Examined(
    owner=CLUSTER,
    now=1000.0,
    attachments=[ONE],
    switch=SWITCH,
    wires={ONE.id: WIRED},
    uplinks={"up0": UP},
    ipam={ONE.ipam_key: frozenset({("10.0.0.1", 1)})},
)
PENDING = PendingRelease(ipam_key="x.eth0", spec=ONE.spec, generation=1, since=0.0)


def switch(**changes: Any) -> Examined:
    return replace(WELL, switch=replace(SWITCH, **changes))


def wired(**changes: Any) -> Examined:
    return replace(WELL, wires={ONE.id: replace(WIRED, **changes)})


def test_a_sound_host_has_no_findings() -> None:
    assert diagnose(WELL) == ()
    unfinished = [attachment(2, Phase.ADDRESSING), attachment(3, Phase.RELEASING), ONE]
    assert diagnose(replace(WELL, attachments=unfinished)) == ()


@pytest.mark.parametrize(
    ("seen", "check"),
    [
        (replace(WELL, switch="gone"), "switch-down"),
        (switch(missing=(flows.OWNER_COOKIE,)), "flows-missing"),
        (switch(missing=(flows.OWNER_COOKIE | PORT.ofport,)), "flows-missing"),
        (switch(surplus=("a", "b")), "flows-stale"),
        (switch(foreign=("a",)), "flows-foreign"),
        (switch(ports=()), "port-missing"),
        (switch(ports=(replace(VIEW, vlan=7),)), "wrong-vlan"),
        (switch(ports=(replace(VIEW, vlan=None),)), "wrong-vlan"),
        (switch(ports=(replace(VIEW, ofport=7),)), "port-broken"),
        (switch(ports=(replace(VIEW, error="no device"),)), "port-broken"),
        (switch(ports=(replace(VIEW, bandwidth=Bandwidth(egress_kbit=64)),)), "wrong-limit"),
        (switch(uplinks=frozenset()), "uplink-missing"),
        (replace(WELL, uplinks={"up0": None}), "uplink-missing"),
        (replace(WELL, uplinks={"up0": replace(UP, up=False)}), "uplink-down"),
        (replace(WELL, uplinks={"up0": replace(UP, mtu=1400)}), "mtu-mismatch"),
        (wired(outer=None), "link-missing"),
        (wired(outer=replace(UP, up=False)), "link-down"),
        (wired(outer=replace(UP, mtu=1400)), "mtu-mismatch"),
        (wired(inner=None), "interface-missing"),
        (wired(inner=replace(UP, up=False)), "interface-down"),
        (wired(inner=replace(UP, mac="02:00:00:00:00:01")), "wrong-mac"),
        (wired(addresses=frozenset({"10.0.0.9/24"})), "address-missing"),
        (replace(WELL, claims={core.probes_of(ONE)[0]: "02::1"}), "address-conflict"),
        (replace(WELL, ipam={}), "ipam-disagrees"),
        (replace(WELL, ipam={ONE.ipam_key: frozenset({("10.0.0.1", 2)})}), "ipam-disagrees"),
        (replace(WELL, ipam="no answer"), "ipam-away"),
        (replace(WELL, releases=[PENDING]), "releases-late"),
    ],
)
def test_each_fault_has_its_name_and_no_other(seen: Examined, check: str) -> None:
    (finding,) = diagnose(seen)
    assert finding.check == check
    assert finding.what and finding.evidence and finding.advice


def test_a_missing_route() -> None:
    address = ONE.address
    assert address is not None
    routed = ONE.model_copy(
        update={"address": address.model_copy(update={"gateway": "10.0.0.254"})}
    )
    seen = replace(WELL, attachments=[routed])
    assert [each.check for each in diagnose(seen)] == ["route-missing"]
    there = replace(seen, wires={ONE.id: replace(WIRED, gateways=frozenset({"10.0.0.254"}))})
    assert diagnose(there) == ()


OLD_STATE = (
    '{"id":"a1","container":"web-1","ifname":"eth0","ipam_key":"web-1.eth0","spec":{"network":"red","instance":"web-1",'
    '"attempt":"","generation":1,"sticky_key":"","ip":null,"mtu":null,"owner":"docker","inherit_from":null},'
    '"phase":"addressed","created_at":1.0,"address":{"ip":"10.0.0.5","prefix":24,"gateway":"10.0.0.1","vlan":100,'
    '"mtu":1500,"mac":null,"generation":7},"ofport":1000}'
)


async def test_state_of_an_older_hostd_loads_and_what_is_saved_is_no_news_to_it(
    tmp_path: Path,
) -> None:
    state = open_state(tmp_path / "state.db")
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as db:
        db.execute("INSERT INTO thing VALUES ('attachment', 'a1', ?)", (OLD_STATE,))
    ((old,), _) = await state.load()
    state.close()
    assert old.address is not None
    assert old.address.generations() == (7, None)
    # An older hostd refuses a spec with fields that it does not know.
    assert "bandwidth" not in old.model_dump()["spec"]
