"""When a storm of runs has left more than it may."""

from __future__ import annotations

from tests.bench.storm import BOUNDS, grown


def test_what_has_grown_beyond_its_bound_is_named() -> None:
    before = {"containers": 1.0, **dict.fromkeys(BOUNDS, 10.0)}
    at_most = {"containers": 1.0, **{key: 10.0 + bound for key, (bound, _, _) in BOUNDS.items()}}
    assert grown(before, at_most, 0) == []
    assert grown(before, {**at_most, "rss": 42.5}, 0) == [
        "rss: from 10 to 42.5 MiB, 32 more at most"
    ]
    for key in BOUNDS:
        assert len(grown(before, {**at_most, key: at_most[key] + 1}, 0)) == 1


def test_containers_that_may_be_there_have_what_each_has() -> None:
    before = {"containers": 1.0, **dict.fromkeys(BOUNDS, 10.0)}
    at_most = {"containers": 3.0}
    at_most |= {key: 10.0 + bound + 2 * each for key, (bound, each, _) in BOUNDS.items()}
    assert grown(before, at_most, 2) == []
    assert grown(before, at_most, 1) == ["containers: from 1 to 3, 1 more at most"]
    assert len(grown(before, {**at_most, "fds": at_most["fds"] + 1}, 2)) == 1
