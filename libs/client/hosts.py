"""The words of the public API about hosts: one-time tokens, enrolment, renewal, removal."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated

from pydantic import Field, StringConstraints

from libs.client.model import View
from libs.common.spec import Strict

HOST_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$"
TOKEN = re.compile(r"ht_([0-9a-z]{4,20})_([0-9a-z]{52})")
MAX_TTL_S = 7 * 86_400.0
_BASE64URL = r"[A-Za-z0-9_-]"

HostName = Annotated[str, StringConstraints(pattern=HOST_PATTERN)]
PublicKey = Annotated[str, StringConstraints(pattern=rf"^{_BASE64URL}{{43}}$")]
"""32 bytes of an X25519 key, base64url without padding."""
Proof = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def encode(content: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """What `encode` made text of. Raises ValueError."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


# -- what is asked ---------------------------------------------------------------------------------


class NewHostToken(Strict):
    """The body of `POST /v1/hosts/tokens`."""

    host: HostName = Field(description="the host it is for, as in its `hostd.host`")
    ttl_s: float = Field(3600.0, ge=60, le=MAX_TTL_S, description="how long it is good for")


class Enrol(Strict):
    """The body of `POST /v1/hosts/enrol`: a claim as libs/common/claims.py makes it, without the token's secret."""

    token: str = Field(pattern=r"^[0-9a-z]{4,20}$", description="the token's id")
    host: HostName
    public_key: PublicKey = Field(description="what the answer is sealed to")
    proof: Proof


class Renew(Strict):
    """The body of `POST /v1/hosts/renew`: the same, proven with each of the host's keys."""

    host: HostName
    at: int = Field(ge=0, le=10**11, description="now, Unix seconds")
    public_key: PublicKey = Field(description="what the answer is sealed to")
    proofs: tuple[Proof, ...] = Field(min_length=1, max_length=4)


# -- what is answered ------------------------------------------------------------------------------


class HostTokenView(View):
    """A one-time token, without its secret."""

    id: str
    host: str
    state: str = Field(description="open, used, expired, revoked or void (the host was removed)")
    created_at: float
    created_by: str = ""
    expires_at: float
    used_at: float | None = None
    revoked_at: float | None = None


class HostTokenCreated(HostTokenView):
    """A new token. `token` is shown here only; the gateway keeps a hash of it."""

    token: str


class HostView(View):
    """A host that enrolled, renewed its key, or was removed."""

    host: str
    state: str = Field(description="enrolled, renewed or removed")
    generation: int = Field(description="of its key; grows with each removal")
    enrolled_at: float | None = None
    renewed_at: float | None = None
    removed_at: float | None = None


class Hosts(View):
    """Hosts by name, and the tokens made for them, newest first."""

    hosts: tuple[HostView, ...]
    tokens: tuple[HostTokenView, ...]


class SealedSecrets(View):
    """Secrets for one host, which it alone can open; they hold `HostSecrets`."""

    host: str
    public_key: str = Field(description="the gateway's, for this answer")
    box: str


class AgentCredential(View):
    """With which a Mesos agent registers."""

    principal: str
    secret: str = Field(repr=False)


class HostSecrets(View):
    """What a host is given: its keys, the newest first, in hex; and the Mesos agents' credential, if there is one."""

    host_keys: tuple[str, ...] = Field(repr=False)
    generation: int = 0
    agent_credential: AgentCredential | None = Field(None, repr=False)
