"""The subscription machine: silence, reconnection, bounds of back-off, redirects, giving up."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.mesos.errors import AccessDenied, BadCall, GaveUp, NotLeader, Unavailable
from libs.mesos.subscription import Close, Connect, Fail, Lost, Options, Output, Phase, Subscription

MASTERS = ["http://a:1", "http://b:2", "http://c:3"]


def _machine(**options: float | None) -> Subscription:
    return Subscription(MASTERS, Options(**options), random.Random(1))  # type: ignore[arg-type]


def _subscribed(now: float = 0.0, **options: float | None) -> Subscription:
    machine = _machine(**options)
    assert machine.start(now) == [Connect("http://a:1")]
    assert machine.opened(now) == []
    assert machine.record(now, "SUBSCRIBED", 15.0) == []
    assert machine.phase is Phase.SUBSCRIBED
    return machine


def _lost(outputs: list[Output]) -> Lost:
    assert isinstance(outputs[0], Close)
    assert isinstance(outputs[1], Lost)
    return outputs[1]


def test_silence_for_five_heartbeats_is_death() -> None:
    """Each record moves the deadline; then the next master is tried after a back-off."""
    machine = _subscribed()
    assert machine.deadline == 75.0
    machine.record(10.0, "HEARTBEAT")
    assert machine.deadline == 85.0
    assert machine.tick(84.9) == []
    lost = _lost(machine.tick(85.0))
    assert lost.was_subscribed and "silence" in lost.reason
    assert machine.phase is Phase.WAITING and machine.deadline == 85.0 + lost.retry_in_s
    assert machine.tick(machine.deadline) == [Connect("http://b:2")]


def test_the_interval_is_the_masters() -> None:
    """SUBSCRIBED says how often heartbeats come."""
    machine = _machine()
    machine.start(0.0)
    machine.opened(0.0)
    machine.record(0.0, "SUBSCRIBED", 2.0)
    assert machine.deadline == 10.0


def test_an_owner_that_paused_does_not_blame_the_peer() -> None:
    """What was buffered during the pause gets one more interval to be read."""
    machine = _subscribed()
    machine.resumed(1000.0)
    assert machine.tick(1000.0) == []
    assert machine.deadline == 1015.0


def test_without_heartbeats_silence_is_no_reason() -> None:
    """An agent's stream to its executor may be silent for days."""
    machine = _subscribed(heartbeat_s=None)
    assert machine.deadline is None
    assert machine.tick(1e9) == []


def test_no_answer_and_no_subscribed_event_are_failures() -> None:
    """Both waits have an end."""
    machine = _machine(connect_timeout_s=10.0, subscribe_timeout_s=15.0)
    machine.start(0.0)
    assert not _lost(machine.tick(10.0)).was_subscribed
    machine = _machine(connect_timeout_s=10.0, subscribe_timeout_s=15.0)
    machine.start(0.0)
    machine.opened(1.0)
    assert machine.tick(15.9) == []
    assert "SUBSCRIBED" in _lost(machine.tick(16.0)).reason


def test_a_redirect_is_followed_at_once_and_loops_are_cut() -> None:
    """After too many in a row it is a failure like any other."""
    machine = _machine(max_redirects=3)
    machine.start(0.0)
    leader = NotLeader(307, "", "http://leader:5")
    for _ in range(3):
        assert machine.refused(0.0, leader) == [Close(), Connect("http://leader:5")]
    assert "redirects" in _lost(machine.refused(0.0, leader)).reason


def test_a_dead_leader_sends_us_back_to_the_configured_masters() -> None:
    """A redirect is a hint for once."""
    machine = _machine()
    machine.start(0.0)
    machine.refused(0.0, NotLeader(307, "", "http://leader:5"))
    lost = _lost(machine.closed(0.0, "refused"))
    assert machine.tick(lost.retry_in_s) == [Connect("http://a:1")]


@pytest.mark.parametrize("error", [BadCall(400, "no"), AccessDenied(401, "no")])
def test_what_repeating_cannot_cure_ends_it(error: BadCall | AccessDenied) -> None:
    """No loop of refused SUBSCRIBEs."""
    machine = _machine()
    machine.start(0.0)
    assert machine.refused(0.0, error) == [Close(), Fail(error)]
    assert machine.phase is Phase.ENDED and machine.deadline is None
    assert machine.tick(1e9) == [] and machine.closed(1.0, "x") == []


def test_no_leader_is_worth_another_try() -> None:
    """503 backs off and asks the next master."""
    machine = _machine()
    machine.start(0.0)
    lost = _lost(machine.refused(0.0, Unavailable(503, "No leader elected")))
    assert machine.tick(lost.retry_in_s) == [Connect("http://b:2")]


def test_an_error_event_ends_it() -> None:
    """`Framework failed over` must not make us fight for the subscription."""
    machine = _subscribed()
    assert machine.record(1.0, "ERROR") == [Close()]
    assert machine.phase is Phase.ENDED


def test_giving_up_counts_from_the_loss() -> None:
    """The last wait is cut to the allowed time."""
    machine = _subscribed(give_up_s=10.0, backoff_min_s=4.0, backoff_max_s=100.0)
    now = 50.0
    outputs = machine.closed(now, "cut")
    for _ in range(20):
        assert machine.deadline is not None
        now = machine.deadline
        outputs = machine.tick(now)
        if isinstance(outputs[-1], Fail):
            break
        outputs = machine.closed(now, "refused")
    assert now == 60.0
    assert isinstance(outputs[-1], Fail) and isinstance(outputs[-1].error, GaveUp)


@given(st.integers(1, 200), st.integers(0, 2**32), st.floats(0.01, 5), st.floats(5, 600))
def test_back_off_stays_within_bounds(failures: int, seed: int, low: float, high: float) -> None:
    """Each wait is at most the maximum, at least half of its step, and starts small."""
    options = Options(backoff_min_s=low, backoff_max_s=high)
    machine = Subscription(MASTERS, options, random.Random(seed))
    now, outputs = 0.0, machine.start(0.0)
    for number in range(failures):
        outputs = machine.closed(now, "refused")
        lost = _lost(outputs)
        step = min(high, low * 2.0 ** min(number, 64))
        assert step / 2 - 1e-9 <= lost.retry_in_s <= step + 1e-9
        now += lost.retry_in_s
        assert machine.tick(now) == [Connect(MASTERS[(number + 1) % 3])]


_INPUT = st.sampled_from(
    [
        "opened",
        "subscribed",
        "heartbeat",
        "error",
        "closed",
        "redirect",
        "unavailable",
        "bad",
        "tick",
    ]
)


@settings(max_examples=300)
@given(st.lists(st.tuples(_INPUT, st.floats(0, 100)), max_size=40), st.integers(0, 1000))
def test_any_inputs_keep_the_machine_sane(inputs: list[tuple[str, float]], seed: int) -> None:
    """It always waits for something, ends once, and never asks for two connections at a time."""
    machine = Subscription(MASTERS, Options(), random.Random(seed))
    now, connections = 0.0, 0
    outputs = machine.start(now)
    for name, passed in [("none", 0.0), *inputs]:
        now += passed
        ended = machine.phase is Phase.ENDED
        outputs = _feed(machine, name, now) if name != "none" else outputs
        assert not (ended and outputs)
        for output in outputs:
            connections += isinstance(output, Connect)
            connections = 0 if isinstance(output, Close) else connections
        assert connections <= 1
        assert (machine.deadline is None) == (machine.phase is Phase.ENDED)


def _feed(machine: Subscription, name: str, now: float) -> list[Output]:
    match name:
        case "opened":
            return machine.opened(now)
        case "subscribed" | "heartbeat" | "error":
            return machine.record(now, name.upper(), 15.0 if name == "subscribed" else None)
        case "closed":
            return machine.closed(now, "cut")
        case "redirect":
            return machine.refused(now, NotLeader(307, "", "http://leader:5"))
        case "unavailable":
            return machine.refused(now, Unavailable(503, "No leader elected"))
        case "bad":
            return machine.refused(now, BadCall(400, "no"))
    return machine.tick(now)
