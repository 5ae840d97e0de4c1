"""When a storm of runs has left more than it may."""

from __future__ import annotations

from tests.bench.storm import AGAIN, BOUNDS, allowance, grown

BEFORE = {"containers": 1.0, **dict.fromkeys(BOUNDS, 10.0)}


def test_what_has_grown_beyond_its_bound_is_named() -> None:
    at_most = {"containers": 1.0, **{key: 10.0 + bound for key, (bound, _, _) in BOUNDS.items()}}
    assert grown(BEFORE, at_most, 0) == []
    assert grown(BEFORE, {**at_most, "rss": 42.5}, 0) == ["rss"]
    for key in BOUNDS:
        assert grown(BEFORE, {**at_most, key: at_most[key] + 1}, 0) == [key]


def test_containers_that_may_be_there_have_what_each_has() -> None:
    at_most = {"containers": 3.0}
    at_most |= {key: 10.0 + bound + 2 * each for key, (bound, each, _) in BOUNDS.items()}
    assert grown(BEFORE, at_most, 2) == []
    assert grown(BEFORE, at_most, 1) == ["containers"]
    assert grown(BEFORE, {**at_most, "fds": at_most["fds"] + 1}, 2) == ["fds"]
    assert allowance(BEFORE, at_most, 2) == {
        "containers": 2.0,
        **{key: bound + 2 * each for key, (bound, each, _) in BOUNDS.items()},
    }


def test_a_second_storm_may_leave_little_of_the_executors_memory() -> None:
    after = {**BEFORE, "rss": 14.5}
    assert grown(BEFORE, after, 0) == []
    assert grown(BEFORE, after, 0, AGAIN) == ["rss"]
    assert grown(BEFORE, {**after, "rss": 14.0}, 0, AGAIN) == []
