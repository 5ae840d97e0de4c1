"""Pure decisions: is this key good, may it call now, is this request a repetition, who may see this event.

API keys are hashed with one round of SHA-256, not with bcrypt or the like: those slow down guessing of what people
choose, while these secrets carry 256 bits and can't be guessed at any speed; a slow hash would only tax each call.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from libs.common.actor import Actor
from libs.common.clock import short_id
from libs.common.errors import Conflict, InvalidInput, TooMany, Unauthenticated
from libs.common.events import Event
from libs.common.events import model as ev
from libs.common.http import Kind, Principal, Role
from services.gateway.model import (
    TRANSITIONS,
    ApiKey,
    Host,
    HostToken,
    KeyId,
    Operation,
    OperationState,
)

# -- API keys --------------------------------------------------------------------------------------

KEY = re.compile(r"gk_([0-9a-z]{4,20})_([0-9a-z]{52})")
FIRST_KEY = KeyId("first")
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32


def derive(secret: bytes, purpose: str) -> bytes:
    """A key of 32 bytes for one purpose, from the cluster's secret."""
    return hmac.new(secret, f"gateway/{purpose}".encode(), hashlib.sha256).digest()


def secret_of(master: bytes, key_id: str) -> str:
    """The secret part of a key (or of a host's token), 256 bits in base 32.

    Derived, not drawn: so the same request repeated gets the same key without a stored secret, and replicas that
    start together agree on the first key. Who knows `master` can sign as any service anyway.
    """
    number = int.from_bytes(hmac.new(master, key_id.encode(), hashlib.sha256).digest(), "big")
    return "".join(_ALPHABET[(number >> shift) & 31] for shift in range(255, -1, -5))


def hash_secret(secret: str) -> str:
    """What is stored of a secret; see the module's docstring."""
    return hashlib.sha256(secret.encode()).hexdigest()


def compose_key(key_id: KeyId, secret: str) -> str:
    """The key as its holder writes it."""
    return f"gk_{key_id}_{secret}"


def split_key(text: str) -> tuple[KeyId, str]:
    """Id and secret of a key. Raises Unauthenticated when it is none."""
    found = KEY.fullmatch(text)
    if found is None:
        raise Unauthenticated("that is not an API key; one looks like gk_<id>_<secret>")
    return KeyId(found[1]), found[2]


def check_key(key: ApiKey | None, secret: str, now: float) -> Principal:
    """Who holds the key. Raises Unauthenticated; for an unknown id as for a wrong secret, in the same words."""
    expected = key.secret_hash if key else hash_secret("")
    same = hmac.compare_digest(hash_secret(secret), expected)
    if key is None or not same:
        raise Unauthenticated("the API key is not known")
    return principal_of(key, now)


def principal_of(key: ApiKey, now: float) -> Principal:
    """The holder of a key whose secret is proven. Raises Unauthenticated when it is over."""
    if key.revoked_at is not None and now >= key.revoked_at:
        raise Unauthenticated(f"the API key gk_{key.id} was revoked")
    if key.expires_at is not None and now >= key.expires_at:
        raise Unauthenticated(f"the API key gk_{key.id} has expired")
    return Principal(Kind.KEY, key.actor, key.bu, key.role)


# -- hosts -----------------------------------------------------------------------------------------


def token_state(token: HostToken, generation: int, now: float) -> str:
    """open, used, revoked, void or expired; `generation` is that of the host's key today."""
    if token.used_by:
        return "used"
    if token.revoked_at is not None:
        return "revoked"
    if token.generation != generation:
        return "void"
    return "expired" if now >= token.expires_at else "open"


def why_not_enrol(
    token: HostToken | None, host: str, public_key: str, generation: int, now: float
) -> str:
    """Why a proven claim is refused, for the audit trail; "" when it is good.

    Who won the token may ask again until it ends: the answer may have been lost on its way.
    """
    if token is None:
        return "the token is not known"
    if token.host != host:
        return f"the token is for {token.host}"
    state = token_state(token, generation, now)
    if state != "used":
        return "" if state == "open" else f"the token is {state}"
    if token.used_by != public_key:
        return "the token was used by another key pair"
    again = token_state(token.model_copy(update={"used_by": ""}), generation, now)
    return "" if again == "open" else f"the token was used, and is {again} by now"


def host_state(host: Host) -> str:
    """removed, enrolled, or renewed: one whose key was made by hand has never enrolled."""
    if host.removed_at is not None:
        return "removed"
    return "enrolled" if host.enrolled_at is not None else "renewed"


# -- rate limit: a token bucket per key ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bucket:
    """`tokens` there were at `at` (seconds, monotonic)."""

    tokens: float
    at: float


def take(bucket: Bucket, now: float, rate_per_s: float, burst: float) -> Bucket:
    """The bucket with one token less. Raises TooMany with the time until there is one."""
    tokens = min(burst, bucket.tokens + max(0.0, now - bucket.at) * rate_per_s)
    if tokens < 1.0:
        raise TooMany(f"more than {rate_per_s:g} requests a second", (1.0 - tokens) / rate_per_s)
    return Bucket(tokens - 1.0, now)


# -- idempotency -----------------------------------------------------------------------------------

STALE_RUN_S = 60.0
IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,200}")


def operation_id(actor: str, idempotency_key: str) -> str:
    """The id of the operation that a key of one actor stands for. Raises InvalidInput for a malformed key."""
    if not IDEMPOTENCY_KEY.fullmatch(idempotency_key):
        raise InvalidInput.of(
            "Idempotency-Key", "is malformed", "1 to 200 visible ASCII characters, such as a UUID"
        )
    return "i-" + hashlib.sha256(f"{actor}\x1f{idempotency_key}".encode()).hexdigest()[:40]


def short_of(operation: str) -> str:
    """An id, as `Ids.short` makes them, that is an operation's own."""
    return short_id(int.from_bytes(hashlib.sha256(operation.encode()).digest()[:8]))


def fingerprint(method: str, path: str, body: bytes) -> str:
    """What makes two requests the same."""
    return hashlib.sha256(f"{method} {path}\n".encode() + body).hexdigest()


def is_repetition(known: Operation, asked: Operation) -> bool:
    """True when `known` has the answer already; False when the operation is to be begun (again).

    Raises InvalidInput when the key was used for something else, Conflict while it still runs.
    """
    if known.fingerprint != asked.fingerprint:
        raise InvalidInput.of(
            "Idempotency-Key", "was used for another request", "a fresh key for each operation"
        )
    if known.state is OperationState.DONE:
        return True
    if known.state is OperationState.RUNNING and asked.started_at - known.started_at < STALE_RUN_S:
        raise Conflict("the request with this Idempotency-Key is still being worked on")
    return False


def finish(operation: Operation, state: OperationState, **changes: Any) -> Operation:
    """The operation in its next state. Raises ValueError for a transition that is not in the table."""
    if state not in TRANSITIONS[operation.state]:
        raise ValueError(f"{operation.state} → {state}")
    return operation.model_copy(update={"state": state, **changes})


# -- which events a business unit sees -------------------------------------------------------------


def bu_of(event: Event) -> str:
    """The business unit an event belongs to; "" for those of the cluster (hosts, addresses, images)."""
    if isinstance(event, ev.AlertRaised | ev.AlertResolved):
        return bu_of_labels(event.labels)
    if isinstance(event, ev.AuditRecorded):
        return bu_of_target(event.target)
    return bu_of_target(str(getattr(event, "app", "") or getattr(event, "job", "")))


def bu_of_labels(labels: Mapping[str, str]) -> str:
    """The business unit that an alert is about, by what it names; "" for one about the cluster."""
    return bu_of_target(labels.get("app") or labels.get("job") or "")


def may_see(actor: Actor, event: Event) -> bool:
    """Tenants see their own business unit's events only; the audit trail is for admins."""
    if isinstance(event, ev.AuditRecorded) and actor.role is not Role.ADMIN:
        return False
    return actor.sees(bu_of(event))


def bu_of_target(target: str) -> str:
    """The business unit of an id such as `bu/app`; "" for things of the cluster."""
    bu, found, _ = target.partition("/")
    return bu if found else ""


def about(event: Event, subject: str) -> bool:
    """Is the event about `subject`: its own subject, or the app it belongs to."""
    return subject in ("", event.subject(), getattr(event, "app", None))


def choose_topics(patterns: str, known: Iterable[str]) -> tuple[str, ...]:
    """The topics that a comma-separated list names; `deploy.*` takes all that begin so, "" takes all.

    Raises InvalidInput for one that doesn't exist.
    """
    ordered = sorted(known)
    if not patterns:
        return tuple(ordered)
    chosen: dict[str, None] = {}
    for pattern in patterns.split(","):
        stem = pattern.strip().removesuffix("*")
        found = [
            topic
            for topic in ordered
            if topic == stem or (pattern.strip().endswith("*") and topic.startswith(stem))
        ]
        if not found:
            raise InvalidInput.of(
                "topics", f"there is no topic {pattern.strip()!r}", f"one of {', '.join(ordered)}"
            )
        chosen.update(dict.fromkeys(found))
    return tuple(chosen)


# -- composing answers of peers --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Part:
    """What one peer answered: its content, or None when it is away."""

    service: str
    content: Any = None
    away: bool = False

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of a list answer, `[…]` or `{name: […]}`; none when the peer is away."""
        content = self.content.get(name, ()) if isinstance(self.content, dict) else self.content
        return [dict(row) for row in content or () if isinstance(row, dict)]


def incomplete(*parts: Part) -> tuple[str, ...]:
    """The services that are missing in a composed answer."""
    return tuple(part.service for part in parts if part.away)
