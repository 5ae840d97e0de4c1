"""Codecs: OVSDB's JSON stream, OpenFlow, netlink, Docker's log stream, registrations."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.hostd import flows, netlink, openflow
from services.hostd.logs import MAX_LINE_BYTES, LogReader, Told, nanoseconds
from services.hostd.model import Namespace, Registration, SwitchPort
from services.hostd.ovsdb import JsonSplitter, Replica, as_set, first_error, one, to_map
from services.hostd.registry import encode, namespace_of
from services.hostd.rows import BridgeSettings, put_ports, views

BRIDGE = BridgeSettings("br0", "blue")
PORT = SwitchPort("g0", 100, 1005, "0a:67:0a:00:00:05", "10.0.0.5", "a1", "web-1")

json_objects = st.dictionaries(
    st.text(),
    st.recursive(
        st.none() | st.integers(-(2**53), 2**53) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


@given(st.lists(json_objects, max_size=5), st.lists(st.integers(1, 20)), st.booleans())
def test_json_objects_come_out_of_any_chunks(
    objects: list[Any], cuts: list[int], ascii_only: bool
) -> None:
    data = "".join(json.dumps(each, ensure_ascii=ascii_only) for each in objects).encode(
        errors="surrogatepass"
    )
    splitter, found, at = JsonSplitter(), [], 0
    try:
        data.decode()
    except UnicodeDecodeError:
        return  # a lone surrogate is no JSON text
    for size in [*cuts, len(data) + 1]:
        found += splitter.feed(data[at : at + size])
        at += size
    assert found == objects


def test_broken_json_is_an_error() -> None:
    with pytest.raises(json.JSONDecodeError):
        JsonSplitter().feed(b'{"a": nonsense}')


def replica(**ports: int | None) -> Replica:
    """A bridge br0 with ports of these numbers."""
    made = Replica()
    made.apply(
        {
            "Open_vSwitch": {"0": {"new": {"cur_cfg": 3, "next_cfg": 4}}},
            "Bridge": {
                "b": {
                    "new": {
                        "name": "br0",
                        "ports": ["set", [["uuid", f"p-{name}"] for name in ports]],
                    }
                }
            },
            "Port": {
                f"p-{name}": {
                    "new": {
                        "name": name,
                        "tag": 100,
                        "external_ids": to_map({"gantry-attachment": name}),
                        "qos": ["set", []],
                    }
                }
                for name in ports
            },
            "Interface": {
                f"i-{name}": {
                    "new": {
                        "name": name,
                        "ofport": ["set", []] if number is None else number,
                        "ofport_request": ["set", []] if number is None else number,
                        "error": ["set", []],
                        "ingress_policing_rate": 0,
                    }
                }
                for name, number in ports.items()
            },
        }
    )
    return made


def test_the_replica_follows() -> None:
    found = replica(g0=1005, g1=None)
    assert found.config("cur_cfg") == 3
    assert {name: view.ofport for name, view in views(found, "br0").items()} == {
        "g0": 1005,
        "g1": None,
    }
    found.apply({"Port": {"p-g0": {"old": {}}}})
    assert list(views(found, "br0")) == ["g1"]
    assert views(found, "another") == {}


def test_a_number_of_minus_one_is_none() -> None:
    assert views(replica(g0=-1), "br0")["g0"].ofport is None


def test_ports_are_inserted_once() -> None:
    fresh = put_ports(Replica(), BRIDGE, [PORT])
    assert [each["op"] for each in fresh] == ["insert", "insert", "mutate"]
    assert fresh[0]["row"]["ofport_request"] == 1005
    assert fresh[1]["row"]["tag"] == 100
    again = put_ports(replica(g0=1005), BRIDGE, [PORT])
    assert [(each["op"], each["table"]) for each in again] == [("update", "Port")]
    renumbered = put_ports(replica(g0=7), BRIDGE, [PORT])
    assert [(each["op"], each["table"]) for each in renumbered] == [
        ("update", "Interface"),
        ("update", "Port"),
    ]


def test_ovsdb_values() -> None:
    assert as_set(["set", [["uuid", "a"], ["uuid", "b"]]]) == ["a", "b"]
    assert as_set(["uuid", "a"]) == ["a"]
    assert one(["set", []]) is None
    assert one(7) == 7
    assert first_error([{}, {"count": 1}]) is None
    assert first_error([{}, None, {"error": "timed out", "details": "x"}]) == "timed out: x"


@given(st.lists(st.binary(max_size=40), max_size=5), st.lists(st.integers(1, 30)))
def test_openflow_frames_come_out_of_any_chunks(bodies: list[bytes], cuts: list[int]) -> None:
    data = b"".join(openflow.encode(10, n, body) for n, body in enumerate(bodies))
    reader, found, at = openflow.FrameReader(), [], 0
    for size in [*cuts, len(data) + 1]:
        found += reader.feed(data[at : at + size])
        at += size
    assert [(frame.xid, frame.body) for frame in found] == list(enumerate(bodies))


def test_a_stream_that_is_no_openflow() -> None:
    with pytest.raises(ValueError, match="3 bytes"):
        openflow.FrameReader().feed(struct.pack("!BBHI", 4, 0, 3, 1))


DUAL = replace(PORT, ip6="fd00::5")
SIX = replace(DUAL, ip="")


@pytest.mark.parametrize("port", [PORT, DUAL, SIX])
def test_rules_let_in_only_what_the_port_may_send(port: SwitchPort) -> None:
    rules = flows.rules_of(port)
    own = {port.ip, port.ip6, flows.link_local(port.mac)} - {""}
    assert {rule.cookie for rule in rules} == {flows.OWNER_COOKIE | 1005}
    assert {rule.match.in_port for rule in rules} == {1005}
    for rule in rules:
        if rule.verdict is not flows.Verdict.DROP:
            m = rule.match
            assert (m.eth_src, m.untagged) == (port.mac, True)
            source = m.ipv4_src or m.arp_spa or m.ipv6_src
            assert source in own or (source, m.nd_target in own) == ("::", True)
            assert (m.arp_sha or m.nd_sll or m.nd_tll) in (None, port.mac, flows.NO_MAC)
    kinds = {rule.match.eth_type for rule in rules}
    assert (flows.ETH_IPV4 in kinds, flows.ETH_IPV6 in kinds) == (bool(port.ip), bool(port.ip6))
    drop = next(rule for rule in rules if rule.priority == flows.PRIORITY_DROP)
    assert drop.match == flows.Match(1005)
    assert all(len(openflow.encode_match(rule.match)) % 8 == 0 for rule in rules)


def test_what_differs_between_wanted_rules_and_flows() -> None:
    wanted = [*flows.SHARED_RULES, *flows.rules_of(DUAL)]
    there = [openflow.flow_of(rule) for rule in wanted]
    assert openflow.difference(there, wanted) == ((), ())
    changed = replace(there[0], instructions=b"x")
    stale = replace(there[1], priority=7)
    foreign = replace(there[2], cookie=0x1234, priority=8)
    missing, surplus = openflow.difference([changed, stale, foreign, *there[2:]], wanted)
    assert (missing, surplus) == (tuple(wanted[:2]), (stale,))
    assert "in_port=000003ed" in str(there[-1])


def test_flows_survive_the_wire() -> None:
    body = struct.pack("!HH4x", 1, 0)
    for rule in flows.rules_of(DUAL):
        tail = openflow.add_rule(rule)[40:]
        counted = (3, 5 * 10**8, rule.priority, 0, 0, 0, rule.cookie, 9, 99)
        head = struct.pack("!HBxIIHHHH4xQQQ", 48 + len(tail), 0, *counted)
        body += head + tail
    found = openflow.flow_stats(body)
    assert openflow.difference(found, flows.rules_of(DUAL)) == ((), ())
    assert {(flow.packets, flow.age_s) for flow in found} == {(9, 3.5)}
    with pytest.raises(ValueError, match="flow"):
        openflow.flow_stats(body[:-3])


def test_the_announcements_are_a_gratuitous_arp_and_an_advertisement() -> None:
    assert flows.announcements(SIX) == flows.announcements(DUAL)[1:]
    advert = flows.announcements(SIX)[0]
    assert advert[:6] == bytes.fromhex("333300000001")
    message = advert[14 + 40 :]
    pseudo = advert[22:54] + struct.pack("!II", len(message), 58)
    assert flows.checksum(pseudo + message) == 0
    (frame,) = flows.announcements(PORT)
    assert frame[:6] == b"\xff" * 6
    assert frame[6:12] == frame[22:28] == bytes.fromhex("0a670a000005")
    assert frame[12:14] == b"\x08\x06"
    assert frame[28:32] == frame[38:42] == bytes([10, 0, 0, 5])
    assert len(frame) == 42


@given(st.lists(st.tuples(st.integers(1, 100), st.binary(max_size=20)), max_size=6))
def test_netlink_attributes(pairs: list[tuple[int, bytes]]) -> None:
    data = b"".join(netlink.attribute(kind, payload) for kind, payload in pairs)
    assert list(netlink.attributes(data)) == pairs


def test_a_netlink_datagram_that_is_cut_short() -> None:
    with pytest.raises(OSError, match="cut short"):
        list(netlink.frames(struct.pack("=IHHII", 100, 3, 0, 1, 0)))


@given(
    st.lists(st.tuples(st.sampled_from([1, 2]), st.text("ab\r\n \u00e9", max_size=12)), max_size=6),
    st.lists(st.integers(1, 9)),
)
def test_log_lines_come_out_of_any_chunks(parts: list[tuple[int, str]], cuts: list[int]) -> None:
    data, expected = b"", {1: "", 2: ""}
    for stream, text in parts:
        raw = text.encode()
        data += struct.pack("!BxxxI", stream, len(raw)) + raw
        expected[stream] += text
    reader, found, at = LogReader(terminal=False), [], 0
    for size in [*cuts, len(data) + 1]:
        found += reader.feed(data[at : at + size])
        at += size
    found += reader.end()
    lines = [json.loads(each) for each in found]
    for stream, name in ((1, "stdout"), (2, "stderr")):
        pieces = expected[stream].split("\n")
        whole = pieces if pieces[-1] else pieces[:-1]
        got = [each for each in lines if each["stream"] == name]
        joined = [f"{each['time']} {each['line']}".rstrip(" ") for each in got]
        assert joined == [each.rstrip("\r").rstrip(" ") for each in whole]


def test_a_line_without_end_is_cut() -> None:
    reader = LogReader(terminal=True)
    lines = reader.feed(b"t " + b"x" * (2 * MAX_LINE_BYTES))
    assert len(lines) == 2
    assert len(reader.end()) == 1


def test_a_registration_names_its_namespace() -> None:
    text = encode(Registration("f" * 64, Namespace("n1", "/run/n1", 5), 3), "boot")
    assert text.splitlines()[0] == "gantry-registration 1"
    assert namespace_of(text) == "n1"
    assert namespace_of("nonsense") == ""


def test_what_an_engine_tells_again_is_told_once() -> None:
    """After a rotation it repeats a file; each stream has times of its own, and a clock may be put back."""

    def frame(stream: int, *lines: tuple[int, str]) -> bytes:
        text = "".join(f"2026-01-31T09:00:00.{at:09}Z {line}\n" for at, line in lines).encode()
        return struct.pack("!BxxxI", stream, len(text)) + text

    reader = LogReader(terminal=False, following=True)
    given = [
        frame(1, (1, "a"), (2, "b"), (3, "c")),
        frame(2, (1, "err")),
        frame(1, (2, "b"), (3, "c"), (4, "d")),
        frame(2, (1, "err"), (5, "again")),
        frame(1, (1, "a"), (4, "d")),
    ]
    lines = [json.loads(each)["line"] for data in given for each in reader.feed(data)]
    assert lines == ["a", "b", "c", "err", "d", "again"]
    told = Told(remembered=4)
    assert [told.is_new(at) for at in (10, 11, 10, 5, 5, 12)] == [
        True,
        True,
        False,
        True,
        False,
        True,
    ]
    assert [told.is_new(at) for at in range(20, 40)] == [True] * 20
    assert not told.is_new(7)  # too long ago to be told from a repetition
    assert nanoseconds(b"2026-01-31T09:00:00.000000001Z") == 1769850000000000001
    assert nanoseconds(b"no time") is None
