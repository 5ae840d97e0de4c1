"""The soak's judge: what the witness saw and what the API tells are put together rightly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from libs.client.jobs import RunView
from tests.cron.checker import Outage
from tests.cron.workload import Drawn
from tests.soak import engines, witness
from tests.soak.engines import Started
from tests.soak.judge import Asked, Judged, Late, judge, late, percentile
from tests.soak.witness import Seen

JOB = "acme/soak-1"
DRAWN = Drawn(JOB, start=1000.0, count=3, interval_s=60, epsilon_s=10, duration_s=1.0)
ASKED = Asked(DRAWN, "forbid", acknowledged=990.0)
READ_AT = 2000.0
RIGHT = (1000.5, 1060.5, 1120.5)


def seen(*begins: float) -> list[Seen]:
    return [Seen(JOB, f"t{begin:g}", begin, begin + 1) for begin in begins]


def view(begin: float, target: float, **changes: Any) -> RunView:
    told = {
        "run": f"r{begin:g}",
        "job": JOB,
        "target": target,
        "state": "succeeded",
        "tries": 1,
        "created": target,
        "ended": begin + 1.2,
        "output": f"t{begin:g}\n",
    }
    return RunView.model_validate({**told, **changes})


def views() -> list[RunView]:
    return [view(begin, target) for begin, target in zip(RIGHT, DRAWN.targets, strict=True)]


def judged(
    processes: list[Seen],
    told: list[RunView],
    asked: Asked = ASKED,
    outages: list[Outage] | None = None,
) -> Judged:
    return judge([asked], processes, told, READ_AT, outages or [])


def test_a_good_run_has_no_faults() -> None:
    found = judged(seen(*RIGHT), views())
    assert found.faults == {}
    assert (found.verdict.wanted, found.verdict.met) == (3, 3)
    assert [run.target for run in found.runs] == DRAWN.targets


def test_a_second_process_that_no_run_tells_of_is_found_in_whatever_window() -> None:
    assert set(judged(seen(*RIGHT, 1063.0), views()).faults) >= {"unclaimed", "extra"}
    # Also when another target had none, so that the windows alone would not show it.
    told = [each for each in views() if each.target != 1120.0]
    assert set(judged(seen(*RIGHT), told).faults) == {"unclaimed"}


def test_two_runs_of_one_target_are_a_double() -> None:
    told = [*views(), view(1063.0, 1060.0)]
    assert "doubles" in judged(seen(*RIGHT, 1063.0), told).faults


def test_a_target_that_had_its_run_is_not_missed_besides() -> None:
    told = [*views(), view(0, 1060.0, state="missed", tries=0, output="")]
    assert set(judged(seen(*RIGHT), told).faults) == {"twice"}


def test_a_try_that_nobody_saw_is_told() -> None:
    assert set(judged(seen(*RIGHT[1:]), views()).faults) == {"missing", "unseen"}
    told = [view(1000.5, 1000.0, tries=2), *views()[1:]]
    assert set(judged(seen(*RIGHT), told).faults) == {"unseen"}


def test_an_earlier_try_is_that_run_s_and_failed() -> None:
    processes = seen(*RIGHT)
    processes.insert(0, Seen(JOB, "before", 1000.1, None))
    told = [view(1000.5, 1000.0, tries=2), *views()[1:]]
    asked = replace(ASKED, concurrency="allow")  # when the first try ended, nobody knows
    found = judged(processes, told, asked)
    assert found.faults == {}
    failed = {run.id: run.failed for run in found.runs if run.target == 1000.0}
    assert failed == {"before": True, "t1000.5": False}


def test_what_failed_is_a_fault_for_nothing_here_may_fail() -> None:
    told = [view(1000.5, 1000.0, state="failed"), *views()[1:]]
    assert "bad" in judged(seen(*RIGHT), told).faults


def test_only_an_outage_excuses_what_is_late_or_missed() -> None:
    outage = [Outage(1055.0, 1070.0)]
    assert judged(seen(1000.5, 1084.0, 1120.5), _with(1084.0), outages=outage).faults == {}
    assert "missing" in judged(seen(1000.5, 1084.0, 1120.5), _with(1084.0)).faults
    assert "missing" in judged(seen(1000.5, 1086.0, 1120.5), _with(1086.0), outages=outage).faults
    missed = [views()[0], view(0, 1060.0, state="missed", tries=0, output=""), views()[2]]
    assert judged(seen(1000.5, 1120.5), missed, outages=outage).faults == {}
    assert set(judged(seen(1000.5, 1120.5), missed).faults) == {"missing"}


def _with(second: float) -> list[RunView]:
    first, _, last = views()
    return [first, view(second, 1060.0), last]


def test_after_a_delete_the_processes_are_judged_though_nobody_tells_of_their_runs() -> None:
    asked = replace(ASKED, delete_asked=1100.0, delete_acknowledged=1101.0)
    assert judged(seen(1000.5, 1060.5), views()[:1], asked).faults == {}
    assert "after_delete" in judged(seen(*RIGHT), views()[:1], asked).faults


def test_what_is_under_way_at_the_end_is_no_fault() -> None:
    processes = [*seen(*RIGHT[:2]), Seen(JOB, "now", 1120.5)]
    running = view(1120.5, 1120.0, state="running", ended=None, output="")
    found = judge([ASKED], processes, [*views()[:2], running], 1121.0, [])
    assert found.faults == {}
    assert found.runs[-1].end is None


def test_what_began_while_the_api_was_read_is_judged_by_nobody() -> None:
    processes = [*seen(*RIGHT[:2]), Seen(JOB, "t1120.5", 1120.5, 1121.5)]
    for told in (views(), views()[:2]):
        found = judge([ASKED], processes, told, 1119.0, [])
        assert found.faults == {}
        assert [run.start for run in found.runs] == list(RIGHT[:2])


def test_lateness_is_told_apart_by_whether_anybody_led() -> None:
    runs = judged(seen(*RIGHT), views()).runs
    quiet, disturbed = late([*runs, replace(runs[0], start=1003.0)], [Outage(1055.0, 1070.0)])
    assert quiet == [Late(0.5, JOB, 1000.0), Late(0.5, JOB, 1120.0)]
    assert disturbed == [Late(0.5, JOB, 1060.0)]
    assert [percentile([1.0, 2.0, 3.0, 4.0], each) for each in (0.5, 0.99, 1.0)] == [2.0, 4.0, 4.0]
    assert percentile([], 0.5) == 0.0


def test_the_witness_s_file() -> None:
    lines = [
        '{"at": 1.0, "what": "begin", "job": "acme/a", "token": "x"}',
        '{"at": 2.0, "what": "begin", "job": "acme/b", "token": "y"}',
        '{"at": 3.0, "what": "end", "job": "acme/a", "token": "x"}',
    ]
    assert witness.read(lines) == [Seen("acme/a", "x", 1.0, 3.0), Seen("acme/b", "y", 2.0)]


def test_the_engines_events() -> None:
    lines = ["2500000000 acme/job.a ", "1000000000 acme/runs 0123abcd", "3000000000 acme/web "]
    found = engines.read(lines)
    assert found == [Started("acme/a", 2.5), Started("", 1.0)]


def test_where_runs_are_alone_there_are_as_many_containers() -> None:
    asked = replace(ASKED, alone=True)
    each = [Started(JOB, begin - 0.3) for begin in RIGHT]

    def with_(started: list[Started]) -> set[str]:
        return set(judge([asked], seen(*RIGHT), views(), READ_AT, [], started).faults)

    assert with_(each) == set()
    for wrong in (each[1:], [*each, Started(JOB, 1500.0)], [replace(each[0], job=""), *each[1:]]):
        assert with_(wrong) == {"containers"}
    assert with_([*each, Started(JOB, READ_AT - 1.0)]) == set()
    assert judge([ASKED], seen(*RIGHT), views(), READ_AT, [], each[1:]).faults == {}
