"""The soak's judge: what the witness saw and what the API tells are put together rightly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from libs.client.jobs import RunView
from tests.cron.checker import Outage
from tests.cron.workload import Drawn
from tests.soak import engines, witness
from tests.soak.engines import Started
from tests.soak.judge import (
    FOUND_S,
    RECOVERY_S,
    Asked,
    Death,
    Judged,
    Late,
    judge,
    late,
    percentile,
)
from tests.soak.reporter import Word
from tests.soak.witness import Seen

JOB = "acme/soak-1"
DRAWN = Drawn(JOB, start=1000.0, count=3, interval_s=60, epsilon_s=10, duration_s=1.0)
ASKED = Asked(DRAWN, "forbid", acknowledged=990.0)
READ_AT = 2000.0
RIGHT = (1000.5, 1060.5, 1120.5)
DEATHS = [Death("h1", 1060.2, [])]


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


@pytest.mark.parametrize("lost", [0, 1])
def test_a_second_process_of_a_run_is_a_fault_whatever_is_said_of_the_first(lost: int) -> None:
    processes = seen(*RIGHT)
    processes.insert(0, Seen(JOB, "before", 1000.1, None))
    told = [view(1000.5, 1000.0, tries=2, lost_tries=lost), *views()[1:]]
    for dead in (False, True):
        found = judge([ASKED], processes, told, READ_AT, [], deaths=DEATHS if dead else [])
        assert found.faults.keys() >= {"again", "doubles"}


def test_only_a_try_that_was_not_begun_may_be_lost_and_only_with_its_executor() -> None:
    def found(*deaths: Death, **changes: Any) -> set[str]:
        told = views()
        told[1] = view(1060.5, 1060.0, tries=2, **changes)
        return set(judge([ASKED], seen(*RIGHT), told, READ_AT, [], deaths=deaths).faults)

    assert found(*DEATHS, lost_tries=1) == set()
    assert found(lost_tries=1) == {"unseen"}
    assert found(*DEATHS) == {"unseen"}, "it was said to have failed otherwise"
    assert found(replace(DEATHS[0], at=1100.0), lost_tries=1) == {"unseen"}
    assert found(*DEATHS, lost_tries=1, state="lost") == {"bad"}
    assert found(*DEATHS, lost_tries=1, state="failed") == {"bad"}


def test_the_death_of_an_executor_excuses_no_time() -> None:
    late = judge([ASKED], seen(1000.5, 1084.0, 1120.5), _with(1084.0), READ_AT, [], deaths=DEATHS)
    assert "missing" in late.faults
    missed = [views()[0], view(0, 1060.0, state="missed", tries=0, output=""), views()[2]]
    found = judge([ASKED], seen(1000.5, 1120.5), missed, READ_AT, [], deaths=DEATHS)
    assert set(found.faults) == {"missing"}


def _replaced(reason: str = "replaced by run r1060.5", **changes: Any) -> RunView:
    told = {"state": "killed", "reason": reason, "output": "", "started": 1000.4, "ended": 1060.3}
    return view(1000.5, 1000.0, **{**told, **changes})


REPLACING = replace(ASKED, concurrency="replace")


def test_only_the_next_run_of_its_job_replaces_one() -> None:
    processes = [Seen(JOB, "t1000.5", 1000.5, 1060.2), *seen(*RIGHT[1:])]
    for asked, right in ((REPLACING, _replaced()), (REPLACING, _replaced(output="t1000.5\n"))):
        found = judged(processes, [right, *views()[1:]], asked)
        assert found.faults == {} and found.verdict.met == 3
    for wrong in ("replaced by run r1000.5", "replaced by run other", "killed by ann", ""):
        assert set(judged(processes, [_replaced(wrong), *views()[1:]], REPLACING).faults) == {"bad"}
    # The one that replaces it waits for its end.
    processes[0] = replace(processes[0], end=1061.0)
    assert "overlaps" in judged(processes, [_replaced(), *views()[1:]], REPLACING).faults


def test_what_is_replaced_before_it_tells_of_itself_meets_nothing() -> None:
    outage = [Outage(1000.0, 1058.0)]
    for never in (_replaced(started=1059.0), _replaced(started=None, tries=0)):
        told = [never, *views()[1:]]
        assert judged(seen(*RIGHT[1:]), told, REPLACING, outage).faults == {}
        assert set(judged(seen(*RIGHT[1:]), told, REPLACING).faults) == {"missing"}
    # It was there for long enough to tell.
    told = [_replaced(), *views()[1:]]
    assert "unseen" in judged(seen(*RIGHT[1:]), told, REPLACING, outage).faults


TOLD = replace(ASKED, told=True)


def _told(
    second: RunView, *words: Word, processes: list[Seen] | None = None, read_at: float = READ_AT
) -> set[str]:
    """The faults of three runs, of which the second is looked at; the others are told well."""
    others = [Word("t1000.5", 0, 1002.0, 1002.1), Word("t1120.5", 0, 1122.0, 1122.1)]
    told = [view(1000.5, 1000.0, ended=1002.1, exit_code=0)]
    told += [second, view(1120.5, 1120.0, ended=1122.1, exit_code=0)]
    ran = processes or seen(*RIGHT)
    return set(judge([TOLD], ran, told, read_at, [], words=[*others, *words]).faults)


def _second(**changes: Any) -> RunView:
    return view(1060.5, 1060.0, **{"ended": 1065.1, "exit_code": 0, **changes})


def test_it_ends_as_it_is_told() -> None:
    well = Word("t1060.5", 0, 1065.0, 1065.1)
    assert _told(_second(), well) == set()
    assert _told(_second()) == {"untrue"}, "nobody told"
    assert _told(_second(ended=1062.0), well) == {"untrue"}, "nobody had told yet"
    assert _told(_second(), replace(well, status=3)) == {"untrue"}
    assert _told(_second(state="failed", exit_code=3), well) == {"untrue"}
    assert _told(_second(), replace(well, notes="no run is under way")) == {"unheard"}
    noted = judge(
        [TOLD], [], [], READ_AT, [Outage(1064.0, 1065.0)], words=[replace(well, notes="x")]
    )
    assert "unheard" not in noted.faults, "its leader died"
    early = replace(well, asked=1060.6, acknowledged=1060.7)
    assert _told(_second(ended=1061.6), early) == set(), "its command was at it still"


def test_what_is_told_to_have_failed_is_tried_again_and_nothing_else() -> None:
    ran = [*seen(*RIGHT), *seen(1067.0, 1074.0)]
    failed = [Word(f"t{at:g}", 3, at + 5, at + 5.1) for at in (1060.5, 1067.0, 1074.0)]
    last = {"output": "t1074\n", "tries": 3, "ended": 1079.1}
    assert _told(_second(**last, state="failed", exit_code=3), *failed, processes=ran) == set()
    well = [*failed[:2], replace(failed[2], status=0)]
    assert _told(_second(**last), *well, processes=ran) == set()
    assert "untrue" in _told(_second(**last), *failed, processes=ran)
    # Another try, though the one before was told to have gone well; and none, though it failed.
    doubled = [failed[0], replace(failed[1], status=0), well[2]]
    assert "untrue" in _told(_second(**last), *doubled, processes=ran)
    assert _told(_second(state="failed", exit_code=3), failed[0]) == {"untrue"}


def test_it_goes_on_until_it_is_told_and_no_longer() -> None:
    running = _second(state="running", ended=None, exit_code=None)
    well = Word("t1060.5", 0, 1065.0, 1065.1)
    soon, late = 1065.0 + RECOVERY_S, 1066.0 + RECOVERY_S
    assert "untrue" not in _told(running, well, read_at=soon)
    assert "untrue" in _told(running, well, read_at=late)
    assert "untrue" not in _told(running, read_at=late)
    # Until then, no other one may begin.
    assert "overlaps" in _told(running)


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


def test_what_did_not_come_to_its_end_has_not_succeeded() -> None:
    processes = [Seen(JOB, "t1000.5", 1000.5), *seen(*RIGHT[1:])]
    assert set(judged(processes, views()).faults) == {"cut"}


def test_what_was_over_long_ago_must_be_known_to_be() -> None:
    processes = seen(*RIGHT)
    running = view(1120.5, 1120.0, state="running", ended=None, output="")
    for later, faults in ((0.0, set()), (1.0, {"endless"})):
        read_at = 1121.5 + FOUND_S + later
        assert set(judge([ASKED], processes, [*views()[:2], running], read_at, []).faults) == faults


def test_what_ended_only_by_the_delete_of_its_job_was_told_to_run_before() -> None:
    asked = replace(ASKED, delete_asked=1150.0, delete_acknowledged=1150.5)
    running = view(1120.5, 1120.0, state="running", ended=None, output="")
    for end, faults in ((1150.2, set()), (1121.5, {"endless"})):
        processes = [*seen(*RIGHT[:2]), Seen(JOB, "t1120.5", 1120.5, end)]
        assert set(judged(processes, [*views()[:2], running], asked).faults) == faults


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
    begun = (
        '{"at": 1.0, "what": "begin", "job": "acme/a", "token": "x", "host": "h1", "task": "ct"}'
    )
    assert witness.read([begun]) == [Seen("acme/a", "x", 1.0, host="h1", task="ct")]


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
