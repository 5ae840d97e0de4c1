"""The machine of an attempt: whatever comes in whatever order, what must always hold holds."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.spec import HealthCheck
from services.executor import core, sweep
from services.executor import moves as m
from services.executor.config import ExecutorConfig
from services.executor.containers import labels, spec_hash
from services.executor.model import (
    CLEANING,
    Attachment,
    Attempt,
    Begun,
    ContainerName,
    Destroyed,
    Died,
    Identity,
    Phase,
    ProbeResult,
    State,
    Summary,
    TaskState,
    View,
)
from services.executor.reporting import World
from tests.unit.executor.world import AGENT, CLUSTER, HTTP, payload_of

IDENTITY = Identity(CLUSTER, AGENT, "run-1")
CONFIG = ExecutorConfig(cluster=CLUSTER)
NAME = ContainerName("gantry-test-web.1")
NETWORK = Attachment(ip="10.0.0.1", namespace="/run/netns/a", inode=100, host_inode=1)
TERMINAL = {"TASK_FINISHED", "TASK_FAILED", "TASK_KILLED", "TASK_ERROR", "TASK_LOST"}


def world(now: float = 1000.0) -> World:
    return World(CONFIG, IDENTITY, now)


def view(phase: Phase = Phase.RUNNING, **changes: object) -> View:
    fields = {
        "id": "c1",
        "name": NAME,
        "phase": phase,
        "runtime": "gantry",
        "labels": labels(payload_of("web.1", health=(HTTP,)), IDENTITY),
        "netns_inode": NETWORK.inode if phase is Phase.RUNNING else None,
        **changes,
    }
    return View(**fields)  # type: ignore[arg-type]


def launched() -> m.Step:
    return core.launch("web.1", payload_of("web.1", health=(HTTP,)), world())


def feed(attempt: Attempt, *moves: m.Input, now: float = 1000.0) -> tuple[Attempt, list[m.Action]]:
    actions: list[m.Action] = []
    for move in moves:
        step = core.advance(attempt, move, world(now))
        attempt = step.attempt
        actions += step.actions
    return attempt, actions


RUN = (m.Created("c1"), m.Attached(NETWORK), m.Started(), m.Inspected(view()))


def kinds(actions: list[m.Action]) -> list[str]:
    return [type(each).__name__ for each in actions]


def test_the_straight_way() -> None:
    step = launched()
    assert kinds(list(step.actions))[:2] == ["Attach", "Create"]
    attempt, actions = feed(step.attempt, *RUN)
    assert attempt.state is State.RUNNING
    assert kinds(actions) == ["Start", "Inspect", "Probe", "Wake"]
    attempt, actions = feed(attempt, m.Probed(0, ProbeResult(True)))
    assert kinds(actions) == ["Report", "Probe"]
    attempt, actions = feed(attempt, m.StopAsked(None, "stopped"), Died("c1", NAME, 0, False, 1.0))
    assert kinds(actions) == ["Signal", "Wake", "Report", "Revoke"]
    attempt, actions = feed(attempt, m.Revoked(), m.Removed(), m.Detached())
    assert kinds(actions) == ["Remove", "Detach"]
    assert attempt.state is State.DONE


def test_nothing_starts_before_both_container_and_network() -> None:
    step = launched()
    for first, second in ((RUN[0], RUN[1]), (RUN[1], RUN[0])):
        attempt, actions = feed(step.attempt, first)
        assert actions == []
        attempt, actions = feed(attempt, second)
        assert kinds(actions) == ["Start"]


def test_a_runtime_that_is_not_ours_is_a_fault_before_and_after_the_start() -> None:
    step = launched()
    found = m.Found(view(Phase.CREATED, runtime="runc"))
    attempt, actions = feed(step.attempt, m.Attached(NETWORK), found)
    assert attempt.state is State.REVOKING
    assert "Start" not in kinds(actions)
    attempt, actions = feed(step.attempt, *RUN[:3], m.Inspected(view(runtime="runc")))
    assert attempt.state is State.STOPPING
    assert actions[-2] == m.Signal("SIGKILL")


def test_a_container_of_our_name_that_is_somebody_elses_is_left_alone() -> None:
    theirs = view(labels={"gantry.cluster": CLUSTER, "gantry.agent": "host-2"})
    attempt, actions = feed(launched().attempt, m.Attached(NETWORK), m.Found(theirs))
    assert attempt.state is State.DONE
    assert kinds(actions) == ["Report"]
    assert attempt.outcome is not None
    assert attempt.outcome.state is TaskState.FAILED


def test_an_end_that_nobody_saw_is_told_after_the_removal_only() -> None:
    attempt, _ = feed(launched().attempt, *RUN[:2])
    attempt, actions = feed(attempt, m.StartFailed("no answer", certain=False))
    assert kinds(actions) == ["Revoke"]
    attempt, actions = feed(attempt, m.Revoked())
    assert kinds(actions) == ["Remove"]
    attempt, actions = feed(attempt, m.Removed())
    assert kinds(actions) == ["Report", "Detach"]


# -- whatever comes ----------------------------------------------------------------------------------

_VIEWS = st.sampled_from(
    [
        view(),
        view(Phase.CREATED),
        view(Phase.EXITED, exit_code=3),
        view(Phase.EXITED, exit_code=137, oom_killed=True),
        view(netns_inode=1),
        view(netns_inode=None),
        view(runtime="runc"),
        view(labels={}),
        None,
    ]
)
_MOVES: st.SearchStrategy[m.Input] = st.one_of(
    st.just(m.Created("c1")),
    st.builds(m.CreateFailed, st.just("no"), st.booleans()),
    st.builds(m.Found, _VIEWS),
    st.just(m.Pulled()),
    st.just(m.PullFailed("no")),
    st.just(m.Attached(NETWORK)),
    st.just(m.AttachFailed("no")),
    st.just(m.Started()),
    st.builds(m.StartFailed, st.just("no"), st.booleans()),
    st.builds(m.Inspected, _VIEWS),
    st.just(m.Suspect()),
    st.builds(m.StopAsked, st.sampled_from([None, 0.0, 5.0]), st.just("stopped")),
    st.just(m.Due()),
    st.just(m.Broken("bug")),
    st.builds(m.Probed, st.just(0), st.builds(ProbeResult, st.booleans())),
    st.just(m.Revoked()),
    st.just(m.Removed()),
    st.just(m.Detached()),
    st.builds(
        Died,
        st.just("c1"),
        st.just(NAME),
        st.sampled_from([0, 3, 137]),
        st.booleans(),
        st.just(1.0),
    ),
    st.just(Destroyed("c1", NAME, 1.0)),
    st.just(Begun("c1", NAME, 1.0)),
)


def _check(before: Attempt, step: m.Step, said: list[m.Report], *, recovered: bool = False) -> None:
    after, actions = step.attempt, list(step.actions)
    if m.Start() in actions:
        assert after.state is State.STARTING
        assert after.container_id
        assert after.network is not None
        assert after.stop is None
    if any(isinstance(each, m.Remove) for each in actions):
        # Who takes the attempt up again repeats the step that nobody saw the end of.
        assert before.state is (
            State.REMOVING if recovered and before.state is after.state else State.REVOKING
        )
    if any(isinstance(each, m.Detach) for each in actions):
        again = recovered and before.state is after.state
        assert before.state is (State.DETACHING if again else State.REMOVING)
    for each in actions:
        if isinstance(each, m.Report):
            ranks = {"TASK_STARTING": 0, "TASK_RUNNING": 1}
            told = [ranks.get(report.state, 2) for report in (*said, each)]
            assert told == sorted(told)
            assert not said or said[-1].state not in TERMINAL
            said.append(each)
    if after.state in (State.DETACHING, State.DONE):
        assert said, "it is cleared away, and nobody was told"
        assert said[-1].state in TERMINAL


@settings(max_examples=300, deadline=None)
@given(
    moves=st.lists(st.tuples(_MOVES, st.floats(0, 700)), max_size=25),
    adopt=st.booleans(),
    recoveries=st.sets(st.integers(0, 24), max_size=3),
)
def test_invariants_hold_whatever_comes(
    moves: list[tuple[m.Input, float]], adopt: bool, recoveries: set[int]
) -> None:
    payload = payload_of("web.1", health=(HTTP,), adopt=NAME if adopt else "")
    step = core.launch("web.1", payload, world(0.0))
    said: list[m.Report] = []
    _check(step.attempt, step, said)
    now = 0.0
    for number, (move, later_s) in enumerate(moves):
        now += later_s
        before = step.attempt
        recovered = number in recoveries
        if recovered:
            # A new worker, from what the journal kept: through JSON.
            kept = Attempt.model_validate_json(before.model_dump_json())
            phase = [Phase.RUNNING, Phase.EXITED, Phase.CREATED][number % 3]
            seen = Summary("c1", NAME, phase, 0.0, {}) if number % 4 else None
            step = core.recover(kept, seen, world(now))
        else:
            step = core.advance(before, move, world(now))
        _check(before, step, said, recovered=recovered)
        assert not (before.state in CLEANING and step.attempt.state not in CLEANING)


@settings(max_examples=150, deadline=None)
@given(moves=st.lists(_MOVES, max_size=25))
def test_every_attempt_can_be_ended(moves: list[m.Input]) -> None:
    attempt, _ = feed(launched().attempt, *moves)
    answers: Iterator[m.Input] = iter(
        [
            m.StopAsked(0.0, "stopped"),
            m.CreateFailed("not wanted any more"),
            m.AttachFailed("not wanted any more"),
            m.StartFailed("not wanted any more", certain=True),
            m.Inspected(None),
            m.Due(),
            m.Revoked(),
            m.Removed(),
            m.Detached(),
        ]
    )
    attempt, _ = feed(attempt, *answers, now=2000.0)
    assert attempt.state is State.DONE


# -- the sweep ---------------------------------------------------------------------------------------


def summary(name: str, phase: Phase, created_at: float = 0.0) -> Summary:
    return Summary(f"id-{name}", ContainerName(name), phase, created_at, {})


def test_the_sweep_suspects_who_should_run_and_does_not() -> None:
    attempt, _ = feed(launched().attempt, *RUN)
    attempts = {attempt.id: attempt}
    before = sweep.watched(attempts.values())

    def suspects(*listed: Summary) -> tuple[str, ...]:
        return sweep.compare(before, attempts, listed, frozenset(), world()).suspects

    assert suspects(summary(NAME, Phase.RUNNING)) == ()
    assert suspects(summary(NAME, Phase.EXITED)) == ("web.1",)
    assert suspects() == ("web.1",)
    # It began to run while the list was on its way.
    assert sweep.compare(frozenset(), attempts, (), frozenset(), world()).suspects == ()


def test_the_sweep_takes_two_looks_before_it_clears_away() -> None:
    listed = (
        summary("old", Phase.CREATED),
        summary("dead", Phase.EXITED),
        summary("young", Phase.CREATED, created_at=990.0),
        summary("orphan", Phase.RUNNING),
    )
    first = sweep.compare(frozenset(), {}, listed, frozenset(), world())
    assert first.discards == ()
    assert [each.name for each in first.orphans] == ["orphan"]
    second = sweep.compare(frozenset(), {}, listed, first.strays, world())
    assert sorted(each.container for each in second.discards) == ["dead", "old"]


def test_an_orphan_waits_to_be_adopted_and_not_for_ever() -> None:
    listed = (summary("orphan", Phase.RUNNING),)
    first = sweep.compare(frozenset(), {}, listed, frozenset(), world(0.0))
    grace_s = CONFIG.orphan_grace_s
    later = sweep.compare(frozenset(), {}, listed, frozenset(), world(grace_s - 1), first.waiting)
    assert later.discards == ()
    last = sweep.compare(frozenset(), {}, listed, frozenset(), world(grace_s), later.waiting)
    assert [each.container for each in last.discards] == ["orphan"]


# -- small things ------------------------------------------------------------------------------------


def test_the_hash_tells_specs_apart() -> None:
    one = payload_of("web.1").spec
    assert spec_hash(one) == spec_hash(payload_of("other.7").spec)
    assert spec_hash(one) != spec_hash(payload_of("web.1", env={"A": "1"}).spec)
    check = HealthCheck(port=81)
    assert spec_hash(one) != spec_hash(payload_of("web.1", health=(check,)).spec)


def test_labels_are_ours_and_hold_no_secrets() -> None:
    payload = payload_of(
        "web.1", env={"PASSWORD": "geheim"}, labels={"team": "a", "gantry.cluster": "evil"}
    )
    found = labels(payload, IDENTITY)
    assert found["team"] == "a"
    assert found["gantry.cluster"] == CLUSTER
    assert "geheim" not in str(found)
