"""Names, plans and suspicions: pure decisions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.hostd import core
from services.hostd.model import (
    TRANSITIONS,
    Actual,
    Address,
    Attachment,
    AttachmentId,
    AttachmentSpec,
    ContainerView,
    Life,
    NetworkView,
    Owner,
    Phase,
    PortView,
)

CLUSTER = "blue"
HOST_INODE = 1


def attachment(n: int, phase: Phase = Phase.ADDRESSED, owner: Owner = Owner.DOCKER) -> Attachment:
    """The n-th attachment."""
    address = Address(ip=f"10.0.0.{n}", prefix=24, vlan=100, generation=n)
    return Attachment(
        id=AttachmentId(f"{n:010d}"),
        container=f"web-{n}",
        ifname="eth0",
        ipam_key=f"web-{n}.eth0",
        spec=AttachmentSpec(network="red", owner=owner),
        phase=phase,
        created_at=0.0,
        address=None if phase is Phase.ADDRESSING else address,
        ofport=None if phase is Phase.ADDRESSING else 1000 + n,
    )


def actual_of(*attachments: Attachment) -> Actual:
    """A host on which these, and nothing else, are as they should be."""
    ports = []
    for each in attachments:
        port = core.port_of(CLUSTER, each)
        ports.append(
            PortView(
                port.name,
                port.vlan,
                port.ofport,
                port.attachment,
                port.container,
                netns=port.netns,
                generation=port.generation,
            )
        )
    return Actual(
        NetworkView(
            frozenset(each.id for each in attachments),
            frozenset(core.link_name(CLUSTER, each.id) for each in attachments),
        ),
        tuple(ports),
    )


def test_names_fit_and_tell_clusters_apart() -> None:
    name = core.link_name(CLUSTER, "0123456789")
    assert len(name) == 15
    assert core.is_link_of(CLUSTER, name)
    assert not core.is_link_of("red", name)
    assert not core.is_link_of(CLUSTER, "eth0")
    assert name != core.link_name("red", "0123456789")


def test_the_mac_is_the_address() -> None:
    assert core.mac_of("10.1.2.3") == "0a:67:0a:01:02:03"


@given(st.sets(st.integers(1000, 1040)))
def test_picks_the_lowest_free_number(used: set[int]) -> None:
    picked = core.pick_ofport(used)
    assert picked not in used
    assert set(range(core.FIRST_OFPORT, picked)) <= used


def test_all_numbers_used() -> None:
    with pytest.raises(LookupError):
        core.pick_ofport(range(core.FIRST_OFPORT, core.LAST_OFPORT + 1))


def test_the_table_of_phases_is_closed_and_ends() -> None:
    assert set(TRANSITIONS) == set(Phase)
    # Once a DEL has begun, only one that is parked comes back.
    assert TRANSITIONS[Phase.RELEASING] == {Phase.PARKED}
    with pytest.raises(ValueError, match="releasing -> addressed"):
        attachment(1, Phase.RELEASING).moved(Phase.ADDRESSED)


def test_nothing_to_do_when_all_is_well() -> None:
    wanted = [attachment(1), attachment(2)]
    assert not core.plan(CLUSTER, wanted, actual_of(*wanted))
    assert not core.plan(CLUSTER, [], Actual())


def test_everything_is_missing() -> None:
    found = core.plan(CLUSTER, [attachment(1)], Actual())
    assert found == core.Plan(wire=("0000000001",), ports=("0000000001",))


def test_everything_is_stale() -> None:
    actual = actual_of(attachment(1))
    rubbish = Actual(actual.network, actual.ports, (("f" * 64, "0000000001"),))
    found = core.plan(CLUSTER, [], rubbish)
    assert found == core.Plan(
        revoke=(("f" * 64, "0000000001"),),
        remove_ports=(core.link_name(CLUSTER, "0000000001"),),
        remove_links=(core.link_name(CLUSTER, "0000000001"),),
        remove_namespaces=("0000000001",),
    )


@pytest.mark.parametrize(
    "change",
    [
        {"vlan": 200},
        {"ofport": 4},
        {"ofport": None},
        {"error": "no device"},
        {"container": "web-9"},
        {"generation": "9"},
        {"netns": "another"},
        {"attachment": "0000000009"},
    ],
)
def test_a_port_that_is_wrong(change: dict[str, object]) -> None:
    actual = actual_of(attachment(1))
    wrong = actual.with_ports((replace(actual.ports[0], **change),))  # type: ignore[arg-type]
    assert core.plan(CLUSTER, [attachment(1)], wrong) == core.Plan(ports=("0000000001",))


def test_a_port_from_before_there_were_all_marks_is_left_as_it_is() -> None:
    actual = actual_of(attachment(1))
    older = actual.with_ports((replace(actual.ports[0], netns="", generation=""),))
    assert not core.plan(CLUSTER, [attachment(1)], older)


def test_what_is_going_is_finished_and_its_leave_revoked() -> None:
    going = attachment(1, Phase.RELEASING)
    actual = Actual(NetworkView(frozenset({going.id}), frozenset()), (), (("f" * 64, going.id),))
    found = core.plan(CLUSTER, [going], actual)
    assert found == core.Plan(revoke=(("f" * 64, going.id),), finish=(going.id,))


def test_a_link_that_is_only_down_is_set_up() -> None:
    actual = actual_of(attachment(1))
    down = replace(actual.network, down=actual.network.links)
    assert core.plan(CLUSTER, [attachment(1)], replace(actual, network=down)) == core.Plan(
        up=("0000000001",)
    )


def test_a_parked_one_stays_as_long_as_it_is_whole() -> None:
    parked = attachment(1, Phase.PARKED).model_copy(update={"parked_at": 1.0})
    whole = actual_of(parked)
    whole = replace(whole, network=replace(whole.network, down=whole.network.links))
    assert not core.plan(CLUSTER, [parked], whole)
    leave = replace(whole, registered=(("f" * 64, parked.id),))
    assert core.plan(CLUSTER, [parked], leave) == core.Plan(revoke=leave.registered)
    for part in (
        whole.with_ports(()),
        replace(whole, network=replace(whole.network, links=frozenset())),
        replace(whole, network=replace(whole.network, namespaces=frozenset())),
    ):
        assert core.plan(CLUSTER, [parked], part).unpark == (parked.id,)
        assert not core.plan(CLUSTER, [parked], part).wire


@pytest.mark.parametrize(
    ("life", "instance", "had_leave", "over"),
    [
        (Life.RUNNING, "web-1", True, False),
        (Life.CREATED, "web-1", True, True),  # an older attempt of the same instance
        (Life.CREATED, "web-0", False, False),
        (Life.ABSENT, "web-0", False, False),
        (Life.ABSENT, "web-0", True, True),
        (Life.ENDED, "web-0", False, True),
    ],
)
def test_when_the_predecessor_is_over(
    life: Life, instance: str, had_leave: bool, over: bool
) -> None:
    mine = AttachmentSpec(network="red", instance=instance, generation=1)
    known = attachment(1).model_copy(update={"spec": mine})
    asked = AttachmentSpec(network="red", instance="web-1", generation=2)
    assert core.is_over(known, asked, life, had_leave) is over


def test_what_has_no_address_yet_is_left_to_its_caller() -> None:
    assert not core.plan(CLUSTER, [attachment(1, Phase.ADDRESSING)], Actual())


@given(
    st.sets(st.integers(1, 9)),
    st.sets(st.integers(1, 9)),
    st.sets(st.integers(1, 9)),
)
def test_doing_the_plan_leaves_nothing_to_do(
    wanted: set[int], namespaces: set[int], ports: set[int]
) -> None:
    desired = [attachment(n) for n in sorted(wanted)]
    some = [attachment(n) for n in sorted(ports)]
    found = core.plan(
        CLUSTER,
        desired,
        Actual(
            NetworkView(
                frozenset(attachment(n).id for n in namespaces),
                frozenset(core.link_name(CLUSTER, each.id) for each in some),
            ),
            actual_of(*some).ports,
        ),
    )
    names: set[str] = {attachment(n).id for n in namespaces}
    links = {core.link_name(CLUSTER, each.id) for each in some}
    names = (names - set(found.remove_namespaces)) | set(found.wire)
    links = (links - set(found.remove_links)) | {
        core.link_name(CLUSTER, name) for name in found.wire
    }
    have = {view.name for view in actual_of(*some).ports} - set(found.remove_ports)
    have |= {core.link_name(CLUSTER, name) for name in found.ports}
    assert names == {each.id for each in desired}
    assert links == have == {core.link_name(CLUSTER, each.id) for each in desired}


def view(
    n: int, *, inode: int | None = 10, runtime: str = "gantry", running: bool = True
) -> ContainerView:
    """The n-th container."""
    return ContainerView(f"{n:064x}", f"web-{n}", running, runtime, 100 + n, inode)


def test_orphans_are_old_and_unknown_to_the_engine() -> None:
    def grace_s(_attachment: Attachment) -> float:
        return 60.0

    every = [attachment(1), attachment(2), attachment(3, owner=Owner.CNI)]
    assert core.orphans(every, [view(1)], now=61.0, grace_s=grace_s) == {"0000000002"}
    assert core.orphans(every, [view(1)], now=60.0, grace_s=grace_s) == frozenset()
    by_id = attachment(2).model_copy(update={"container": view(2).id})
    assert core.orphans([by_id], [view(2)], now=61.0, grace_s=grace_s) == frozenset()


@pytest.mark.parametrize(
    ("container", "reason", "at_once"),
    [
        (view(1, inode=HOST_INODE), "host's network namespace", True),
        (view(9, inode=HOST_INODE, runtime="runc"), "host's network namespace", True),
        (view(1, runtime="runc"), "runtime", False),
        (view(9), "no attachment", False),
        (view(1, inode=11), "not its own", False),
        (view(1), None, False),
        (view(2, inode=11), None, False),  # its namespace is not known at present
        (view(1, inode=None), None, False),
        (view(1, inode=HOST_INODE, running=False), None, False),
    ],
)
def test_intruders(container: ContainerView, reason: str | None, at_once: bool) -> None:
    found = core.intruders([container], {"web-1": 10, "web-2": None}, HOST_INODE, "gantry")
    if reason is None:
        assert found == ()
    else:
        (one,) = found
        assert reason in one.reason
        assert one.at_once is at_once


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"network": "red"}, None),
        ({"network": "blue"}, "network"),
        ({"network": "red", "instance": "x"}, "instance"),
        ({"network": "red", "ip": "10.0.0.2"}, "ip"),
    ],
)
def test_what_makes_an_add_another_one(asked: dict[str, str], field: str | None) -> None:
    known = AttachmentSpec(network="red", ip="10.0.0.1")
    assert core.differs(known, AttachmentSpec.model_validate(asked)) == field
