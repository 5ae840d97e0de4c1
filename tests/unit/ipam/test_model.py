"""Ranges, releases and leaks, without a store."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from libs.common.events import model as ev
from services.ipam import core
from services.ipam.definition import NetworkConfig
from services.ipam.model import Address, IpamConfig, State
from services.ipam.pools import Network, Pool


def network(**fields: object) -> Pool:
    """The pool of a network of 10.0.0.0/28."""
    given = {"name": "web", "cidr": "10.0.0.0/28", "vlan": 100, **fields}
    (pool,) = Network.of(NetworkConfig.model_validate(given)).pools
    return pool


HELD = Address(
    "web", "10.0.0.3", 3, 7, State.ALLOCATED, 4, "c.eth0", "acme-web-1", "acme-web-1.1", "h1"
)


def test_network_broadcast_gateway_and_excluded_are_not_usable() -> None:
    made = network(gateway="10.0.0.14", excluded=["10.0.0.1-10.0.0.3", "10.0.0.5"])
    usable = [n for n in range(16) if made.usable_from(n) == n]
    assert usable == [4, 6, 7, 8, 9, 10, 11, 12, 13]
    assert made.usable == len(usable)
    assert made.usable_from(14) is None


@given(
    st.lists(st.tuples(st.integers(0, 63), st.integers(0, 8)), max_size=6),
    st.one_of(st.none(), st.integers(0, 63)),
)
def test_usable_is_what_is_left(spans: list[tuple[int, int]], gateway: int | None) -> None:
    base = int(IPv4Address("10.9.0.0"))
    given_ranges = [
        f"{IPv4Address(base + a)}-{IPv4Address(base + min(63, a + n))}" for a, n in spans
    ]
    made = network(
        cidr="10.9.0.0/26",
        gateway=str(IPv4Address(base + gateway)) if gateway is not None else None,
        excluded=given_ranges,
    )
    gone = {0, 63} | {k for a, n in spans for k in range(a, min(63, a + n) + 1)}
    gone |= {gateway} if gateway is not None else set()
    left = [n for n in range(64) if n not in gone]
    assert made.usable == len(left)
    assert [n for n in range(64) if made.usable_from(n) == n] == left
    assert [n for n in range(64) if made.offset(made.address(n)) == n] == left


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"gateway": "10.1.0.1"}, "is not in"),
        ({"cidr": "10.0.0.0/31"}, "no room"),
        ({"excluded": ["10.0.0.9-10.0.0.2"]}, "ends before it begins"),
        ({"excluded": ["ten"]}, "expected 10.0.0.1"),
        ({"vlan": 4095}, "4094"),
    ],
)
def test_a_wrong_network_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        network(**fields)


def test_networks_share_neither_name_nor_vlan() -> None:
    one = {"name": "web", "cidr": "10.0.0.0/28", "vlan": 100}
    with pytest.raises(ValidationError, match="share the vlan 100"):
        IpamConfig.model_validate({"networks": [one, {**one, "name": "db"}]})


def _release(generation: int, current: Address | None = HELD) -> core.Release:
    return core.release(
        current, generation, 50.0, reason="del", actor="h1", cooldown_s=60, hold_s=3600
    )


def test_the_current_generation_is_released_and_rests() -> None:
    done = _release(4)
    assert done.address is not None
    assert (done.address.state, done.address.free_at) == (State.RELEASED, 110.0)
    assert done.address.attachment == "" and done.address.generation == 4
    assert [type(each) for each in done.events] == [ev.IpReleased]


@pytest.mark.parametrize("generation", [3, 5])
def test_another_generation_is_a_no_op_and_audited(generation: int) -> None:
    done = _release(generation)
    assert done.address is None
    (audit,) = done.events
    assert isinstance(audit, ev.AuditRecorded) and not audit.allowed


@pytest.mark.parametrize("current", [None, replace(HELD, state=State.RELEASED)])
def test_what_is_not_allocated_is_not_released(current: Address | None) -> None:
    assert _release(4, current) == core.Release(None)


def test_a_sticky_address_is_held_for_its_owner() -> None:
    done = _release(4, replace(HELD, sticky_key="db-0"))
    assert done.address is not None and done.address.free_at == 3650.0


def test_a_leak_takes_two_looks_a_grace_apart() -> None:
    old = replace(HELD, since=0.0)
    assert core.leaks([old], [], 60.0, 120.0) == core.Leaks((), (), ())  # too young
    first = core.leaks([old], [], 130.0, 120.0)
    assert [each.missing_since for each in first.missing] == [130.0]
    seen = first.missing[0]
    assert core.leaks([seen], [], 200.0, 120.0) == core.Leaks((), (), ())
    assert core.leaks([seen], [], 250.0, 120.0).leaked == (seen,)
    back = core.leaks([seen], ["c.eth0"], 200.0, 120.0)
    assert [each.missing_since for each in back.found] == [None]
