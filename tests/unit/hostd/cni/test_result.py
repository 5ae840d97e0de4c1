"""Results by version, as files: what was written once must be written so for ever."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.hostd.cni.model import VERSIONS, CniError, Code, Interface, Ip, Result
from services.hostd.cni.result import read, render
from services.hostd.model import Hop

GOLDEN = Path(__file__).parent / "results"
DNS = {"nameservers": ["10.0.0.53"], "domain": "example.org"}
MAIN = Result(
    (
        Interface("g0a1b2c3d4e5f6g"),
        Interface("eth0", "0a:67:0a:00:00:05", 1450, "/var/run/netns/blue"),
    ),
    (Ip("10.0.0.5/24", "10.0.0.1", 1), Ip("fd00::5/64", "fd00::1", 1)),
    (Hop(dst="0.0.0.0/0", gw="10.0.0.1"), Hop(dst="192.168.0.0/16"), Hop(dst="::/0", gw="fd00::1")),
    DNS,
)
IPAM = Result(ips=(Ip("10.0.0.5/24", "10.0.0.1"),), routes=(Hop(dst="0.0.0.0/0", gw="10.0.0.1"),))
PREV = {
    "cniVersion": "1.0.0",
    "interfaces": [{"name": "lo"}, {"name": "eth9", "sandbox": "/var/run/netns/blue"}],
    "ips": [{"address": "192.0.2.9/24", "interface": 1}],
    "routes": [{"dst": "198.51.100.0/24"}],
    "dns": {"domain": "old.example.org"},
    "future": {"kept": True},
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("kind", "result"), [("main", MAIN), ("ipam", IPAM)])
def test_results_by_version(kind: str, result: Result, version: str) -> None:
    assert render(result, version) == json.loads((GOLDEN / f"{kind}-{version}.json").read_text())


def test_what_came_before_in_the_chain_is_kept() -> None:
    merged = render(MAIN, "1.0.0", PREV)
    assert merged == json.loads((GOLDEN / "chained-1.0.0.json").read_text())
    assert merged["interfaces"][: len(PREV["interfaces"])] == PREV["interfaces"]
    assert merged["ips"][1]["interface"] == 3


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_written_is_read(version: str) -> None:
    found = read(render(MAIN, version))
    assert [(each.address, each.gateway) for each in found.ips] == [
        ("10.0.0.5/24", "10.0.0.1"), ("fd00::5/64", "fd00::1"),
    ]  # fmt: skip
    assert sorted(found.routes, key=str) == sorted(MAIN.routes, key=str)
    assert found.dns == DNS


@pytest.mark.parametrize(
    "said",
    [
        [], "x", {"ips": [{}]}, {"ips": [{"address": "10.0.0.5"}]}, {"ips": 7},
        {"routes": [{"dst": "nowhere"}]}, {"ip4": {"gateway": "10.0.0.1"}}, {"dns": [1, 2]},
    ],
)  # fmt: skip
def test_what_can_not_be_read_is_an_error(said: object) -> None:
    with pytest.raises(CniError) as raised:
        read(said)
    assert raised.value.code == Code.DECODE


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["address", "gateway", "dst", "gw", "ip", "routes", "x"]), inner
        )
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["ips", "ip4", "ip6", "routes", "dns"]), ANY))
def test_any_result_is_read_or_an_error(said: dict[str, object]) -> None:
    try:
        read(said)
    except CniError as error:
        assert error.code == Code.DECODE
