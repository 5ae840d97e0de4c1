"""The checker finds what is wrong, and nothing else."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.schedule import parse
from tests.cron.checker import JEPSEN, OURS, Job, Outage, Rules, Run, Verdict, check
from tests.cron.workload import Drawn, draw

MINUTELY = Job("a", (0.0, 60.0, 120.0), epsilon_s=10.0, count=3)
LATE = 1000.0


def ran(*starts: float, job: str = "a") -> list[Run]:
    return [Run(job, start, start + 1) for start in starts]


def judged(
    *starts: float, job: Job = MINUTELY, read_at: float = LATE, rules: Rules = OURS
) -> Verdict:
    return check([job], ran(*starts), read_at, rules=rules)


def test_the_vectors_of_the_analysis() -> None:
    assert judged(3, 65, 127, 180, rules=JEPSEN).valid
    ours = judged(3, 65, 127, 180)
    assert not ours.valid
    assert [run.start for run in ours.extra] == [180]
    assert [run.start for run in ours.outside] == [180]
    for rules in (JEPSEN, OURS):
        found = judged(3, 127, 180, rules=rules)
        assert not found.valid
        assert found.missing == [("a", 60.0)]


def test_windows_are_closed_intervals_with_five_seconds_on_top() -> None:
    assert judged(0, 75, 120).valid
    assert judged(0, 75.001, 120).missing == [("a", 60.0)]
    assert judged(-0.001, 60, 120).missing == [("a", 0.0)]
    assert judged(0, 66, 120, rules=Rules(forgiveness_s=0.0)).valid
    assert judged(0, 71, 120, rules=Rules(forgiveness_s=0.0)).missing == [("a", 60.0)]


def test_targets_are_asked_for_before_the_final_read_less_epsilon_and_duration() -> None:
    job = replace(MINUTELY, duration_s=5.0)
    assert judged(3, 65, job=job, read_at=135.0).valid  # 120 is not before 135 - 10 - 5
    assert judged(3, 65, job=job, read_at=135.001).missing == [("a", 120.0)]
    # It may have had its run all the same.
    assert judged(3, 65, 121, job=job, read_at=130.0).valid


def test_only_runs_that_ended_count() -> None:
    runs = [*ran(3, 127), Run("a", 65.0, None)]
    found = check([MINUTELY], runs, LATE)
    assert found.missing == [("a", 60.0)]
    assert not found.extra  # it is that target's
    assert check([MINUTELY], [*ran(3, 65), Run("a", 121.0)], 125.0).valid  # still under way


def test_a_run_beside_another_in_a_window_is_one_too_many() -> None:
    found = judged(3, 5, 65, 127)
    assert [run.start for run in found.extra] == [5]
    assert not found.outside and not found.missing
    assert [run.start for run in found.beyond_count] == [127]
    assert set(found.faults) == {"extra", "beyond_count"}


def test_doubles_are_told_by_what_was_said_of_their_target() -> None:
    runs = [
        Run("a", 3, 4, target=0.0),
        Run("a", 61, 62, target=60.0),
        Run("a", 63, 64, target=60.0),
        Run("a", 121, 122, target=120.0),
    ]
    assert check([MINUTELY], runs, LATE).doubles == [(runs[1], runs[2])]
    # After a failure, or a host that was lost, it is another try, whenever it is.
    for bad in (replace(runs[1], failed=True), replace(runs[1], end=None, host_lost=True)):
        retried = [runs[0], bad, replace(runs[2], start=110.0, end=111.0), runs[3]]
        found = check([MINUTELY], retried, LATE)
        assert found.valid, str(found)
        assert found.met == 3
        once_more = [*retried, Run("a", 112, 113, target=60.0)]
        assert check([MINUTELY], once_more, LATE).doubles == [(retried[2], once_more[-1])]


def test_a_lost_host_excuses_its_target_and_no_other() -> None:
    lost = Run("a", 65.0, None, host_lost=True)
    found = check([MINUTELY], [*ran(3, 127), lost], LATE)
    assert found.valid and found.lost == [lost]
    elsewhere = replace(lost, start=100.0)
    found = check([MINUTELY], [*ran(3, 127), elsewhere], LATE)
    assert found.missing == [("a", 60.0)] and found.outside == [elsewhere]
    # Nobody said which target the second try was for: it is in the window.
    assert check([MINUTELY], [*ran(3, 70, 127), lost], LATE).valid
    assert check([MINUTELY], [*ran(3, 66, 125), replace(lost, start=121.0)], 130.0).valid


def test_a_target_that_the_job_has_not() -> None:
    wrong = Run("a", 61.0, 62.0, target=61.0)
    found = check([MINUTELY], [*ran(3, 127), wrong], LATE)
    assert set(found.faults) == {"strange"} and found.strange == [wrong]


def test_runs_over_each_other() -> None:
    runs = [Run("a", 0, 70), Run("a", 60, 61), Run("a", 120, 121)]
    assert check([MINUTELY], runs, LATE).overlaps == [(runs[0], runs[1])]
    assert check([replace(MINUTELY, may_overlap=True)], runs, LATE).valid
    endless = [Run("a", 0, 1), Run("a", 60, None), Run("a", 120, 121)]
    assert check([MINUTELY], endless, LATE).overlaps == [(endless[1], endless[2])]
    lost = [Run("a", 0, 1), Run("a", 60, None, host_lost=True), Run("a", 120, 121)]
    assert not check([MINUTELY], lost, LATE).overlaps


def test_after_an_acknowledged_delete_nothing_runs() -> None:
    job = replace(MINUTELY, delete_asked=90.0, delete_acknowledged=100.0)
    assert judged(3, 65, job=job).valid
    found = judged(3, 65, 121, job=job)
    assert [run.start for run in found.after_delete] == [121]
    assert set(found.faults) == {"after_delete", "extra", "outside"}  # that target is none any more
    assert judged(3, job=job).missing == [("a", 60.0)]
    # While it is being asked for, both are right.
    between = replace(MINUTELY, delete_asked=62.0, delete_acknowledged=70.0)
    assert judged(3, 65, job=between).valid
    assert judged(3, job=between).valid
    # A run that began as late as it may is ended by the delete.
    cut = replace(between, duration_s=5.0, delete_asked=79.0, delete_acknowledged=80.0)
    assert check([cut], [*ran(3), Run("a", 75.0)], LATE).valid
    assert judged(3, job=replace(cut, delete_asked=80.001)).missing == [("a", 60.0)]


def test_what_was_not_acknowledged_does_not_run() -> None:
    refused = replace(MINUTELY, acknowledged=None)
    assert [run.start for run in judged(3, job=refused).unacknowledged] == [3]
    assert judged(job=refused).valid
    stranger = check([], ran(3, job="b"), LATE)
    assert [run.job for run in stranger.unacknowledged] == ["b"]
    doubtful = replace(refused, doubtful=True)
    assert judged(job=doubtful).valid
    assert judged(3, 65, job=doubtful).valid
    assert set(judged(3, 65, 90, job=doubtful).faults) == {"extra", "outside"}


def test_targets_before_the_acknowledgement_may_run_and_need_not() -> None:
    job = replace(MINUTELY, acknowledged=30.0)
    assert judged(65, 127, job=job).valid
    assert judged(3, 65, 127, job=job).valid
    assert judged(3, 127, job=job).missing == [("a", 60.0)]


def test_what_an_outage_puts_off_is_asked_for_after_it() -> None:
    outage = [Outage(50.0, 200.0)]
    job = replace(MINUTELY, may_overlap=True)
    assert not check([job], ran(3, 210, 220), LATE).valid
    assert check([job], ran(3, 210, 220), LATE, outages=outage).valid
    late = check([job], ran(3, 210, 261), LATE, outages=outage)
    assert [run.start for run in late.outside] == [261]
    assert late.missing == [("a", 120.0)]
    # The read came too early to tell.
    assert check([job], ran(3), 250.0, outages=outage).valid
    # Catch-up took the latest, and said that the other was missed; without an outage that is no excuse.
    said = {"a": [60.0]}
    assert check([job], ran(3, 210), LATE, outages=outage, missed=said).valid
    assert check([job], ran(3, 127), LATE, missed=said).missing == [("a", 60.0)]


def test_the_verdict_reads_well() -> None:
    assert str(judged(3, 65, 127)) == "3 of 3 targets met, 0 tries lost with hosts"
    told = str(judged(*range(0, 400, 20)))
    assert "3 of 3 targets met" in told and "extra: 17" in told and len(told.splitlines()) < 40


def test_dst_needs_no_word_of_its_own() -> None:
    schedule = parse("30 2 * * *", "Europe/Berlin")
    start = 1_774_600_000.0  # 27 March 2026
    targets = schedule.between(start, start + 5 * 86_400, 100)
    job = Job("a", targets, epsilon_s=10.0)
    assert judged(*(target + 2 for target in targets), job=job, read_at=start + 6 * 86_400).valid
    assert not judged(*(start + 2 + k * 86_400 for k in range(5)), job=job, read_at=2e9).valid


@st.composite
def drawn(draw_: st.DrawFn) -> Drawn:
    rng = random.Random(draw_(st.integers(0, 2**32)))
    return replace(draw(rng, "a", 1_000_000.0), count=draw_(st.integers(1, 12)))


@settings(deadline=None)
@given(drawn())
def test_a_drawn_job_is_put_as_it_is_checked(job: Drawn) -> None:
    schedule = parse(job.schedule)
    assert schedule.between(0.0, 1e10, 100) == pytest.approx(job.targets, abs=1e-6)
    assert job.interval_s > job.duration_s + job.epsilon_s + 5
    assert 0 <= job.duration_s < 10 <= job.epsilon_s < 30
    assert job.start == 1_000_010.0


@settings(deadline=None)
@given(drawn(), st.randoms(use_true_random=False))
def test_each_kind_of_fault_is_found_in_a_history_without_any(
    job: Drawn, rng: random.Random
) -> None:
    window = job.epsilon_s + 5.0
    runs = [
        Run("a", start := target + rng.uniform(0, window), start + job.duration_s, target=target)
        for target in job.targets
    ]
    known = job.job(acknowledged=job.start - 5)

    def faults(*changed: Run) -> set[str]:
        # Moving a run about may lay it over its neighbours; that rule has a test of its own.
        found = check([known], rng.sample(changed, len(changed)), 1e9)
        return set(found.faults) - {"overlaps"}

    assert check([known], runs, 1e9).valid
    chosen = rng.randrange(len(runs))
    victim, others = runs[chosen], runs[:chosen] + runs[chosen + 1 :]
    early = replace(victim, start=job.targets[chosen] - 0.5)
    assert faults(*others) == {"missing"}
    assert faults(*others, replace(victim, end=None)) == {"missing"}
    assert faults(*others, replace(victim, host_lost=True, end=None)) == set()
    assert faults(*others, early) == {"missing", "extra", "outside"}
    again = replace(victim, start=victim.start + 1e-3)
    assert faults(*runs, again) - {"outside"} == {"extra", "doubles", "beyond_count"}
    assert faults(*others, replace(victim, failed=True), again) == set()


def test_a_catalogue_of_tens_of_thousands() -> None:
    rng = random.Random(7)
    jobs, runs = [], []
    for n in range(400):
        job = replace(draw(rng, f"job-{n}", 0.0), count=120)
        jobs.append(job.job(acknowledged=1.0))
        runs += [Run(job.name, t + rng.uniform(0, 5), t + 5 + job.duration_s) for t in job.targets]
    # One whose windows all lie over each other, with more runs than it should have.
    targets = [float(t) for t in range(10_000)]
    jobs.append(Job("dense", targets, epsilon_s=100.0, may_overlap=True))
    runs += [Run("dense", t + 50.0, t + 51.0) for t in (*targets, *range(0, 10_000, 5))]
    rng.shuffle(runs)
    assert len(runs) == 60_000
    found = check(jobs, runs, 1e9)
    assert not found.missing and found.met == found.wanted == 58_000
    assert len(found.extra) == 2_000


def test_an_excused_target_takes_no_run_from_one_that_needs_it() -> None:
    # All windows stay open until the outage is recovered from, so each run could be for any target before it.
    job = Job("a", [100.0, 200.0, 300.0], epsilon_s=10)
    runs = [
        Run("a", 101, 102, target=100.0, failed=True),
        Run("a", 110, 111, target=100.0),
        Run("a", 301, 302, target=300.0),
    ]
    outages, missed = [Outage(50, 400)], {"a": [200.0]}
    verdict = check([job], runs, 2000, outages=outages, missed=missed)
    assert verdict.valid, str(verdict)
    assert (verdict.wanted, verdict.met) == (2, 2)
    assert not check([job], runs[:2], 2000, outages=outages, missed=missed).valid
