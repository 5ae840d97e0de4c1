"""What the console makes of networks: bars, rows, the map of a pool and the way through a large one."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

import pytest

from libs.client.networks import (
    AddressMap,
    AddressView,
    LimitView,
    NetworkView,
    PoolView,
    QuotaView,
    Span,
)
from services.gateway.console.map_view import Range, detail, pool_map, range_of, told_of
from services.gateway.console.network_view import amount, card, quota_rows

POOL = PoolView(pool="default", cidr="10.0.0.0/24", usable=253, free=200, allocated=50, cooling=3)
BIG = PoolView(pool="big", cidr="10.0.0.0/8")
SIX = PoolView(pool="six", cidr="fd00::/64")


def query(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))


def test_a_network_says_for_whom_it_is_and_how_full() -> None:
    made = card(NetworkView(network="web", vlan=7, bus=("acme",), pools=(POOL,)), "default")
    (row,) = made.pools
    assert made.facts == "VLAN 7 · for acme" and row.is_shown and row.others == "3 cooling"
    assert (row.bar.percent, row.bar.text) == (20.9, "50 allocated, 3 cooling, 200 free")
    parts = row.bar.parts
    assert [each.state for each in parts] == ["allocated", "cooling"]
    assert parts[1].at == parts[0].width and sum(each.width for each in parts) <= 100
    empty = card(NetworkView(network="web", pools=(PoolView(pool="x", cidr="10.0.0.0/30"),)))
    assert empty.pools[0].bar.parts == () and empty.facts == "for all units"


def test_bars_never_overflow() -> None:
    full = POOL.model_copy(update={"free": 0, "allocated": 253, "held": 1, "quarantined": 1})
    bar = card(NetworkView(network="w", pools=(full,))).pools[0].bar
    assert sum(each.width for each in bar.parts) <= 100.0


def test_a_quota_has_a_row_for_each_limit() -> None:
    limits = (LimitView(limit=100, used=95), LimitView(network="dmz", limit=9, used=0))
    rows = quota_rows([QuotaView(bu="acme", limits=limits)])
    assert [(r.bu, r.network, r.used, r.limit) for r in rows] == [
        ("acme", "all networks", 95, "100"),
        ("acme", "dmz", 0, "9"),
    ]
    # What is nearly used up looks like what somebody must see to.
    assert [r.bar.parts[0].state for r in rows] == ["quarantined", "allocated"]
    assert [r.bar.percent for r in rows] == [95.0, 0.0]


def test_numbers_nobody_counts_are_short() -> None:
    assert [amount(n) for n in (0, 999_999_999, 2**52)] == ["0", "999,999,999", "4.5·10¹⁵"]


@pytest.mark.parametrize(
    ("pool", "first", "count", "expected"),
    [
        (POOL, "", 0, Range("10.0.0.0", 256)),
        (POOL, "10.0.0.250", 100, Range("10.0.0.250", 6)),
        (BIG, "", 0, Range("10.0.0.0", 2**24)),
        (SIX, "", 0, Range("fd00::", 512)),
        (SIX, "fd00::1:0", 0, Range("fd00::1:0", 512)),
    ],
)
def test_a_range_stays_in_its_pool(pool: PoolView, first: str, count: int, expected: Range) -> None:
    assert range_of(pool, first, count) == expected


@pytest.mark.parametrize(
    "first", ["10.0.1.0", "9.9.9.9", "fd00::1", "::a00:7", "ten", "10.0.0.1/24"]
)
def test_what_is_not_in_the_pool_is_refused(first: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        range_of(POOL, first, 0)


def test_the_map_of_a_small_pool_shows_each_address() -> None:
    spans = (
        Span(first="10.0.0.0", count=1, state="excluded"),
        Span(first="10.0.0.1", count=1, state="allocated", instance="acme-web-1", since=1e9),
        Span(first="10.0.0.2", count=254, state="free"),
    )
    told = AddressMap(first="10.0.0.0", count=256, spans=spans)
    made = pool_map("web", POOL, Range("10.0.0.0", 256), told, "10.0.0.1")
    assert (made.block, len(made.rows), len(made.rows[0].cells)) == (1, 16, 16)
    assert [row.label for row in made.rows[:2]] == ["10.0.0.0", "10.0.0.16"]
    cell = made.rows[0].cells[1]
    assert cell.told == "10.0.0.1: allocated, acme-web-1, since 2001-09-09 01:46:40Z"
    assert cell.is_shown and query(cell.url)["address"] == "10.0.0.1"
    assert [(state, count) for state, _, count in made.legend] == [
        ("free", "254"), ("allocated", "1"), ("excluded", "1"),
    ]  # fmt: skip
    assert [(each.first, each.last) for each in made.lines][1:] == [
        ("10.0.0.1", ""), ("10.0.0.2", "10.0.0.255"),
    ]  # fmt: skip
    assert (made.before, made.after, made.crumbs) == ("", "", (("10.0.0.0/24", ""),))


@pytest.mark.parametrize(("pool", "clicks"), [(BIG, 2), (SIX, 5)])
def test_every_address_of_a_large_pool_is_some_clicks_away(pool: PoolView, clicks: int) -> None:
    first = "10.7.7.7" if pool is BIG else "fd00::7:7:7:7"
    shown = range_of(pool, "", 2**52)
    for step in range(1, 10):
        told = AddressMap(spans=(Span(first=shown.first, count=shown.count, state="free"),))
        made = pool_map("web", pool, shown, told, "")
        assert len(made.crumbs) == step and made.block_text
        if made.block == 1:
            break
        cells = [cell for row in made.rows for cell in row.cells]
        from_ = [range_of(pool, query(c.url)["from"], int(query(c.url)["count"])) for c in cells]
        shown = max(
            (r for r in from_ if _number(r.first) <= _number(first)),
            key=lambda r: _number(r.first),
        )
    assert step == clicks + 1
    found = [cell.told for row in made.rows for cell in row.cells]
    assert f"{first}: free" in found
    assert query(made.crumbs[0][1])["count"] == str(2**24 if pool is BIG else 2**52)


def _number(address: str) -> int:
    from ipaddress import ip_address

    return int(ip_address(address))


def test_turning_over_stays_in_the_pool() -> None:
    told = AddressMap(spans=())
    middle = pool_map("web", POOL, Range("10.0.0.64", 128), told, "")
    assert (
        query(middle.before)["from"] == "10.0.0.0" and query(middle.after)["from"] == "10.0.0.192"
    )
    assert {cell.look for row in middle.rows for cell in row.cells} == {"unknown"}


def test_a_block_tells_its_states() -> None:
    told = AddressMap(
        spans=(
            Span(first="10.0.0.0", count=20_000, state="allocated"),
            Span(first="10.0.78.32", count=2**24 - 20_000, state="free"),
        )
    )
    made = pool_map("web", BIG, Range("10.0.0.0", 2**24), told, "")
    one, two, *_ = made.rows[0].cells
    assert one.told == "10.0.0.0 to 10.0.127.255: 20,000 allocated, 12,768 free"
    assert (one.look, one.level, two.look, two.level) == ("mixed", 4, "free", 0)


def test_an_address_tells_its_past() -> None:
    view = AddressView.model_validate(
        {
            "address": "10.0.0.1",
            "state": "cooling",
            "free_at": 1e9,
            "history": [{"since": 1.0, "until": 2.0, "instance": "a", "why": "del"}],
        }
    )
    made = detail(view)
    assert made.facts == (("Free again", "2001-09-09 01:46:40Z"),)
    assert (made.history[0].instance, made.history[0].until) == ("a", "1970-01-01 00:00:02Z")


def test_others_addresses_are_their_state() -> None:
    from libs.client.addressmap import grid

    (cell,) = grid("10.0.0.1", 1, [Span(first="10.0.0.1", count=1, state="allocated")])
    assert told_of(cell) == "10.0.0.1: allocated"
