"""What the deployer knows: apps, releases, deployments, instances, and their state machines as tables.

The app's document is the serialisation point: whatever changes the set of instances is first written there as an
intent (compare-and-set), and then carried out on the instances' own documents. So any number of replicas may
decide about one app, and none of them can act on a decision that another has overtaken.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import NewType

from pydantic import BaseModel, ConfigDict, Field

from libs.common.events.model import Counts, DeployAction
from libs.common.spec import AppSpec, Strategy

AppId = NewType("AppId", str)  # "bu/app"
DeploymentId = NewType("DeploymentId", str)
InstanceId = NewType("InstanceId", str)


class DeployerConfig(BaseModel):
    """The section `deployer`.

    An image without a registry comes from `default_registry`; a registry of `plain_http_registries`, and any on
    127.0.0.0/8 or localhost, is spoken to without TLS. `resolve_images` off takes images by digest only, unchecked.
    A HAProxy socket is a path or `host:port`; an instance's document is kept for `keep_gone_s` after its end, a
    deployment's for `keep_deployments_s`. Of each app the last `keep_releases` are kept, and those of use.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    default_registry: str = "registry-1.docker.io"
    plain_http_registries: tuple[str, ...] = ()
    resolve_images: bool = True
    haproxy_sockets: tuple[str, ...] = ()
    webhook_url: str = ""
    webhook_token_file: Path | None = None
    webhook_signing_key_file: Path | None = None
    trusted_sources: tuple[str, ...] = ("/gantry/gateway", "/gantry/deployer")
    sweep_s: float = Field(30.0, gt=0)
    verify_balancer_s: float = Field(5.0, gt=0)
    keep_gone_s: float = Field(3600.0, ge=600.0)
    keep_releases: int = Field(50, ge=2)
    keep_deployments_s: float = Field(90 * 86_400.0, ge=3600.0)


class Body(BaseModel):
    """Base of what is stored; fields that a newer version added are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


# -- instances -----------------------------------------------------------------------------------


class Wanted(StrEnum):
    """What the deployer wants of an instance; STOP is never taken back."""

    RUN = "run"
    STOP = "stop"


class State(StrEnum):
    """What the events said of an instance last."""

    REQUESTED = "requested"
    PLACED = "placed"
    STARTED = "started"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    LOST = "lost"  # its host can't be reached; it may still run
    EXITED = "exited"  # the attempt ended, the scheduler makes another
    GONE = "gone"  # no further attempt; final


# From which states an event of the *same* attempt is taken. A newer attempt's event is always taken, an
# older one's never; GONE is never left.
SAME_ATTEMPT: dict[State, frozenset[State]] = {
    State.PLACED: frozenset({State.REQUESTED}),
    State.STARTED: frozenset({State.PLACED, State.LOST}),
    State.HEALTHY: frozenset({State.PLACED, State.STARTED, State.UNHEALTHY, State.LOST}),
    State.UNHEALTHY: frozenset({State.PLACED, State.STARTED, State.HEALTHY, State.LOST}),
    State.LOST: frozenset({State.PLACED, State.STARTED, State.HEALTHY, State.UNHEALTHY}),
    State.EXITED: frozenset(State) - {State.EXITED, State.GONE},
    State.GONE: frozenset(State) - {State.GONE},
}
ASKED, FORCED = "asked", "forced"
RUNNING = frozenset({State.STARTED, State.HEALTHY, State.UNHEALTHY})


class HookPhase(StrEnum):
    """Where an instance stands with its load balancer."""

    OFF = "off"
    ADDING = "adding"
    ON = "on"
    REMOVING = "removing"


HOOK_MOVES: dict[HookPhase, frozenset[HookPhase]] = {
    HookPhase.OFF: frozenset({HookPhase.ADDING}),
    HookPhase.ADDING: frozenset({HookPhase.ON, HookPhase.OFF, HookPhase.REMOVING}),
    HookPhase.ON: frozenset({HookPhase.ADDING, HookPhase.REMOVING}),
    HookPhase.REMOVING: frozenset({HookPhase.OFF}),
}


class Endpoint(Body):
    """Where the load balancer sends an instance's traffic, and by which driver it was told so."""

    driver: str
    backend: str
    address: str
    port: int


class Hook(Body):
    """The load balancer's side of an instance. `until` is the deadline of the change under way."""

    phase: HookPhase = HookPhase.OFF
    endpoint: Endpoint | None = None
    changes: int = 0  # changes begun so far; part of the change's id
    submitted: bool = False  # the driver has taken the change
    since: float = 0.0
    until: float = 0.0
    drain_until: float = 0.0
    retry_at: float = 0.0
    failures: int = 0  # in a row
    message: str = ""


class Instance(Body):
    """One wanted instance and what became of it; the body of its document."""

    id: InstanceId
    app: AppId
    release: int
    deployment: str
    rollback: bool = False  # asked for by a deployment's way back
    slot: int = 0
    created_at: float
    hooked: bool = False  # a load balancer must let it in and out
    min_ready_s: float = 0.0
    stop_grace_s: float = 10.0
    traceparent: str = ""
    direct_until: float = 0.0  # until then its events are handed over besides

    wanted: Wanted = Wanted.RUN
    stop_reason: str = ""
    stop_sent_at: float | None = None
    nudged_at: float = 0.0
    nudges: int = 0

    state: State = State.REQUESTED
    turned_up: bool = (
        False  # taken for gone, and yet the scheduler tells of it: it is to be stopped
    )
    attempt: str = ""
    generation: int = 0
    agent: str = ""
    hostname: str = ""
    address: str = ""
    container: str = ""
    leaving: str = ""  # its host is drained: ASKED to move when that can be, or FORCED to
    leave_reason: str = ""
    leave_host: str = ""  # the host that is meant
    leave_seen: int = (
        -1
    )  # newest ce_sequence of such a request: it says nothing else of the instance
    healthy_since: float | None = None
    failures: int = 0
    failed_generation: int = -1
    exited_generation: int = -1  # the newest attempt whose end was told
    waiting: str = ""
    last_exit: str = ""
    changed_at: float = 0.0
    seen: int = -1  # newest ce_sequence of the scheduler's events, and the topics had at that one
    seen_topics: tuple[str, ...] = ()
    hook: Hook = Hook()

    @property
    def exists(self) -> bool:
        """Counts against the strategy's upper bound. One to be stopped on a lost host does not: it would
        hold up every release until the host is back."""
        if self.state is State.GONE:
            return False
        return self.wanted is Wanted.RUN or self.state is not State.LOST

    @property
    def runs_for_us(self) -> bool:
        """Wanted, and not finally dead."""
        return self.wanted is Wanted.RUN and self.state is not State.GONE

    @property
    def restarts(self) -> int:
        """Attempts after the first."""
        return max(0, self.generation - 1)

    @property
    def may_be_adopted(self) -> bool:
        """A new attempt that nobody told the old one's end of: it may have taken over its container."""
        return self.exited_generation < self.generation - 1

    def ready_at(self) -> float | None:
        """When it has been healthy for long enough, if it is healthy."""
        if self.state is not State.HEALTHY or self.healthy_since is None:
            return None
        return self.healthy_since + self.min_ready_s

    def is_ready(self, now: float) -> bool:
        """Healthy for long enough and, where there is a load balancer, in it."""
        ready_at = self.ready_at()
        if ready_at is None or now < ready_at:
            return False
        if not self.hooked:
            return True
        endpoint = self.hook.endpoint
        return (
            self.hook.phase is HookPhase.ON
            and endpoint is not None
            and endpoint.address == self.address
        )


# -- releases and deployments ----------------------------------------------------------------------


class Release(Body):
    """An immutable, numbered release: the spec as it was, and the image by digest."""

    app: AppId
    number: int
    image: str  # name@sha256:…
    login: bool = False  # it was found with the business unit's own login
    spec: AppSpec
    deployment: str
    actor: str
    created_at: float


class DeployState(StrEnum):
    """Where a deployment stands."""

    ACCEPTED = "accepted"  # its image is being resolved
    ROLLING = "rolling"
    PAUSED = "paused"
    ROLLING_BACK = "rolling_back"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"
    SUPERSEDED = "superseded"
    REFUSED = "refused"


_S = DeployState
ENDED = frozenset({_S.SUCCEEDED, _S.FAILED, _S.ROLLED_BACK, _S.ABORTED, _S.SUPERSEDED, _S.REFUSED})

DEPLOY_MOVES: dict[DeployState, frozenset[DeployState]] = {
    _S.ACCEPTED: frozenset({_S.ROLLING, _S.FAILED, _S.ABORTED, _S.SUPERSEDED}),
    _S.ROLLING: frozenset(
        {_S.PAUSED, _S.ROLLING_BACK, _S.SUCCEEDED, _S.FAILED, _S.ABORTED, _S.SUPERSEDED}
    ),
    _S.PAUSED: frozenset({_S.ROLLING, _S.ROLLING_BACK, _S.FAILED, _S.ABORTED, _S.SUPERSEDED}),
    _S.ROLLING_BACK: frozenset({_S.ROLLED_BACK, _S.FAILED, _S.ABORTED, _S.SUPERSEDED}),
    **{state: frozenset() for state in ENDED},
}


class Goal(Body):
    """What an app should come to: so many instances of a release. `restart`: none older than the deployment."""

    release: int | None
    wanted: int
    restart: bool = False


class Deployment(Body):
    """One deployment; part of the app's document while it lasts, a document of its own from its start on."""

    id: DeploymentId
    app: AppId
    action: DeployAction
    actor: str
    state: DeployState
    created_at: float
    reason: str = ""
    image: str = ""  # as asked for, to be resolved
    release: int | None = None  # what it installs
    goal: Goal = Goal(release=None, wanted=0)
    before: Goal = Goal(release=None, wanted=0)
    outcome: DeployState = DeployState.SUCCEEDED  # what it ends as when the goal is reached
    strategy: Strategy = Strategy()
    spec: AppSpec | None = None  # of the release to be made
    spec_version: int = 0
    counts: Counts = Counts(wanted=0)
    best_ready: int = (
        0  # high-water mark of ready new ones; with the next, what progress is measured by
    )
    least_left: int = 1 << 30  # low-water mark of old ones left
    progress_at: float = 0.0
    deadline_s: float = (
        600.0  # the strategy's, and what the app itself has us wait (drain, grace, min ready)
    )
    paused_at: float = 0.0
    ended_at: float | None = None
    traceparent: str = ""
    correlation_id: str = ""
    break_glass: str = ""  # why somebody broke the glass for it
    direct_until: float = 0.0  # until then what comes of it does not wait for the bus

    @property
    def on_way_back(self) -> bool:
        """The goal is what was there before."""
        return self.state is DeployState.ROLLING_BACK

    def brings(self, instance: Instance) -> bool:
        """The instance is one that the goal asks for."""
        if instance.release != self.goal.release:
            return False
        return not self.goal.restart or instance.deployment == self.id


# -- apps ------------------------------------------------------------------------------------------


class Birth(Body):
    """An instance to be made."""

    id: InstanceId
    release: int
    slot: int
    deployment: str = ""
    rollback: bool = False


class Death(Body):
    """An instance to be stopped, and why."""

    id: InstanceId
    reason: str


class Intents(Body):
    """Writes to other documents that this version of the app's document entails; safe to repeat."""

    births: tuple[Birth, ...] = ()
    deaths: tuple[Death, ...] = ()
    releases: tuple[Release, ...] = ()
    deployments: tuple[Deployment, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.births or self.deaths or self.releases or self.deployments)


class App(Body):
    """An app as its owner decides about it. `release` and `wanted` are the last good state, not the goal."""

    id: AppId
    spec: AppSpec
    spec_version: int = 1
    created_at: float
    updated_at: float
    release: int | None = None
    previous: int | None = None  # the good release before `release`
    wanted: int = 0
    last_release: int = 0
    deployment: Deployment | None = None
    intents: Intents = Intents()
    traceparent: str = ""
    glass_at: float = 0.0  # when the newest request that broke the glass was made

    @property
    def direct_until(self) -> float:
        """Until when what comes of its deployment does not wait for the bus; 0 unless somebody broke the glass."""
        return self.deployment.direct_until if self.deployment is not None else 0.0

    @property
    def bu(self) -> str:
        """The business unit."""
        return self.id.partition("/")[0]

    @property
    def name(self) -> str:
        """The app's name within its BU."""
        return self.id.partition("/")[2]
