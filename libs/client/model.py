"""The words of the public API: what its requests and answers carry. The gateway serves these, the client reads them.

Requests refuse unknown fields by name. Answers keep fields they don't know, so that an older client shows what a
newer server says. Times are Unix seconds; `app` is always `bu/app`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from libs.common.events.model import Counts, DeployAction
from libs.common.http import Role
from libs.common.spec import IMAGE, NAME_PATTERN, AppSpec, Strict

__all__ = ["AppSpec", "Counts", "DeployAction", "Role"]

MAX_INSTANCES = 10_000


# -- what is asked ---------------------------------------------------------------------------------


class Force(Strict):
    """What all that is asked of a deployment has in common."""

    force: bool = Field(False, description="take over from a deployment in progress")


class Urgent(Force):
    """The body of a restart or stop; may be asked for without waiting for the event bus."""

    break_glass: bool | None = Field(
        None,
        description="don't wait for the event bus; for admins, audited, takes over as force does",
    )
    reason: str | None = Field(
        None, max_length=500, validate_default=True, description="why the glass is broken"
    )

    @field_validator("reason")
    @classmethod
    def _reason(cls, value: str | None, info: ValidationInfo) -> str | None:
        broken = bool(info.data.get("break_glass"))
        if broken and not (value or "").strip():
            raise ValueError("must say why the glass is broken")
        if value is not None and not broken:
            raise ValueError("only with break_glass")
        return value


class Release(Force):
    """The body of `POST …/deploys`: release the app's spec as it stands."""

    image: str | None = Field(None, max_length=500, description="instead of the spec's image")
    dry_run: bool = Field(False, description="answer the plan, change nothing")
    spec: AppSpec | None = Field(
        None, description="dry runs only: plan this spec, not the one that stands; it is not stored"
    )

    @field_validator("image")
    @classmethod
    def _image(cls, value: str | None) -> str | None:
        if value is not None and not IMAGE.fullmatch(value):
            raise ValueError(
                "not an image reference; expected e.g. registry.example:5000/team/web:1.2"
            )
        return value

    @field_validator("spec")
    @classmethod
    def _spec(cls, value: AppSpec | None, info: ValidationInfo) -> AppSpec | None:
        if value is not None and not info.data.get("dry_run"):
            raise ValueError("only for a dry run; PUT the app's spec, then release it")
        return value


class Scale(Urgent):
    """The body of `POST …/scale`."""

    instances: int = Field(ge=0, le=MAX_INSTANCES, description="how many there shall be")


class Rollback(Urgent):
    """The body of `POST …/rollback`."""

    release: int | None = Field(None, ge=1, le=2**31, description="None is the one before")


class NewKey(Strict):
    """The body of `POST /v1/keys`."""

    bu: str = Field(
        pattern=rf"^\*$|{NAME_PATTERN}", description="the business unit it is for; '*' is all"
    )
    role: Role = Role.VIEWER
    label: str = Field("", pattern=r"^[A-Za-z0-9._@-]{0,60}$", description="who or what holds it")
    ttl_s: float | None = Field(
        None, ge=60, le=10 * 366 * 86_400, description="how long it is good for; None: no end"
    )


class NewProducerKey(Strict):
    """The body of `POST /v1/producers`."""

    bu: str = Field(pattern=NAME_PATTERN, description="the business unit whose apps it deploys")
    producer: str = Field(pattern=r"^[A-Za-z0-9._-]{1,60}$", description="who signs with it")
    public_key: str = Field(max_length=1000, description="a public Ed25519 key in PEM")


# -- what is answered ------------------------------------------------------------------------------


class View(BaseModel):
    """Base of answers: frozen; unknown fields are kept."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)


class Partial(View):
    """Base of composed answers; `incomplete` names the services that did not answer in time."""

    incomplete: tuple[str, ...] = ()


class AppView(View):
    """An app: its spec, and how its instances are."""

    app: str
    version: int = 0
    spec: dict[str, Any] = {}


class Apps(Partial):
    """Apps, by name."""

    apps: tuple[AppView, ...]


class ReleaseView(View):
    """An immutable, numbered release."""

    release: int
    image: str = ""
    actor: str = ""
    created_at: float = 0.0


class Releases(Partial):
    """Releases of an app, newest first."""

    releases: tuple[ReleaseView, ...]


class Accepted(View):
    """A deployment was asked for; `url` tells how it goes."""

    deployment: str
    app: str
    action: DeployAction
    url: str


class DeploymentView(View):
    """A deployment; `accepted` is the state of one that its owner has yet to hear of.

    `delayed`: it can't hear of it, as the event bus has not taken the request yet; `reason` tells more.
    """

    deployment: str
    app: str
    action: str = ""
    state: str
    release: int | None = None
    counts: dict[str, int] | None = None
    reason: str = ""
    delayed: bool = False
    break_glass: str = ""


class Deployments(Partial):
    """Deployments, newest first."""

    deployments: tuple[DeploymentView, ...]


class Why(View):
    """Why instances are not placed: of `agents`, how many failed which filter first, and the nearest miss in words."""

    agents: int
    failed: dict[str, int]
    nearest: str

    @property
    def counts(self) -> str:
        """How many agents failed which filter, in words; the most first."""
        most_first = sorted(self.failed.items(), key=lambda each: (-each[1], each[0]))
        return ", ".join(f"{count} {name}" for name, count in most_first)


class InstanceView(View):
    """An instance: wanted and observed."""

    instance: str
    app: str = ""
    release: int | None = None
    state: str = ""
    agent: str = ""
    hostname: str = ""
    address: str = ""
    container: str = ""
    healthy: bool | None = None
    waiting: str = ""
    why: Why | None = None


class Instances(Partial):
    """Instances, by app and id."""

    instances: tuple[InstanceView, ...]


class NodeView(View):
    """A host: what it has, what Mesos has given away of it, and what our instances have reserved."""

    agent: str
    hostname: str = ""
    state: str = ""
    attributes: dict[str, str] = {}
    cpus: float | None = None
    mem_mib: float | None = None
    used_cpus: float | None = None
    used_mem_mib: float | None = None
    instances: int | None = None
    reserved_cpus: float | None = None
    reserved_mem_mib: float | None = None
    maintenance: str = ""  # is it closed, and how far that is


class Nodes(Partial):
    """Hosts, by name."""

    nodes: tuple[NodeView, ...]


class AlertView(View):
    """An alert."""

    alert: str
    rule: str = ""
    severity: str = ""
    state: str = ""
    summary: str = ""
    labels: dict[str, str] = {}


class Breaker(View):
    """Tasks that nobody knows, which the scheduler holds back from being killed."""

    open: bool
    unknown_tasks: tuple[str, ...] = ()


class Alerts(Partial):
    """Alerts, newest first."""

    alerts: tuple[AlertView, ...]


class PlannedPlace(View):
    """So many instances would go to a host."""

    hostname: str
    zone: str = ""
    count: int


class Plan(Partial):
    """What a deployment would do, and where its instances would go by what hosts offered last."""

    refused: str = ""
    places: tuple[PlannedPlace, ...] = ()
    unplaced: int = 0
    why: Why | None = None


class KeyView(View):
    """An API key, without its secret."""

    id: str
    prefix: str = Field(description="what the key begins with")
    bu: str
    role: Role
    label: str = ""
    created_at: float
    created_by: str = ""
    expires_at: float | None = None
    revoked_at: float | None = None


class Keys(View):
    """API keys, oldest first."""

    keys: tuple[KeyView, ...]


class KeyCreated(KeyView):
    """A new API key. `key` is shown here only; the gateway keeps a hash of it."""

    key: str


class ProducerKeyView(View):
    """A producer's public key; its signatures name `id` as their `kid`."""

    id: str
    bu: str
    producer: str
    public_key: str
    created_at: float
    created_by: str = ""


class ProducerKeys(View):
    """Producers' keys, oldest first."""

    keys: tuple[ProducerKeyView, ...]


class TenantView(View):
    """A business unit that has keys."""

    bu: str
    created_at: float


class Tenants(View):
    """Business units, by name."""

    tenants: tuple[TenantView, ...]


class AuditView(View):
    """Who asked what, and what came of it."""

    id: str
    time: float
    source: str
    actor: str
    action: str
    target: str
    allowed: bool
    detail: str = ""
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    request_id: str = ""


class Audit(View):
    """A page of the audit trail, newest first; `next` goes into `?before=` for the page after it."""

    entries: tuple[AuditView, ...]
    next: str = ""


class EventView(View):
    """One event of `GET /v1/events`; `cursor` goes into Last-Event-ID to resume after it."""

    id: str
    topic: str
    subject: str
    time: float
    sequence: int
    source: str = ""
    data: dict[str, Any]
    cursor: str = ""


class FieldError(View):
    """One wrong field of a request."""

    field: str
    problem: str
    expected: str = ""


class Problem(View):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str = ""
    errors: tuple[FieldError, ...] = ()


class DeployState(StrEnum):
    """Deployment states that the API itself gives; the others are the deployer's."""

    ACCEPTED = "accepted"
