"""What the simulation holds schedules to when a clock is changed is said without them, and is right."""

import random
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from libs.common.schedule import parse
from tests.simulation.jobs.drawing import BACK, FORWARD, changing, on_the_wall
from tests.simulation.loop import CHANGE_S, EPOCH_S

END_S = EPOCH_S + 1800


def _shown(zone: str, at: float) -> str:
    return datetime.fromtimestamp(at, ZoneInfo(zone)).strftime("%H:%M")


def test_both_clocks_are_changed_at_that_moment() -> None:
    assert [_shown(FORWARD, CHANGE_S + each) for each in (-1, 0)] == ["23:59", "01:00"]
    assert [_shown(BACK, CHANGE_S + each) for each in (-1, 0)] == ["01:59", "01:00"]


def _targets(zone: str, hours: tuple[int, ...], minutes: tuple[int, ...], every: bool) -> list[str]:
    found = on_the_wall(zone, hours, minutes, 30, every=every)(EPOCH_S, END_S)
    return [datetime.fromtimestamp(each, UTC).strftime("%H:%M:%S") for each in found]


def test_times_that_are_left_out_are_one_target_and_those_that_come_twice_are_not_two() -> None:
    gap = _targets(FORWARD, (23, 0, 1), (5, 50), every=False)
    assert gap == ["03:50:30", "04:00:00", "04:05:30"]
    assert _targets(FORWARD, (23, 0, 1), (5, 50), every=True) == ["03:50:30", "04:05:30"]
    assert _targets(BACK, (1,), (5, 50), every=False) == ["03:50:30"]
    assert _targets(BACK, (1,), (5, 50), every=True) == ["03:50:30", "04:05:30"]


def test_the_schedules_say_the_same() -> None:
    seen = set()
    for seed in range(300):
        timing = changing(random.Random(seed))
        assert timing.text is not None and timing.times is not None
        said = parse(timing.text, timing.zone).between(EPOCH_S - 1, END_S, 100)
        assert said == timing.times(EPOCH_S, END_S), timing
        seen.add((timing.zone, timing.text.startswith("R"), "*/" in timing.text, CHANGE_S in said))
    assert len(seen) == 6  # three kinds in either direction
