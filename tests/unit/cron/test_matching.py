"""Against maximum bipartite matching, written plainly."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cron.checker import Job, Run, check
from tests.cron.matching import Matching, Window

moments = st.integers(0, 40).map(float)
windows = st.lists(
    st.builds(
        lambda opens, length, wanted: Window(opens, opens, opens + length, wanted),
        moments,
        st.integers(0, 12),
        st.booleans(),
    ),
    max_size=12,
).map(lambda each: sorted(each, key=lambda window: window.opens))
starts = st.lists(moments, max_size=12)


def largest(starts: Sequence[float], windows: Sequence[Window]) -> int:
    """The size of a maximum matching: Kuhn's algorithm, a start at a time."""
    owner: dict[int, int] = {}

    def place(start: int, seen: set[int]) -> bool:
        for at, window in enumerate(windows):
            if at not in seen and window.opens <= starts[start] <= window.closes:
                seen.add(at)
                if at not in owner or place(owner[at], seen):
                    owner[at] = start
                    return True
        return False

    return sum(place(start, set()) for start in range(len(starts)))


def _sound(matching: Matching) -> None:
    assert {window: start for start, window in matching.of_start.items()} == matching.of_window
    for start, at in matching.of_start.items():
        assert matching.windows[at].opens <= matching.starts[start] <= matching.windows[at].closes


@settings(deadline=None)
@given(starts, windows)
def test_greedy_alone_is_a_maximum(points: list[float], intervals: list[Window]) -> None:
    matching = Matching(intervals, points)
    matching.greedy(range(len(points)), range(len(intervals)))
    _sound(matching)
    assert len(matching.of_start) == largest(points, intervals)


@settings(deadline=None)
@given(starts, windows)
def test_wanted_windows_first_and_then_as_many_as_can_be(
    points: list[float], intervals: list[Window]
) -> None:
    matching = Matching(intervals, points)
    wanted = [at for at, window in enumerate(intervals) if window.wanted]
    matching.greedy(range(len(points)), wanted)
    served = set(matching.of_window)
    assert len(served) == largest(points, [intervals[at] for at in wanted])
    free = [at for at in range(len(points)) if at not in matching.of_start]
    matching.greedy(free, matching.free())
    matching.augment([at for at in free if at not in matching.of_start])
    _sound(matching)
    assert served <= set(matching.of_window)
    assert len(matching.of_start) == largest(points, intervals)


@settings(deadline=None)
@given(starts, windows)
def test_paths_alone_are_a_maximum_too(points: list[float], intervals: list[Window]) -> None:
    matching = Matching(intervals, points)
    matching.augment(range(len(points)))
    _sound(matching)
    assert len(matching.of_start) == largest(points, intervals)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 100).map(float), max_size=15),
    st.lists(st.integers(0, 100).map(float), max_size=15, unique=True).map(sorted),
    st.integers(0, 20),
    st.integers(20, 200),
    st.integers(0, 100),
)
def test_a_verdict_is_that_of_the_maximum(
    began: list[float], targets: list[float], epsilon: int, read_at: int, acknowledged: int
) -> None:
    job = Job("a", targets, epsilon, acknowledged=acknowledged, may_overlap=True)
    found = check([job], [Run("a", start, start) for start in began], read_at)
    every = [Window(t, t, t + epsilon + 5) for t in targets if t <= read_at]
    wanted = [each for each in every if acknowledged <= each.target < read_at - epsilon]
    assert found.wanted == len(wanted)
    assert len(found.missing) == len(wanted) - largest(began, wanted)
    assert len(found.extra) == len(began) - largest(began, every)
