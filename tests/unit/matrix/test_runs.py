"""What was carried out more than once, by what the runs' processes told."""

from __future__ import annotations

from dataclasses import replace

from libs.client.jobs import RunView
from tests.matrix.runs import carried_out, due, too_many
from tests.soak.witness import Seen

JOB = "acme/asked"
FIRST = RunView(run="r-1", job=JOB, target=100.25, state="succeeded", tries=1, output="t-1\n")
SEEN = Seen(JOB, "t-1", 101.0, 101.2, "h1", "ct:100250:0:asked:")
SECOND = RunView(run="r-2", job=JOB, target=103.5, state="succeeded", tries=2, output="t-3\n")
FAILED = Seen(JOB, "t-2", 104.0, None, "h1", "ct:103500:0:asked:")
RETRIED = Seen(JOB, "t-3", 106.0, 106.2, "h2", "ct:103500:1:asked:")


def test_one_process_a_try_is_right() -> None:
    assert carried_out([FIRST, SECOND], [SEEN, FAILED, RETRIED]) == []
    assert due(SEEN) == FIRST.target


def test_a_try_that_ran_twice_is_told() -> None:
    again = replace(SEEN, token="t-9", host="h2")
    assert carried_out([FIRST], [SEEN, again]) == [
        "try 0 of run r-1 ran 2 times",
        "run r-1 had 2 processes in 1 tries",
    ]


def test_more_tries_than_the_run_knows_of_are_told() -> None:
    view = SECOND.model_copy(update={"tries": 1})
    said = carried_out([view], [FAILED, RETRIED])
    assert said == ["run r-2 had 2 processes in 1 tries"]


def test_a_try_that_went_with_its_host_may_have_had_a_process() -> None:
    view = FIRST.model_copy(update={"lost_tries": 1})
    assert carried_out([view], [SEEN, replace(SEEN, token="t-9", end=None)]) == []


def test_a_process_of_no_run_is_told_and_so_are_two_runs_of_one_moment() -> None:
    assert carried_out([], [SEEN]) == ["1 processes of ct:100250:0:asked:, which is no run's"]
    twin = FIRST.model_copy(update={"run": "r-7", "state": "failed"})
    assert carried_out([twin, FIRST], [SEEN]) == ["run r-1 is for the same moment as r-7"]


def test_what_succeeded_has_told_of_its_end() -> None:
    said = ["run r-1 is said to have succeeded, and no process of it has"]
    assert carried_out([FIRST], []) == said
    assert carried_out([FIRST], [replace(SEEN, end=None)]) == said
    failed = FIRST.model_copy(update={"state": "failed"})
    assert carried_out([failed], []) == []


def test_more_than_was_asked_for_is_told() -> None:
    assert too_many("runs", {"r-1", "r-2"}, 2) == []
    assert too_many("runs", {"r-1", "r-2"}, 1) == ["2 runs came of 1 calls"]
