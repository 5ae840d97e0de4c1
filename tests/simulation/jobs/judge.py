"""Whether the jobs of a seed were run as acknowledged: by what engines ran, and what the scheduler says of it.

What excuses a late start (faults that are over with a repetition do not):
- no scheduler could act or no host had room (`outages.py`), or Mesos did not hear that it wants offers, or did not
  answer a launch that others waited behind, and until RECOVERY_S after;
- one of the job's tries was given a place on a host that was not well, or its launch never reached Mesos: until it
  begins or is given up, which it must be HELD_UP_S after the host is well again;
- runs must not overlap, and another one was under way; it was paused;
- it was due between a put and its taking up: a target that is looked at within `late_s` is on time, whatever `catch_up`
  says, and an older one may be caught up with.
A window that was open stays open until RECOVERY_S after that, and only then a target may be told as missed.

That nobody knows how far a try came is the scheduler's word, and excuses another one for its target. `Observer` looks
at each such word: it counts only where something of the try's host itself was not well.

Not covered: of a job whose runs may overlap, one run's trouble excuses the others of that time, too; and how long a
child waits for its parents is not asked, but that it ran.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from libs.common.schedule import parse
from services.scheduler.core import IMPLICIT_AFTER_S
from services.scheduler.ending import SETTLE_S
from services.scheduler.settings import SchedulerConfig
from tests.cron.checker import Job, Outage, Rules, Run, check
from tests.simulation.cloud import SETTINGS, SKEW_S
from tests.simulation.jobs.drawing import TRIES, Plan, Timing
from tests.simulation.jobs.ledger import Ledger, Try
from tests.simulation.jobs.outages import Observer, touching
from tests.simulation.jobs.users import JobUser, Kept, Word

_SCHEDULER = SchedulerConfig.model_validate(SETTINGS["scheduler"])
RECOVERY_S = IMPLICIT_AFTER_S + SETTLE_S
"""So long after an outage, a scheduler may yet wait for what it can't know before: what became of all its tasks."""
HELD_UP_S = _SCHEDULER.staged_timeout_s + 15.0
"""So long after its host is well again, a try may be held up: what nothing is heard of is asked for, and that call may
get no answer for 10 s."""
LATE_S = 5.0  # so much longer than it may, a try may take to end
PASSED = ("succeeded", "failed", "lost")
_WAITED_FOR = re.compile(r"^run (\S+) (?:is still under way|came before)|^replaced by run (\S+)")
_OF_ITSELF = re.compile(r"runs wait already|took too long|^killed by|was deleted|^replaced by run")


@dataclass(frozen=True)
class Period:
    """From when to when a job had one schedule. `last`: what ended that, a put, a delete or a pause for good."""

    timing: Timing
    put: Word
    last: Word | None
    targets: list[float]


@dataclass
class Judge:
    """Judges after the end. Times are true ones."""

    user: JobUser
    ledger: Ledger
    fail: Callable[[str], None]
    observer: Observer
    faults: Outage
    wanted: int = 0
    met: int = 0

    async def judge(self) -> None:
        """All jobs."""
        read_at = self.ledger.now()
        for kept in self.user.kept:
            self._kept(kept, read_at)
            self._children(kept)
            await self._told(kept)
        self._ended()

    # -- what excuses

    def _outages(self, plan: Plan, now: float) -> list[Outage]:
        """When nothing of the job could be started: while no scheduler could act or no host had room, while trouble of
        its host held up a try, and, where runs must not overlap, while another one was under way.
        """
        ledger, observer = self.ledger, self.observer
        found = [*observer.unable.until(now), *observer.crowded.until(now), *observer.unheard()]
        for attempt, staged in ledger.staged.items():
            instance = ledger.instances[attempt.rpartition(".")[0]]
            if instance["run"]["job"] != plan.job:
                continue
            over = ledger.over.get(attempt, now)
            until = min(over, ledger.began_at(attempt) or over)
            troubles = observer.troubles(ledger.place[attempt], now)
            if attempt in ledger.cloud.mesos.lost_launches:
                troubles = [*troubles, Outage(staged, staged)]
            found.extend(
                Outage(max(staged, each.start), min(until, each.end + HELD_UP_S))
                for each in touching(troubles, staged, until)
            )
        if not plan.may_overlap:
            first: dict[str, float] = {}
            for one in ledger.of(plan.job):
                first.setdefault(one.run, one.start)
            found += [Outage(at, ledger.finished.get(run, now)) for run, at in first.items()]
        return found

    # -- targets and what ran

    def _kept(self, kept: Kept, read_at: float) -> None:
        plan, job = kept.plan, kept.plan.job
        tries = self.ledger.of(job)
        periods = self._periods(kept, read_at)
        outages = [*self._outages(plan, read_at), *_pauses(kept)]
        if not periods and tries:
            self.fail(f"{job} was never taken, and runs: {tries}")
        left = list(tries)
        for period in periods:
            mine = set(period.targets)
            here = [each for each in left if self.ledger.target(each.run) in mine]
            left = [each for each in left if self.ledger.target(each.run) not in mine]
            if period is periods[-1]:
                here, left = here + left, []  # they have no target, which is told
            self._period(plan, period, here, outages, read_at)
        for run in {each.run for each in tries}:
            self._tries(plan, run, [each for each in tries if each.run == run])

    def _periods(self, kept: Kept, read_at: float) -> list[Period]:
        texts = list(self.ledger.texts.get(kept.plan.job, ()))
        puts = kept.done("put")
        made = []
        for number, (put, timing) in enumerate(zip(puts, kept.timings, strict=True)):
            later = [*puts[number + 1 :], *kept.done("delete"), *kept.done("rest")]
            last = later[0] if later else None
            until = min(read_at, last.answered if last else read_at) + SKEW_S
            targets = _targets(timing, texts[number] if timing.text else "", put, until)
            if number == len(puts) - 1:
                targets += self._besides(kept)
            made.append(Period(timing, put, last, sorted(targets)))
        return made

    def _besides(self, kept: Kept) -> list[float]:
        """Runs that were asked for, each once; and those after parents, which are looked at elsewhere."""
        asked = [word.run for word in kept.done("run")]
        if "" in asked or len(set(asked)) != len(asked):
            self.fail(f"{kept.plan.job}: requests for runs, and the runs {asked}")
        for run in asked:
            if run not in self.ledger.records:
                self.fail(f"{kept.plan.job}: run {run} was promised, and never ended")
        made = [*self.ledger.records, *self.ledger.instances]
        children = {run for run in made if self._is_childs(kept, run)}
        return [self.ledger.target(run) for run in {*asked, *children} if run in made]

    def _is_childs(self, kept: Kept, run: str) -> bool:
        body: Any = self.ledger.records.get(run) or self.ledger.instances[run]["run"]
        return bool(body["job"] == kept.plan.job and body["cause"] == "parents")

    def _period(
        self, plan: Plan, period: Period, tries: list[Try], outages: list[Outage], read_at: float
    ) -> None:
        ledger, job = self.ledger, plan.job
        ran = {each.run for each in tries}
        runs = [
            Run(
                job=job,
                start=each.start,
                end=each.end,
                target=ledger.target(each.run) - SKEW_S,
                host_lost=each.attempt in ledger.given_up,
                failed=each.bad,
                id=each.attempt,
            )
            for each in tries
        ]
        # A target may be that of the schedule before, too, and its run was counted there.
        elsewhere = {each.run for each in ledger.of(job)} - ran
        counted = {ledger.target(run) for run in elsewhere}
        targets, missed = [], []
        records = {
            body["target"]: (run, body)
            for run, body in ledger.records.items()
            if body["job"] == job and run not in ran | elsewhere
        }
        for target in period.targets:
            if target in counted:
                continue
            run, body = records.get(target, ("", {}))
            if run and self._left_out(plan, run, body):
                continue
            targets.append(target - SKEW_S)
            if run:
                missed.append(target - SKEW_S)
        last = period.last
        asked = Job(
            name=job,
            targets=targets,
            epsilon_s=plan.epsilon_s + 2 * SKEW_S,
            duration_s=plan.longest_run_s,
            acknowledged=period.put.answered,
            may_overlap=plan.may_overlap,
            delete_asked=last.asked if last else math.inf,
            delete_acknowledged=last.answered if last else math.inf,
        )
        deleted = last is not None and last.action == "delete"
        rules = Rules(after_delete=deleted, recovery_s=RECOVERY_S)
        put = Outage(period.put.asked - SKEW_S, period.put.answered)
        verdict = check(
            [asked], runs, read_at, rules=rules, outages=[*outages, put], missed={job: missed}
        )
        verdict.after_delete = [
            each for each in verdict.after_delete if not self._on_its_way(each, asked)
        ]
        self.wanted += verdict.wanted
        self.met += verdict.met
        if not verdict.valid:
            self.fail(f"{job} ({plan.body(period.timing)}): {verdict}")

    def _left_out(self, plan: Plan, run: str, body: Any) -> bool:
        """Rightly, and it is said why: something of the job was under way, or it was ended before it began."""
        reason = str(body["reason"])
        if not reason:
            self.fail(f"{plan.job}: run {run} did not run, and it is not said why: {body}")
        other = _WAITED_FOR.match(reason)
        name = other.group(1) or other.group(2) if other else ""
        if name:
            self._was_there(plan, run, body, name)
        return bool(name or _OF_ITSELF.search(reason))

    def _was_there(self, plan: Plan, run: str, body: Any, other: str) -> None:
        record = self.ledger.records.get(other)
        if record is None and other not in self.ledger.instances:
            self.fail(f"{plan.job}: run {run} gave way to {other}, which does not exist: {body}")
        elif record is not None and record["at"] < body["created"] - 2 * SKEW_S:
            self.fail(f"{plan.job}: run {run} gave way to {other}, which was over: {body} {record}")

    def _on_its_way(self, run: Run, job: Job) -> bool:
        """It was given its place before the delete, and its host could not be told in time."""
        staged = self.ledger.staged[run.id]
        return staged <= job.delete_acknowledged and run.start <= self.faults.end + 60.0

    def _tries(self, plan: Plan, run: str, tries: list[Try]) -> None:
        record = self.ledger.records.get(run)
        limit_s = plan.spec.get("timeout_s", math.inf) + plan.spec["stop_grace_s"] + LATE_S
        for each in tries:
            if each.end is None or each.end - each.start <= limit_s:
                continue
            troubles = self.observer.troubles(each.host, self.ledger.now())
            if not touching(troubles, each.start, each.end):
                self.fail(f"{plan.job}: {each} took longer than {limit_s:g} s: {record}")
        if len(tries) > TRIES + 1:
            self.fail(f"{plan.job}: run {run} was tried too often: {tries}")
        if record is None:
            self.fail(f"{plan.job}: run {run} ran, and never ended: {tries}")
        elif record["state"] == "missed":
            self.fail(f"{plan.job}: run {run} is said to be missed, and ran: {tries} {record}")
        elif record["state"] == "succeeded" and not any(each.code == 0 for each in tries):
            self.fail(f"{plan.job}: run {run} is said to have succeeded: {tries} {record}")
        elif record["state"] == "failed" and any(not each.bad for each in tries):
            good = [e for e in tries if not e.bad and e.attempt not in self.ledger.given_up]
            if good:
                self.fail(f"{plan.job}: run {run} is said to have failed: {tries} {record}")

    # -- children

    def _children(self, kept: Kept) -> None:
        """Each run of a child had newer successes of all its parents; and none that was due is outstanding."""
        plan, ledger = kept.plan, self.ledger
        if not plan.parents or not kept.done("put"):
            return
        mine = {**ledger.instances, **ledger.records}
        created = sorted(
            float(body["created"] if "created" in body else body["run"]["created"])
            for run, body in mine.items()
            if self._is_childs(kept, run)
        )
        passes = {name: self._passes(f"acme/{name}") for name in plan.parents}
        before = kept.words[0].asked - SKEW_S
        for at in created:
            for parent, passed in passes.items():
                if not any(before - 2 * SKEW_S <= each <= at + 2 * SKEW_S for each in passed):
                    self.fail(f"{plan.job} ran at {at}, and {parent} did not since {before}")
            before = at
        if all(any(each > before + 2 * SKEW_S for each in passed) for passed in passes.values()):
            self.fail(f"{plan.job} did not run after all its parents had since {before}: {passes}")

    def _passes(self, job: str) -> list[float]:
        """When it was known of a job's runs that children may go on.

        A record may be made anew by who leads next: the instance that has ended is saved before it.
        """
        instances = self.ledger.instances
        return [
            min(float(body["at"]), float(instances[run]["since"]))
            for run, body in self.ledger.records.items()
            if body["job"] == job
            and (body["state"] == "succeeded" or (body["state"] in PASSED and body["soft"]))
        ]

    # -- the end

    async def _told(self, kept: Kept) -> None:
        """What the API says of a job is what came of it."""
        job = kept.plan.job
        view = await self.user.call("GET", f"/v1/jobs/{job}")
        there = bool(kept.done("put") and not kept.done("delete"))
        if (view.status == 200) is not there:
            self.fail(f"{job}: {kept.words[-1]}, and GET says {view.status} {view.body.decode()}")
        if not there or view.status != 200:
            return
        told = view.json()
        if told["running"] or told["queued"]:
            self.fail(f"{job} has runs that do not end: {told}")
        runs = (await self.user.call("GET", f"/v1/jobs/{job}/runs?limit=1000")).json()["runs"]
        said = {each["run"]: each["state"] for each in runs}
        kept_ = {r: b["state"] for r, b in self.ledger.records.items() if b["job"] == job}
        if said != kept_ or len(runs) != len(said):
            self.fail(f"{job}: the history is {said}, but what ended is {kept_}")
        states = list(kept_.values())
        counts = {
            "succeeded": states.count("succeeded"),
            "failed": states.count("failed") + states.count("lost"),
            "missed": states.count("missed"),
        }
        if told["counts"] != counts:
            self.fail(f"{job}: {told['counts']} are counted, there are {counts}")

    def _ended(self) -> None:
        for run, body in self.ledger.instances.items():
            if body["state"] != "ended" or run not in self.ledger.records:
                self.fail(f"run {run} does not end: {body}")
        for run, body in self.ledger.records.items():
            if body["state"] != "succeeded" and not body["reason"]:
                self.fail(f"run {run} ended without a reason: {body}")


def _targets(timing: Timing, text: str, put: Word, until: float) -> list[float]:
    """Of a schedule, from when it was put. Those that come while it is being put may be its, and need not."""
    if timing.text is None:
        return []
    after = put.asked - SKEW_S
    if timing.times is not None:
        return timing.times(after, until)
    return parse(text, timing.zone).between(after, until, 1000)


def _pauses(kept: Kept) -> Iterable[Outage]:
    ends = [*kept.done("resume")]
    return [
        Outage(pause.asked - SKEW_S, ends[at].answered + SKEW_S)
        for at, pause in enumerate(kept.done("pause"))
    ]
