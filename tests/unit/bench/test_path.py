"""When the path of many tasks is at its end, and what store and Mesos must say then."""

from __future__ import annotations

import pytest

from tests.bench.path import acknowledged, amiss

SENT, ACKNOWLEDGED = "master/valid_status_updates", "master/valid_status_update_acknowledgements"
REFUSED = "master/invalid_status_update_acknowledgements"
RIGHT = {"master/tasks_running": 5.0, "master/tasks_starting": 0.0, REFUSED: 0.0}


@pytest.mark.parametrize(
    ("sent", "answered", "all_are"),
    [
        (10, 10, True),
        (10, 9, False),
        (9, 9, False),  # the last one is still to come
        (12, 12, True),  # two had to be sent again
        (12, 11, False),
    ],
)
def test_each_update_that_was_sent_must_be_acknowledged(
    sent: int, answered: int, all_are: bool
) -> None:
    assert acknowledged({SENT: sent, ACKNOWLEDGED: answered}, 5) == all_are


def test_store_and_mesos_say_that_all_run() -> None:
    assert amiss(5, 5, RIGHT, 5) == []
    assert amiss(4, 5, RIGHT, 5) == ["4 of 5 instances are saved as running, not 5"]
    assert amiss(5, 6, RIGHT, 5) == ["5 of 6 instances are saved as running, not 5"]
    starts = {**RIGHT, "master/tasks_running": 4.0, "master/tasks_starting": 1.0}
    assert amiss(5, 5, starts, 5) == ["of Mesos' 5 tasks 4 run, not 5"]
    doubled = {**RIGHT, "master/tasks_starting": 1.0}
    assert amiss(5, 5, doubled, 5) == ["of Mesos' 6 tasks 5 run, not 5"]
    assert amiss(5, 5, {**RIGHT, REFUSED: 2.0}, 5) == ["2 acknowledgements were for nothing"]
