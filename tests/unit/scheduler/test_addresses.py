"""Addresses by zone, business unit and environment: ipam's answer as it is read, where instances go, and how many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain, combinations
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.spec import Constraint, ConstraintOperator, InstanceSpec
from libs.common.wishes import AddressWish
from services.ipam.definition import NetworkConfig
from services.ipam.model import Claim, IpamConfig
from services.ipam.pools import Network as IpamNetwork
from services.ipam.tally import Count
from services.ipam.views import network_view
from services.scheduler.model import AgentId, Amounts
from services.scheduler.networks import AddressPool, Network, pools_of
from services.scheduler.planning import plan
from services.scheduler.policy import Agents, Candidate, Round, Shape
from services.scheduler.policy.rules import Here
from services.scheduler.refusing import OFFERS_COME_S
from tests.simulation.loop import World, virtual
from tests.unit.ipam.world import served
from tests.unit.scheduler.world import Desk, free, launches, network, spec, want

ZONES = ("a", "b", "c", "")
UNITS, ENVIRONMENTS = ("acme", "globex"), ("", "lab", "live")
_O = ConstraintOperator


def _pool(count: int, zone: str = "", family: int = 4, **scope: Any) -> AddressPool:
    return AddressPool(family=family, free=count, zone=zone, **scope)


def _agents(*zones: str, cpus: float = 100.0) -> Agents:
    """One in each zone; the first ones are the fullest, and so the best."""
    return Agents.of(
        [
            Candidate(
                AgentId(f"a{n}"),
                f"h{n}",
                {"zone": zone} if zone else {},
                Amounts(cpus + n, 1e4 * (cpus + n), 1e6),
            )
            for n, zone in enumerate(zones)
        ]
    )


def _spec(**more: Any) -> InstanceSpec:
    return spec(0.1, 64).model_copy(update=more)


def _shape(app: str = "acme/web", **more: Any) -> Shape:
    return Shape.of(app, _spec(**more))


def _put(agents: Agents, web: Network, shape: Shape, count: int) -> tuple[Counter[str], str]:
    """How many go to each zone, and what the others are told."""
    given, refusal = Round(agents, {shape.app: Here()}, None, {"web": web}).put(shape, count)
    zones: Counter[str] = Counter()
    for row, number in given:
        zones[agents.rows.attributes[row].get("zone", "")] += number
    return zones, refusal.nearest if refusal is not None else ""


# -- what ipam answers ---------------------------------------------------------------------------------

scopes = st.fixed_dictionaries(
    {
        "zone": st.sampled_from(ZONES),
        "bus": st.sampled_from([(), (), ("acme",), ("globex", "other")]),
        "environments": st.sampled_from([(), (), ("lab",), ("lab", "live")]),
    }
)


@st.composite
def _networks(draw: st.DrawFn) -> IpamNetwork:
    pools = [
        {
            "name": f"p{n}",
            "cidr": f"10.{n}.0.0/24" if draw(st.booleans()) else f"fd00:{n}::/120",
            "priority": draw(st.integers(-1, 1)),
            **draw(scopes),
        }
        for n in range(draw(st.integers(1, 5)))
    ]
    of = {"name": "web", "vlan": 7, "pools": pools, **draw(scopes)}
    closing = draw(st.sets(st.sampled_from([str(each["name"]) for each in pools]), max_size=2))
    return IpamNetwork.of(NetworkConfig.model_validate(of), closing=closing)


def _answer(of: IpamNetwork) -> Any:
    """As `GET /v1/networks` has it; no two pools have the same number of free addresses."""
    counts = [Count(each.usable, 10 + n, 0, {}) for n, each in enumerate(of.pools)]
    return orjson.loads(orjson.dumps({"networks": [network_view(of, counts)]}))


@settings(max_examples=300, deadline=None)
@given(_networks())
def test_pools_are_for_whom_ipam_gives_their_addresses(of: IpamNetwork) -> None:
    """In its order, too; and of closing ones it gives none."""
    read = pools_of(_answer(of)).networks["web"]
    numbers = {each.name: 10 + n for n, each in enumerate(of.pools)}
    assert read.families == of.families
    for bu in UNITS:
        for environment in ENVIRONMENTS:
            mine, never = read.pools_for(bu, environment), True
            for zone in ZONES:
                claim = Claim("x", "web", "i", "i.1", "h", environment=environment, zone=zone)
                claim = Claim(
                    **{f: getattr(claim, f) for f in claim.__slots__} | {"app": f"{bu}/x"}
                )
                there = read.serves(zone)  # placement keeps to the network's own zone by itself
                assert (read.open_to(bu, environment) and there) == (of.refusal(claim) == "")
                for family in of.families:
                    ours = [p.free for p in mine if p.family == family and p.serves(zone)]
                    theirs = [numbers[p.name] for p in of.pools_for(claim, family)]
                    if read.open_to(bu, environment):
                        assert ours == theirs
                    never &= not ours
            if never:
                assert read.refuses(bu, environment) and read.room(bu, environment) == 0


@virtual
async def test_ipams_own_answer_is_read(world: World) -> None:
    config = IpamConfig.model_validate(
        {
            "networks": [
                {
                    "name": "web",
                    "vlan": 100,
                    "zone": "a",
                    "cidr": "10.0.0.0/29",
                    "pools": [
                        {"name": "own", "cidr": "10.1.0.0/29", "bus": ["acme"], "priority": 1},
                        {"name": "six", "cidr": "fd00::/120", "environments": ["lab"]},
                    ],
                }
            ]
        }
    )
    async with served(world, config) as ipam:
        await ipam.claim("one", app="acme/x", environment="lab")
        read = pools_of(await ipam.ask("GET", "/v1/networks")).networks["web"]
    own = _pool(5, bus=("acme",))
    assert read == Network(
        zone="a",
        families=(4, 6),
        pools=(own, _pool(6), _pool(254, family=6, environments=("lab",))),
    )


def test_an_ipam_that_tells_less_is_taken_at_its_word() -> None:
    old = {"networks": [{"network": "web", "pools": [{"family": 4, "free": 3}]}]}
    assert pools_of(old).networks == {"web": network(_pool(3))}


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {},
        {"networks": [{"network": "web"}]},
        {"networks": [{"network": "web", "pools": [{"family": 4}]}]},
        {"networks": [{"network": "web", "pools": [{"family": 4, "free": "many"}]}]},
        {"networks": [{"network": "web", "pools": [{"family": 4, "free": 1, "bus": None}]}]},
    ],
)
def test_what_is_no_answer_raises_what_the_service_expects(answer: Any) -> None:
    with pytest.raises((LookupError, TypeError, ValueError)):
        pools_of(answer)


def test_a_family_whose_pools_all_close_is_had_by_nobody() -> None:
    told = _answer(
        IpamNetwork.of(
            NetworkConfig.model_validate(
                {"name": "web", "vlan": 7, "cidr": "10.0.0.0/24", "cidr6": "fd00::/120"}
            ),
            closing=["default6"],
        )
    )
    read = pools_of(told).networks["web"]
    assert read.families == (4, 6) and [each.family for each in read.pools] == [4]
    assert read.refuses("acme", "") and read.room("acme", "") == 0


def test_what_is_placed_uses_up_each_pool_before_the_next_and_those_of_its_own_zone_alone() -> None:
    web = network(_pool(2, "a"), _pool(3), _pool(9, "b"), _pool(4, family=6), _pool(9, bus=("x",)))
    assert [each.free for each in web.without("acme", "", "a", 3).pools] == [0, 2, 9, 1, 9]
    assert [each.free for each in web.without("acme", "", "b", 4).pools] == [2, 0, 8, 0, 9]
    assert [each.free for each in web.without("acme", "", "a", 99).pools] == [0, 0, 9, 0, 9]


# -- where they go -------------------------------------------------------------------------------------


def test_the_best_fit_is_passed_over_when_its_zone_has_no_address() -> None:
    desk = Desk()
    desk.subscribe()
    desk.give(free(web=network(_pool(0, "a"), _pool(5, "b"))), want("i", _spec()))
    assert not launches(desk.offer("a1", cpus=1.0, zone="a"))
    desk.tick(OFFERS_COME_S)
    told = "none of 1 agents has a free address of network web in its zone (zone a has none)"
    assert desk["i"].delayed == told
    assert launches(desk.offer("a2", cpus=4.0, zone="b")) == ["i.1"]
    assert desk["i"].agent == "a2"


@pytest.mark.parametrize("count", [5, 50])
def test_a_zone_without_addresses_is_passed_over_by_few_and_many(count: int) -> None:
    web = network(_pool(0, "a"), _pool(500, "b"))
    assert _put(_agents("a", "b"), web, _shape(), count) == ({"b": count}, "")


def test_a_zone_for_which_there_is_no_pool_is_passed_over_whoever_brings_an_address() -> None:
    web = network(_pool(5, "b"), _pool(5, "c", bus=("globex",)))
    for shape in (_shape(), _shape(sticky_key="acme/web/0")):
        assert _put(_agents("a", "c", "b"), web, shape, 2) == ({"b": 2}, "")
        told = "none of 2 agents is in a zone for which network web has a pool"
        assert _put(_agents("a", "c"), web, shape, 2) == ({}, told)


def test_one_that_brings_its_address_needs_no_free_one() -> None:
    web = network(_pool(0, "a"), _pool(0, "b"))
    for more in ({"sticky_key": "k"}, {"address": AddressWish(reservation="db")}):
        assert _put(_agents("a", "b"), web, _shape(**more), 1) == ({"a": 1}, "")
        desk = Desk()
        desk.subscribe()
        desk.give(free(web=web), want("i", _spec(**more)))
        assert launches(desk.offer("a1", zone="a")) == ["i.1"]


def test_units_and_environments_have_their_own() -> None:
    web = network(_pool(2, "a", bus=("acme",)), _pool(3, "b", environments=("lab",)), _pool(1, "c"))
    agents = ("a", "b", "c")
    assert _put(_agents(*agents), web, _shape(), 9)[0] == {"a": 2, "c": 1}
    assert _put(_agents(*agents), web, _shape("globex/web"), 9)[0] == {"c": 1}
    assert _put(_agents(*agents), web, _shape(environment="lab"), 9)[0] == {"a": 2, "b": 3, "c": 1}


def test_who_has_no_pool_at_all_is_told_so() -> None:
    desk = Desk()
    desk.subscribe()
    of_lab = network(_pool(9, bus=("globex",)), _pool(9, environments=("lab",)))
    desk.give(free(web=of_lab), want("i", _spec(environment="live")))
    desk.offer("a1")
    desk.tick(OFFERS_COME_S)
    assert desk["i"].delayed == "network web has no pool for acme in live"
    desk.give(want("k", _spec(environment="lab"), "acme/other"))
    assert launches(desk.offer("a1")) == ["k.1"]


# -- and how many --------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [(), ("zone",)])
@pytest.mark.parametrize(("count", "zones"), [(6, None), (50, {"a": 3, "b": 4})])
def test_a_wave_takes_no_more_than_each_zone_has(
    spread: tuple[str, ...], count: int, zones: dict[str, int] | None
) -> None:
    web = network(_pool(3, "a"), _pool(4, "b"))
    given, told = _put(_agents("a", "b", "c"), web, _shape(spread=spread), count)
    assert sum(given.values()) == min(count, 7) and given["a"] <= 3 and given["b"] <= 4
    assert zones is None or given == zones
    if count > 7:
        assert told == (
            "none of 3 agents has a free address of network web in its zone (zones a, b have none)"
        )


@pytest.mark.parametrize("count", [9, 900])
def test_a_pool_without_a_zone_is_for_all(count: int) -> None:
    web = network(_pool(2, "a"), _pool(5))
    assert _put(_agents("a", "b"), web, _shape(), count)[0] == {"a": 7}
    assert _put(_agents("b", "a"), web, _shape(), count)[0] == {"b": 5, "a": 2}
    assert _put(_agents("a", "b", cpus=0.4), web, _shape(), count)[0] == {"a": 4, "b": 3}
    assert _put(_agents("", "a"), web, _shape(), count)[0] == {"": 7}


@pytest.mark.parametrize("count", [30, 300])
def test_what_is_kept_even_stays_so_while_zones_share_a_pool(count: int) -> None:
    web = network(_pool(6, "a"), _pool(4))
    assert _put(_agents("a", "b", "c"), web, _shape(spread=("zone",)), count)[0] == {
        "a": 6,
        "b": 2,
        "c": 2,
    }
    rule = Constraint(attribute="zone", operator=_O.GROUP_BY)
    given, _ = _put(_agents("a", "b", "c"), web, _shape(constraints=(rule,)), count)
    assert given == {"a": 3, "b": 2, "c": 2}


@pytest.mark.parametrize("count", [7, 70])
def test_of_two_families_the_scarcer_one_counts_zone_by_zone(count: int) -> None:
    web = network(_pool(5, "a"), _pool(2, "a", 6), _pool(1, "b"), _pool(99, "b", 6), _pool(99, "c"))
    assert _put(_agents("a", "b", "c"), web, _shape(), count)[0] == {"a": 2, "b": 1}
    shared = network(_pool(5, "a"), _pool(4), _pool(3, family=6))
    assert _put(_agents("b", "a"), shared, _shape(), count)[0] == {"b": 3}
    assert shared.room("acme", "") == 3


def test_who_comes_later_in_a_round_finds_what_others_left() -> None:
    """Whatever the unit: they use up the same pools."""
    agents = _agents("a", "b")
    work = Round(agents, {}, None, {"web": network(_pool(40, "a"), _pool(90, "b"))})
    for n in range(30):
        given, _ = work.put(_shape(("acme", "globex")[n % 2] + f"/app{n}"), 3)
        zones = Counter(agents.rows.attributes[row]["zone"] for row, _ in given)
        assert set(zones) == ({"a"} if n < 13 else {"a", "b"} if n == 13 else {"b"})
    assert work.allowed(_shape()).tolist() == [False, True]


@pytest.mark.parametrize("again", [False, True])
def test_waves_of_one_unit_after_the_other_take_no_more_either(again: bool) -> None:
    """From decision to decision, while ipam has not heard of them; also when it tells again."""
    desk = Desk()
    desk.subscribe()
    web = free(web=network(_pool(3, "a"), _pool(2, "b")))
    desk.give(web)
    for unit in UNITS:
        desk.give(*(want(f"{unit}-{n}", _spec(), f"{unit}/app") for n in range(4)))
    for n, zone in enumerate("ababab"):
        desk.offer(f"x{n}", zone=zone)
        if again:
            desk.give(web)
    placed = [each for each in desk.cluster.instances.values() if each.agent]
    assert Counter((each.attributes or {}).get("zone") for each in placed) == {"a": 3, "b": 2}


@pytest.mark.parametrize("state", ["", "TASK_STAGING", "TASK_STARTING"])
def test_who_has_yet_to_run_is_going_to_take_an_address(state: str) -> None:
    """Whatever ipam says meanwhile: a start takes longer than the time between two of its answers."""
    desk = Desk()
    desk.subscribe()
    desk.give(free(web=2), *(want(f"i{n}", _spec()) for n in range(2)))
    desk.offer("a1")
    for n in range(2) if state else ():
        desk.tell(f"i{n}.1", state)
    desk.give(free(web=2))
    desk.give(want("late", _spec()))
    desk.offer("a2")
    assert not desk["late"].agent
    desk.tell("i0.1", "TASK_RUNNING", container="c-0")  # and tells its address
    desk.give(free(web=1))
    assert not desk["late"].agent
    desk.tell("i1.1", "TASK_FAILED")
    desk.give(free(web=1))
    assert desk["late"].agent


def test_a_dry_run_counts_by_zone_too() -> None:
    desk = Desk()
    desk.subscribe()
    desk.give(free(web=network(_pool(3, "a"), _pool(50, "b"))))
    desk.offer("a1", cpus=1.0, zone="a")
    desk.offer("a2", cpus=0.31, zone="b")
    placed = plan(desk.cluster, "acme/web", _spec(), 9, False, desk.now, desk.config)
    assert {each.zone: each.count for each in placed.places} == {"a": 3, "b": 3}
    assert placed.unplaced == 3 and placed.why is not None


Class = tuple[str, str, str]
"""Zone, business unit, environment."""

address_pools = st.builds(
    lambda count, family, scope: AddressPool(family=family, free=count, **scope),
    st.integers(0, 12),
    st.sampled_from([4, 4, 6]),
    scopes,
)
rules = st.sampled_from(
    [
        {},
        {},
        {"spread": ("zone",)},
        {"spread": ("zone", "rack")},
        {"constraints": (Constraint(attribute="zone", operator=_O.GROUP_BY),)},
        {"constraints": (Constraint(attribute="rack", operator=_O.GROUP_BY),)},
        {"constraints": (Constraint(attribute="rack", operator=_O.MAX_PER, value="5"),)},
        {"constraints": (Constraint(attribute="zone", operator=_O.CLUSTER),)},
    ]
)
asked = st.lists(
    st.tuples(st.sampled_from(UNITS), st.sampled_from(ENVIRONMENTS), rules, st.integers(1, 40)),
    min_size=1,
    max_size=4,
)
hosts = st.lists(
    st.tuples(st.sampled_from(ZONES), st.sampled_from("xyz"), st.integers(0, 20)),
    min_size=1,
    max_size=7,
)


def _lack(web: Network, placed: Iterable[Class]) -> list[Class]:
    """For whom ipam finds no address, when they come in this order and each has the first that is free."""
    left = [each.free for each in web.pools]
    lacking = []
    for zone, bu, environment in placed:
        for family in web.families:
            mine = [
                n
                for n, pool in enumerate(web.pools)
                if pool.family == family and pool.open_to(bu, environment) and pool.serves(zone)
            ]
            taken = next((n for n in mine if left[n]), None)
            if taken is None:
                lacking.append((zone, bu, environment))
            else:
                left[taken] -= 1
    return lacking


def _too_many(web: Network, placed: Counter[Class]) -> list[str]:
    """Hall's theorem: each has an address of its own exactly when no group has more members than pools have for it."""
    groups = chain.from_iterable(combinations(placed, size) for size in range(1, len(placed) + 1))
    found = []
    for group in groups:
        for family in web.families:
            number = sum(
                pool.free
                for pool in web.pools
                if pool.family == family
                and any(
                    web.open_to(bu, env) and pool.open_to(bu, env) and pool.serves(zone)
                    for zone, bu, env in group
                )
            )
            if sum(placed[each] for each in group) > number:
                found.append(f"{group}: {number} of IPv{family}")
    return found


@settings(max_examples=500, deadline=None)
@given(st.lists(address_pools, min_size=1, max_size=6), asked, hosts)
def test_no_zone_gets_more_than_its_pools_have(
    pools: list[AddressPool],
    waves: list[tuple[str, str, dict[str, Any], int]],
    where: list[tuple[str, str, int]],
) -> None:
    web = network(*pools)
    agents = Agents.of(
        [
            Candidate(
                AgentId(f"a{n}"),
                f"h{n}",
                {name: value for name, value in (("zone", zone), ("rack", rack)) if value},
                Amounts(cpus / 10 + 0.01, 1e6, 1e6),
            )
            for n, (zone, rack, cpus) in enumerate(where)
        ]
    )
    shapes = [
        _shape(f"{bu}/app{n}", environment=environment, **more)
        for n, (bu, environment, more, _) in enumerate(waves)
    ]
    work = Round(agents, {each.app: Here() for each in shapes}, None, {"web": web})
    placed: list[Class] = []
    for shape, (bu, environment, _, count) in zip(shapes, waves, strict=True):
        given, refusal = work.put(shape, count)
        for row, number in given:
            placed += [(where[row][0], bu, environment)] * number
        assert (refusal is None) == (sum(number for _, number in given) == count)
        assert refusal is None or sum(refusal.failed.values()) == len(where)
    assert _lack(web, placed) == []
    assert _too_many(web, Counter(placed)) == []


@settings(max_examples=300, deadline=None)
@given(st.lists(address_pools, min_size=1, max_size=6), st.integers(1, 60), hosts)
def test_nobody_waits_beside_a_host_for_whom_there_is_an_address(
    pools: list[AddressPool], count: int, where: list[tuple[str, str, int]]
) -> None:
    """Where ipam uses up a zone's own pools first, that is: else some are left that only hosts of the zone can have."""
    web = network(*sorted(pools, key=lambda each: not each.zone))
    where = [(zone or "a", rack, cpus) for zone, rack, cpus in where]
    agents = Agents.of(
        [
            Candidate(AgentId(f"a{n}"), f"h{n}", {"zone": zone}, Amounts(cpus / 10, 1e6, 1e6))
            for n, (zone, _, cpus) in enumerate(where)
        ]
    )
    given, refusal = Round(agents, {}, None, {"web": web}).put(_shape(), count)
    if refusal is not None:
        placed: Counter[Class] = Counter()
        left = [cpus for _, _, cpus in where]
        for row, number in given:
            placed[where[row][0], "acme", ""] += number
            left[row] -= number
        for (zone, _, _), room in zip(where, left, strict=True):
            if room > 0:
                one_more = placed + Counter({(zone, "acme", ""): 1})
                assert _too_many(web, one_more) != []
