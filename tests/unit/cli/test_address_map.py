"""A range of addresses as a grid and as characters: what a person sees of /28s and of /8s."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from libs.cli.address_map import draw
from libs.client.addressmap import block_size, extent, grid, moved
from libs.client.networks import STATES, AddressMap, Span


def spans(first: str, *parts: tuple[int, str]) -> list[Span]:
    """Spans one after the other."""
    found = []
    for count, state in parts:
        found.append(Span(first=first, count=count, state=state))
        first = moved(first, count)
    return found


def lines(told: AddressMap, gateway: str = "") -> list[str]:
    return [each.plain for each in draw(told, gateway)]


@given(
    st.lists(st.tuples(st.integers(1, 5000), st.sampled_from(STATES)), min_size=1, max_size=30),
    st.integers(0, 2000),
    st.integers(1, 20_000),
)
def test_every_address_is_in_one_cell(parts: list[tuple[int, str]], begin: int, count: int) -> None:
    told = spans("10.0.0.0", *parts)
    cells = grid(moved("10.0.0.0", begin), count, told, 64)
    assert sum(cell.count for cell in cells) == count
    assert all(sum(cell.states.values()) == cell.count for cell in cells)
    assert len(cells) <= 64 and len({cell.count for cell in cells[:-1]}) <= 1
    states = [state for size, state in parts for _ in range(size)][begin : begin + count]
    for state in STATES:
        assert sum(cell.states.get(state, 0) for cell in cells) == states.count(state)
    unknown = sum(cell.states.get("unknown", 0) for cell in cells)
    assert unknown == count - len(states)


def test_a_cell_says_what_matters() -> None:
    told = spans("10.0.0.0", (8, "excluded"), (4, "allocated"), (3, "free"), (1, "quarantined"))
    (one,) = grid("10.0.0.0", 16, told, 1)
    assert (one.state, one.used, one.last) == ("quarantined", 5 / 8, "10.0.0.15")
    assert one.told == "8 excluded, 4 allocated, 3 free, 1 quarantined"
    mixed = grid("10.0.0.8", 4, told, 1)[0]
    assert mixed.state == "allocated" and mixed.used == 1.0
    named = Span(first="fd00::7", count=1, state="allocated", instance="web-1", since=5.0)
    (single,) = grid("fd00::7", 1, [named])
    assert (single.first, single.instance, single.since) == ("fd00::7", "web-1", 5.0)


def test_blocks_are_powers_of_two() -> None:
    sizes = [block_size(count, 512) for count in (1, 512, 513, 1024, 2**24, 2**52)]
    assert sizes == [1, 1, 2, 2, 2**15, 2**43]
    assert extent("10.0.0.0/8") == ("10.0.0.0", 2**24)
    assert extent("fd00::/64") == ("fd00::", 2**52)
    assert moved("255.255.255.255", 1) == "255.255.255.255" and moved("::", -1) == "::"


def test_a_small_pool_has_a_character_for_each_address() -> None:
    parts = (
        (1, "excluded"), (30, "allocated"), (2, "held"), (1, "cooling"), (93, "free"), (1, "excluded"),
    )  # fmt: skip
    told = AddressMap(
        network="web", pool="default", cidr="10.0.0.0/25", first="10.0.0.0", count=128,
        spans=tuple(spans("10.0.0.0", *parts)),
    )  # fmt: skip
    head, first, second, blank, legend = lines(told, "10.0.0.1")
    assert (
        head == "web/default 10.0.0.0/25; 10.0.0.0 to 10.0.0.127, 128 addresses; gateway 10.0.0.1"
    )
    assert first == "10.0.0.0   " + "x" + "#" * 30 + "hhc" + "." * 30
    assert second == "10.0.0.64  " + "." * 63 + "x"
    assert blank == "" and legend.split() == [
        *(".", "free", "93", "#", "allocated", "30", "h", "held", "2", "c", "cooling", "1"),
        *("x", "excluded", "2"),
    ]


def test_a_large_pool_has_a_character_for_each_block() -> None:
    parts = ((2**13, "allocated"), (2**12, "free"), (2**12, "allocated"), (1, "quarantined"))
    told = AddressMap(
        network="web", pool="big", cidr="10.0.0.0/8", first="10.0.0.0", count=2**24,
        spans=tuple(spans("10.0.0.0", *parts)), next="10.200.0.0",
    )  # fmt: skip
    head, first, *rest = lines(told)
    assert head.endswith("16,777,216 addresses; a character is 16,384 of them")
    assert first.split()[1] == "7!" + "?" * 62
    assert len([each for each in rest if each.startswith("10.")]) == 15
    assert rest[-1] == "more from 10.200.0.0 on: --from 10.200.0.0"
    assert any(each.startswith("0 to 9: a block of several states") for each in rest)
