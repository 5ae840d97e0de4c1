"""What the gateway owns: API keys, business units, the operations it was asked for; and its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, NewType

from pydantic import BaseModel, ConfigDict, Field

from libs.common.http import Role
from libs.common.wishes import Name

KeyId = NewType("KeyId", str)
OperationId = NewType("OperationId", str)


class ChronosConfig(BaseModel):
    """Chronos' API, see docs/chronos.md: which versions are spoken, and what a job gets that does not say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    versions: tuple[Literal[2, 3], ...] = Field((2, 3), description="none: there is no such API")
    bu: Name | None = Field(
        None, description="the business unit of keys for all of them, where the request names none"
    )
    networks: dict[Name, Name] = Field({}, description="the network of a business unit's jobs")
    network: Name | None = Field(None, description="that of the business units not named there")
    image: str | None = Field(None, description="what jobs without a container run in")
    overdue: bool = Field(
        True, description="a job whose time has passed runs when it is put, as with Chronos"
    )
    cpus: float = Field(0.1, gt=0, le=256)
    mem_mib: int = Field(128, ge=4)
    disk_mib: int = Field(256, ge=0)
    async_s: float = Field(
        86_400.0, ge=1, le=366 * 86_400.0,
        description="a try of an `async` job has failed when nobody has told its end by then",
    )  # fmt: skip


class GatewayConfig(BaseModel):
    """The section `gateway`. Times are seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rate_per_s: float = Field(50.0, gt=0, description="requests a second and key, in the long run")
    rate_burst: float = Field(200.0, ge=1, description="requests at once")
    peer_timeout_s: float = Field(5.0, gt=0, le=60)
    idempotency_s: float = Field(86_400.0, ge=60, description="how long an answer is kept")
    audit_s: float = Field(90 * 86_400.0, ge=60, description="how long the audit trail is kept")
    heartbeat_s: float = Field(15.0, gt=0, description="longest silence of an event stream")
    max_streams: int = Field(500, ge=1, description="event and log streams at once")
    max_streams_per_key: int = Field(50, ge=1)
    session_s: float = Field(12 * 3600.0, ge=60, description="life of a console session")
    agent_credential_file: Path | None = Field(
        None, description="the Mesos agents' credential, for hosts that enrol"
    )
    secure_cookie: bool = Field(False, description="set it when TLS ends in front of the gateway")
    chronos: ChronosConfig = ChronosConfig()


class ApiKey(BaseModel):
    """An API key as it is stored: only the hash of its secret."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: KeyId
    bu: str
    role: Role
    label: str = ""
    secret_hash: str
    created_at: float
    created_by: str = ""
    expires_at: float | None = None
    revoked_at: float | None = None

    @property
    def actor(self) -> str:
        """The name under which its holder acts, in releases and the audit trail."""
        return f"{self.label}#{self.id}" if self.label else f"key#{self.id}"


class ProducerKey(BaseModel):
    """A public key (PEM) that a producer of a business unit signs requests with."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    bu: str
    producer: str
    public_key: str
    created_at: float
    created_by: str = ""


class HostToken(BaseModel):
    """A one-time token as it is stored: only the hash of its secret. `used_by` is the public key that won it.

    It is for the host's key of one generation: a removal of the host voids it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    host: str
    generation: int
    secret_hash: str
    created_at: float
    created_by: str = ""
    expires_at: float
    revoked_at: float | None = None
    used_by: str = ""
    used_at: float | None = None


class Host(BaseModel):
    """A host that has enrolled, renewed its key, or was removed; each removal begins another generation of its key."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    host: str
    generation: int = 0
    enrolled_at: float | None = None
    renewed_at: float | None = None
    removed_at: float | None = None


class Tenant(BaseModel):
    """A business unit."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    bu: str
    created_at: float


class OperationState(StrEnum):
    """How far an operation has come."""

    RUNNING = "running"  # its owner has been asked, or is about to be
    DONE = "done"  # it has its answer, which a repetition gets too
    FAILED = "failed"  # it was refused or not answered: a repetition asks again


TRANSITIONS: Mapping[OperationState, frozenset[OperationState]] = {
    # A run that never ended (its gateway died) may be taken over by a repetition.
    OperationState.RUNNING: frozenset(
        {OperationState.RUNNING, OperationState.DONE, OperationState.FAILED}
    ),
    OperationState.FAILED: frozenset({OperationState.RUNNING, OperationState.DONE}),
    OperationState.DONE: frozenset(),
}


class Operation(BaseModel):
    """A change that somebody asked for: idempotency record, own record of a deployment, and outbox, in one."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: OperationId
    actor: str
    bu: str
    action: str
    target: str
    fingerprint: str
    state: OperationState
    started_at: float
    request_id: str = ""
    deployment: str | None = None  # of a deploy, scale, rollback, restart or stop
    break_glass: bool = False  # it was handed to the deployer besides
    status: int = 0
    answer: str = ""  # the JSON text of the answer's body
    headers: dict[str, str] = {}


class AuditEntry(BaseModel):
    """One line of the audit trail, from any service."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    time: float
    source: str
    bu: str
    actor: str
    action: str
    target: str
    allowed: bool
    detail: str = ""
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    request_id: str = ""


class Replay(BaseModel):
    """That a dead letter was published again: `places` of a log that was made anew are told apart by their time."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    group: str
    place: str
    topic: str
    at: float
    by: str
    times: int = 1
