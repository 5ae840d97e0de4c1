"""A small world around the pure core: instances that start, get healthy, crash and stop, told by events that come
late, doubled, out of order or never. What happens is chosen by the test; the core's promises are checked here."""

from __future__ import annotations

from dataclasses import dataclass, field

from libs.common.events import Event
from libs.common.events import model as ev
from libs.common.events.model import DeployAction
from libs.common.spec import AppSpec, Strategy
from services.deployer.core import Decision, Snapshot, begin, decide
from services.deployer.model import (
    ENDED,
    App,
    AppId,
    Deployment,
    DeploymentId,
    DeployState,
    Goal,
    Instance,
    InstanceId,
    State,
    Wanted,
)
from services.deployer.observe import ObservedEvent, observe

APP = AppId("shop/web")


def make_app(wanted: int = 0, release: int | None = None, strategy: Strategy | None = None) -> App:
    """An app at rest."""
    spec = AppSpec(
        image="reg/web:1", instances=wanted, network="blue", strategy=strategy or Strategy()
    )
    return App(id=APP, spec=spec, created_at=0, updated_at=0, release=release, wanted=wanted)


def make_instance(name: str, **fields: object) -> Instance:
    """An instance of release 1; healthy unless `fields` say otherwise."""
    base: dict[str, object] = {
        "id": name,
        "app": APP,
        "release": 1,
        "deployment": "d0",
        "created_at": 0.0,
        "state": State.HEALTHY,
        "generation": 1,
        "attempt": f"{name}.1",
        "healthy_since": 0.0,
        "address": "10.0.0.1",
    }
    return Instance.model_validate(base | fields)


def make_deployment(app: App, goal: Goal, now: float, **fields: object) -> Deployment:
    """A deployment that rolls towards `goal`."""
    base: dict[str, object] = {
        "id": DeploymentId("d1"),
        "app": app.id,
        "action": DeployAction.RELEASE,
        "actor": "ann",
        "state": DeployState.ACCEPTED,
        "created_at": now,
        "release": goal.release,
        "before": Goal(release=app.release, wanted=app.wanted),
        "strategy": app.spec.strategy,
        "deadline_s": app.spec.strategy.deadline_s,
    }
    return begin(Deployment.model_validate(base | fields), goal, now)


@dataclass
class Told:
    """An event on its way."""

    event: ObservedEvent
    sequence: int


@dataclass
class World:
    """One app, what really runs (`alive`: attempt number by instance), and the events under way."""

    app: App
    now: float = 1000.0
    docs: dict[InstanceId, Instance] = field(default_factory=dict)
    alive: dict[InstanceId, int] = field(default_factory=dict)
    sequences: dict[InstanceId, int] = field(default_factory=dict)
    wire: list[Told] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    ended: list[Deployment] = field(default_factory=list)
    made: list[Instance] = field(default_factory=list)

    def populate(self, count: int, release: int = 1) -> None:
        """`count` healthy instances of a release, as if they had always been there."""
        for n in range(count):
            name = InstanceId(f"old{n}")
            self.docs[name] = make_instance(name, release=release, slot=n)
            self.alive[name] = 1

    # -- what the core does -----------------------------------------------------------------------

    def sweep(self) -> Decision:
        """Decide, check the promises, carry it out."""
        before = self.app
        decision = decide(Snapshot(before, tuple(self.docs.values())), self.now)
        self._carry_out(decision)
        self._check(before, decision)
        return decision

    def _carry_out(self, decision: Decision) -> None:
        self.app = decision.app
        self.events.extend(decision.events)
        if decision.ended is not None:
            self.ended.append(decision.ended)
        for each in decision.make:
            name = InstanceId(f"i{len(self.made)}")
            made = make_instance(
                name,
                release=each.release,
                deployment=each.deployment,
                rollback=each.rollback,
                slot=each.slot,
                created_at=self.now,
                state=State.REQUESTED,
                generation=0,
                attempt="",
                healthy_since=None,
                address="",
            )
            self.docs[name] = made
            self.made.append(made)
        for name, reason in decision.stop:
            update = {"wanted": Wanted.STOP, "stop_reason": reason, "stop_sent_at": self.now}
            self.docs[name] = self.docs[name].model_copy(update=update)

    def _check(self, before: App, decision: Decision) -> None:
        stopped = {name for name, _ in decision.stop}
        run = [each for each in self.docs.values() if each.runs_for_us]
        slots = [each.slot for each in self.docs.values() if each.state is not State.GONE]
        assert len(slots) == len(set(slots))
        deployment = decision.app.deployment
        if deployment is None:
            assert not decision.make or len(run) <= before.wanted
            assert not decision.stop or len(run) >= before.wanted
            return
        goal, strategy = deployment.goal, deployment.strategy
        existing = sum(each.exists for each in self.docs.values())
        if decision.make and deployment.state is not DeployState.PAUSED:
            assert existing <= goal.wanted + strategy.surge(goal.wanted)
        assert all(each.release == goal.release for each in decision.make) or (
            deployment.state is DeployState.PAUSED
        )
        assert all(each.rollback == deployment.on_way_back for each in decision.make)
        ready_after = sum(each.is_ready(self.now) for each in run)
        ready_stopped = sum(self.docs[name].is_ready(self.now) for name in stopped)
        floor = max(0, goal.wanted - strategy.unavailable(goal.wanted))
        if ready_stopped:
            assert ready_after >= min(floor, ready_after + ready_stopped)

    # -- what the cluster does --------------------------------------------------------------------

    def tell(self, name: InstanceId, kind: type[Event], **fields: object) -> None:
        """The scheduler writes an event; it is now under way."""
        self.sequences[name] = self.sequences.get(name, 0) + 1
        doc = {"instance": name, "app": APP, "agent": "a1", "hostname": "h1"}
        attempt = f"{name}.{self.alive.get(name, 1)}"
        event = kind.model_validate({**doc, "attempt": attempt, "address": "10.0.0.9", **fields})
        self.wire.append(Told(event, self.sequences[name]))  # type: ignore[arg-type]

    def start(self, name: InstanceId) -> None:
        """A first or next attempt starts."""
        self.alive[name] = self.alive.get(name, 0) + 1
        self.tell(name, ev.ContainerStarted)

    def crash(self, name: InstanceId, *, final: bool) -> None:
        """The attempt fails; when not final, it is started anew at once."""
        self.tell(name, ev.ContainerExited, state="TASK_FAILED", exit_code=1, final=final)
        if not final:
            self.start(name)
        else:
            self.alive[name] = -1

    def obey(self, name: InstanceId) -> None:
        """What was asked to stop does stop."""
        self.tell(name, ev.ContainerExited, state="TASK_KILLED", wanted=True, final=True)
        self.alive[name] = -1

    def deliver(self, index: int, *, keep: bool = False) -> None:
        """One of the events under way arrives; with `keep` it will arrive once more."""
        told = self.wire[index] if keep else self.wire.pop(index)
        name = InstanceId(told.event.instance)
        self.docs[name] = observe(self.docs[name], told.event, told.sequence, self.now)

    def settle(self, *, healthy: bool = True, rounds: int = 400) -> None:
        """From now on all goes its way: what is wanted starts and gets healthy, the rest stops."""
        for _ in range(rounds):
            self.sweep()
            if self.app.deployment is None and not self.wire:
                break
            for name, doc in list(self.docs.items()):
                self._live_on(name, doc, healthy)
            while self.wire:
                self.deliver(0)
            self.now += 5.0

    def _live_on(self, name: InstanceId, doc: Instance, healthy: bool) -> None:
        alive = self.alive.get(name, 0)
        if alive < 0:
            return
        if doc.wanted is Wanted.STOP:
            self.obey(name)
        elif alive == 0:
            self.start(name)
        elif doc.state is not State.HEALTHY and healthy:
            self.tell(name, ev.ContainerHealthy)

    def wait_for_end(self, *, step_s: float, limit: int = 2000) -> Deployment:
        """Only time passes (and sweeps are made) until the deployment ends."""
        for _ in range(limit):
            if self.app.deployment is None:
                assert self.ended and self.ended[-1].state in ENDED and self.ended[-1].reason
                return self.ended[-1]
            self.sweep()
            self.now += step_s
        raise AssertionError(f"the deployment has not ended: {self.app.deployment}")
