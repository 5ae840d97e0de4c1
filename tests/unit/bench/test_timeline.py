"""The table that says where the time of a burst goes."""

from __future__ import annotations

from typing import Any

from tests.bench.timeline import rows

START_NS = 1_000_000_000_000


def span(name: str, began_s: float, took_s: float) -> dict[str, Any]:
    began_ns = START_NS + int(began_s * 1e9)
    return {
        "service": "gantry-executor",
        "name": name,
        "start_ns": began_ns,
        "end_ns": began_ns + int(took_s * 1e9),
    }


def test_kinds_come_in_the_order_in_which_they_end_with_their_times() -> None:
    starts = [span("start", 1.0 + n, 0.5) for n in range(4)]
    creates = [span("create", n, 0.1 * (n + 1)) for n in range(4)]
    create, start = rows([*starts, *creates], START_NS, least=4)
    assert (create.name, create.count, round(create.mean_s, 3), round(create.p95_s, 3)) == (
        "create",
        4,
        0.25,
        0.4,
    )
    assert (start.name, round(start.median_end_s, 3), round(start.last_end_s, 3)) == (
        "start",
        3.5,
        4.5,
    )


def test_what_began_before_or_happens_to_few_is_left_out() -> None:
    early = [span("early", -1.0, 5.0)] * 4
    rare = [span("rare", 1.0, 1.0)] * 2
    assert rows([*early, *rare], START_NS, least=3) == []
