"""Keys, rates, idempotency, visibility, topics: pure decisions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.actor import Actor
from libs.common.errors import Conflict, InvalidInput, TooMany, Unauthenticated
from libs.common.events import TOPICS, Event
from libs.common.events import model as ev
from libs.common.http import Role
from services.gateway import core
from services.gateway.model import TRANSITIONS, ApiKey, HostToken, KeyId, Operation, OperationId
from services.gateway.model import OperationState as S

MASTER = bytes(32)
TOPIC_NAMES = [topic.name for topic in TOPICS]


def make_key(**changes: object) -> ApiKey:
    secret = core.secret_of(MASTER, KeyId("abcd"))
    key = ApiKey(
        id=KeyId("abcd"),
        bu="acme",
        role=Role.DEPLOYER,
        label="ci",
        secret_hash=core.hash_secret(secret),
        created_at=0.0,
    )
    return key.model_copy(update=changes)


def test_a_key_opens_with_its_secret_only() -> None:
    key = make_key()
    secret = core.secret_of(MASTER, key.id)
    text = core.compose_key(key.id, secret)
    assert core.split_key(text) == (key.id, secret)
    principal = core.check_key(key, secret, 1.0)
    assert (principal.name, principal.bu, principal.role) == ("ci#abcd", "acme", Role.DEPLOYER)
    other = core.secret_of(MASTER, KeyId("abce"))
    for wrong_key, wrong_secret in ((key, other), (None, secret), (None, ""), (key, "")):
        with pytest.raises(Unauthenticated, match="not known"):
            core.check_key(wrong_key, wrong_secret, 1.0)


def test_the_stored_hash_does_not_hold_the_secret() -> None:
    key = make_key()
    assert core.secret_of(MASTER, key.id) not in key.model_dump_json()


@pytest.mark.parametrize(
    ("changes", "now", "said"),
    [
        ({"expires_at": 10.0}, 10.0, "expired"),
        ({"revoked_at": 5.0}, 5.0, "revoked"),
        ({"expires_at": 10.0, "revoked_at": 50.0}, 11.0, "expired"),
    ],
)
def test_a_key_ends(changes: dict[str, float], now: float, said: str) -> None:
    key = make_key(**changes)
    secret = core.secret_of(MASTER, key.id)
    with pytest.raises(Unauthenticated, match=said):
        core.check_key(key, secret, now)
    core.check_key(key, secret, min(changes.values()) - 1)


@pytest.mark.parametrize(
    "text", ["", "gk_", "gk_abcd_short", "gk_abcd_" + "z" * 53, "gk_a/b_" + "z" * 52]
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(Unauthenticated):
        core.split_key(text)


@given(st.lists(st.floats(0, 5), max_size=60), st.floats(0.5, 20), st.integers(1, 10))
def test_no_more_calls_pass_than_rate_and_burst_allow(
    gaps: list[float], rate: float, burst: int
) -> None:
    bucket, now, passed = core.Bucket(burst, 0.0), 0.0, 0
    for gap in gaps:
        now += gap
        try:
            bucket = core.take(bucket, now, rate, burst)
            passed += 1
        except TooMany as error:
            assert error.retry_after_s is not None
            core.take(bucket, now + error.retry_after_s + 1e-6, rate, burst)
    assert passed <= burst + rate * now + 1e-6


def operation(state: S = S.RUNNING, fingerprint: str = "f", at: float = 0.0) -> Operation:
    return Operation(
        id=OperationId("i-1"),
        actor="a",
        bu="acme",
        action="x",
        target="acme/web",
        fingerprint=fingerprint,
        state=state,
        started_at=at,
    )


def test_repetitions() -> None:
    asked = operation(at=10.0)
    assert core.is_repetition(operation(S.DONE), asked)
    assert not core.is_repetition(operation(S.FAILED), asked)
    assert not core.is_repetition(operation(S.RUNNING, at=10.0 - core.STALE_RUN_S), asked)
    with pytest.raises(Conflict):
        core.is_repetition(operation(S.RUNNING, at=9.0), asked)
    for state in S:
        with pytest.raises(InvalidInput):
            core.is_repetition(operation(state, fingerprint="other"), asked)


@given(st.sampled_from(S), st.sampled_from(S))
def test_only_the_tables_moves_are_made(before: S, after: S) -> None:
    if after in TRANSITIONS[before]:
        assert core.finish(operation(before), after, status=200).state is after
    else:
        with pytest.raises(ValueError, match="→"):
            core.finish(operation(before), after)


def test_idempotency_keys_are_each_actors_own() -> None:
    assert core.operation_id("a", "k") == core.operation_id("a", "k")
    assert core.operation_id("a", "k") != core.operation_id("b", "k")
    assert core.operation_id("ab", "c") != core.operation_id("a", "bc")
    for wrong in ("", "a b", "é", "x" * 201, "a\n"):
        with pytest.raises(InvalidInput):
            core.operation_id("a", wrong)


COUNTS = ev.Counts(wanted=1)
MINE: list[Event] = [
    ev.DeployProgressed(deployment="d", app="acme/web", release=1, state="rolling", counts=COUNTS),
    ev.InstanceStopRequested(instance="i", app="acme/web", reason=""),
    ev.JobRunMissed(job="acme/nightly", run="r", target=0.0),
    ev.AlertRaised(alert="x", rule="r", severity="info", labels={"app": "acme/web"}),
    ev.AlertResolved(
        alert="x", rule="r", severity="info", labels={"job": "acme/nightly", "bu": "acme"}
    ),
]
CLUSTERS: list[Event] = [
    ev.NodeLost(agent="a", hostname="h"),
    ev.IpReleased(network="n", address="10.0.0.1", generation=1),
    ev.AlertRaised(alert="x", rule="host-lost", severity="info"),
    ev.ImagePushed(repository="r", digest="d"),
]
AUDIT = ev.AuditRecorded(actor="a", action="x", target="acme/web", allowed=True)


def test_a_business_unit_sees_its_own_events_only() -> None:
    all_seeing = Actor("root", "*", Role.VIEWER)
    acme = Actor("a", "acme", Role.VIEWER)
    other = Actor("o", "acm", Role.ADMIN)
    for event in MINE:
        assert core.may_see(all_seeing, event) and core.may_see(acme, event)
        assert not core.may_see(other, event)
    for event in CLUSTERS:
        assert core.may_see(all_seeing, event)
        assert not core.may_see(acme, event) and not core.may_see(other, event)
    assert not core.may_see(acme, AUDIT) and not core.may_see(other, AUDIT)
    assert core.may_see(Actor("a", "acme", Role.ADMIN), AUDIT)


def test_every_event_class_has_an_answer_to_who_sees_it() -> None:
    fields = {cls: cls.model_fields for cls in ev.ALL}
    tenants = {cls for cls, known in fields.items() if "app" in known or "job" in known}
    clusters = {
        ev.IpAllocated, ev.IpReleased, ev.IpConflicted, ev.NodeJoined, ev.NodeLost,
        ev.NodeDrained, ev.ImagePushed,
    }  # fmt: skip
    by_label = {ev.AlertRaised, ev.AlertResolved, ev.AuditRecorded}
    assert tenants | clusters | by_label == set(ev.ALL)


def test_topics_are_chosen_by_name_or_stem() -> None:
    assert core.choose_topics("", TOPIC_NAMES) == tuple(TOPIC_NAMES)
    assert core.choose_topics("deploy.*, container.started", TOPIC_NAMES) == (
        "deploy.failed",
        "deploy.progressed",
        "deploy.requested",
        "deploy.succeeded",
        "container.started",
    )
    with pytest.raises(InvalidInput, match="no topic 'deploy'"):
        core.choose_topics("deploy", TOPIC_NAMES)


def test_about_an_app_means_its_instances_too() -> None:
    event = MINE[1]
    assert core.about(event, "") and core.about(event, "i") and core.about(event, "acme/web")
    assert not core.about(event, "acme/api")


# -- hosts -----------------------------------------------------------------------------------------

HOST_TOKENS = st.builds(
    HostToken,
    id=st.just("t1"),
    host=st.sampled_from(["h1", "h2"]),
    generation=st.integers(0, 2),
    secret_hash=st.just(""),
    created_at=st.just(0.0),
    expires_at=st.sampled_from([50.0, 100.0, 150.0]),
    revoked_at=st.none() | st.just(10.0),
    used_by=st.sampled_from(["", "mine", "theirs"]),
)


@given(st.none() | HOST_TOKENS, st.sampled_from(["h1", "h2"]), st.integers(0, 2))
def test_a_token_opens_for_its_host_its_generation_its_time_and_one_key_pair(
    token: HostToken | None, host: str, generation: int
) -> None:
    good = (
        token is not None
        and token.host == host
        and token.generation == generation
        and token.expires_at > 100.0
        and token.revoked_at is None
        and token.used_by in ("", "mine")
    )
    reason = core.why_not_enrol(token, host, "mine", generation, 100.0)
    assert (reason == "") == good
    assert "mine" not in reason and "theirs" not in reason
