"""The monitor's rules: crashing apps within a window, hosts lost and back, each told once."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from libs.common.events import model as ev
from services.monitor import core
from services.monitor.model import Alert, Exit, MonitorConfig, Node, NodeState, alert_body, alert_of

CONFIG = MonitorConfig(crash_count=3, crash_window_s=300, crash_quiet_s=120)


def crash(alert: Alert | None, at: float, name: str = "", now: float | None = None) -> core.Change:
    """An instance of acme/web ended at that time."""
    ended = (at, name or f"e{at}")
    return core.on_exit(alert, "acme/web", ended, "exit 1", at if now is None else now, CONFIG)


def after(alert: Alert | None, *times: float) -> tuple[Alert | None, list[str]]:
    """The alert after some exits, and the events they led to."""
    told: list[str] = []
    for at in times:
        change = crash(alert, at)
        alert = change.alert or alert
        told += [type(each).__name__ for each in change.events]
    return alert, told


def test_three_exits_within_the_window_raise_it_once() -> None:
    alert, told = after(None, 1000.0, 1100.0, 1200.0, 1210.0)
    assert told == ["AlertRaised"]
    assert alert is not None and alert.firing
    assert alert.labels == {"app": "acme/web", "bu": "acme"}
    assert alert.summary == "acme/web: 3 instances ended within 300 s; last: exit 1"


def test_exits_further_apart_raise_nothing() -> None:
    assert after(None, 0.0, 200.0, 400.0, 600.0)[1] == []


def test_three_instances_that_end_in_one_moment_are_three() -> None:
    alert: Alert | None = None
    told: list[object] = []
    for name in ("a", "b", "c"):
        change = crash(alert, 1000.0, name)
        alert = change.alert
        told += change.events
    assert [type(each) for each in told] == [ev.AlertRaised]


def test_the_same_exit_told_again_counts_once() -> None:
    alert, _ = after(None, 1000.0, 1001.0)
    assert crash(alert, 1001.0) == core.Change(None)


def test_exits_told_again_after_it_was_resolved_raise_nothing() -> None:
    alert, _ = after(None, 1000.0, 1001.0, 1002.0)
    assert alert is not None
    resolved = core.on_time(alert, 1200.0, CONFIG).alert
    assert resolved is not None and not resolved.firing
    for at in (1000.0, 1001.0, 1002.0):
        assert crash(resolved, at, now=1201.0) == core.Change(None)


def test_quiet_for_long_enough_resolves_it() -> None:
    alert, _ = after(None, 1000.0, 1001.0, 1002.0)
    assert alert is not None
    assert core.on_time(alert, 1121.0, CONFIG) == core.Change(None)
    change = core.on_time(alert, 1122.0, CONFIG)
    assert [type(each) for each in change.events] == [ev.AlertResolved]
    assert change.alert is not None and change.alert.exits == ()
    assert core.on_time(change.alert, 2000.0, CONFIG) == core.Change(None)


def test_a_few_exits_that_raised_nothing_are_forgotten_without_a_word() -> None:
    alert, _ = after(None, 1000.0)
    assert alert is not None
    change = core.on_time(alert, 1200.0, CONFIG)
    assert change.events == () and change.alert is not None and not change.alert.unsettled


@given(st.lists(st.floats(0, 2000, allow_nan=False), max_size=30))
def test_it_fires_exactly_when_some_window_holds_enough(times: list[float]) -> None:
    ordered = sorted(set(times))
    alert, told = after(None, *ordered)
    windows = zip(ordered, ordered[CONFIG.crash_count - 1 :], strict=False)
    assert bool(told) == any(first > last - CONFIG.crash_window_s for first, last in windows)
    assert len(told) <= 1
    kept: tuple[Exit, ...] = alert.exits if alert else ()
    assert len(kept) <= CONFIG.crash_count


def test_a_condition_is_told_when_it_begins_and_ends() -> None:
    quiet = Alert("x", "x")
    assert core.condition(quiet, False, 1.0, "s") == core.Change(None)
    raised = core.condition(quiet, True, 1.0, "s")
    assert raised.alert is not None and raised.alert.firing
    assert core.condition(raised.alert, True, 2.0, "s") == core.Change(None)
    over = core.condition(replace(raised.alert, notified=True), False, 3.0, "s")
    assert over.alert is not None
    assert [type(each) for each in over.events] == [ev.AlertResolved]
    # Kept with the turn: whoever mails it may die before it can say so, at a time when the store takes nothing.
    assert (raised.alert.notified, over.alert.notified) == (None, None)


HOST = Node("a1", "h1", cpus=4.0, mem_mib=1024.0)


def test_nodes_join_are_lost_and_come_back() -> None:
    (joined,) = core.nodes({}, [HOST], 10.0)
    assert [type(each) for each in joined.events] == [ev.NodeJoined]
    known = {"a1": replace(joined.node, version=1)}
    assert core.nodes(known, [replace(HOST, used_cpus=3.0)], 20.0) == []
    (lost,) = core.nodes(known, [], 30.0)
    assert (lost.node.state, lost.node.since) == (NodeState.LOST, 30.0)
    assert [type(each) for each in lost.events] == [ev.NodeLost]
    gone = {"a1": replace(lost.node, version=2)}
    assert core.nodes(gone, [], 40.0) == []
    (back,) = core.nodes(gone, [HOST], 50.0)
    assert [type(each) for each in back.events] == [ev.NodeJoined]


def test_a_lost_hosts_alert_follows_what_is_stored() -> None:
    lost = replace(HOST, state=NodeState.LOST)
    alert = core.node_alert(lost).id
    assert core.node_conditions([lost], []) == [(lost, True)]
    assert core.node_conditions([lost], [alert]) == []
    assert core.node_conditions([HOST], [alert]) == [(HOST, False)]
    assert core.node_conditions([HOST], []) == []


def test_a_host_that_is_back_as_another_agent_is_not_lost() -> None:
    lost, again = replace(HOST, state=NodeState.LOST), replace(HOST, id="a2")
    assert core.node_conditions([lost, again], [core.node_alert(lost).id]) == [(lost, False)]
    assert core.node_conditions([lost, again], []) == []


def test_an_alert_survives_its_document() -> None:
    alert, _ = after(None, 1000.0, 1001.0, 1002.0)
    assert alert is not None
    assert alert_of(alert.id, 0, alert_body(alert)) == alert
