"""Who knocks: API keys with a short cache and a rate limit, console sessions, and the cluster's own services."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

import orjson

from libs.common.clock import Clock
from libs.common.errors import Unauthenticated
from libs.common.http import ANONYMOUS, Authenticator, Principal
from libs.common.keys import DerivedKeys, Macs, Secret
from services.gateway.core import (
    Bucket,
    check_key,
    derive,
    principal_of,
    split_key,
    take,
)
from services.gateway.model import ApiKey, GatewayConfig, KeyId
from services.gateway.store import Repository

CACHE_S = 5.0  # a key revoked at another replica is refused here after this long
CACHE_LIMIT = 10_000


class Gate:
    """Tells who holds a credential. One a process; it remembers keys for CACHE_S, and rates for ever."""

    def __init__(
        self, repository: Repository, verify: Authenticator, config: GatewayConfig, clock: Clock
    ) -> None:
        self._repository = repository
        self._verify = verify
        self._config = config
        self._clock = clock
        self._keys: dict[KeyId, tuple[float, ApiKey | None]] = {}
        self._buckets: dict[str, Bucket] = {}

    async def __call__(self, headers: Mapping[str, str], query: Mapping[str, str]) -> Principal:
        """An `Authenticator`: API keys; and tokens, for what is no part of the public API.

        Raises Unauthenticated, TooMany.
        """
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and not token.strip().startswith("gk_"):
            return await self._verify(headers, query)
        if not token:
            return ANONYMOUS
        if scheme.lower() != "bearer":
            raise Unauthenticated("the Authorization scheme must be Bearer")
        return await self.holder(token.strip())

    async def holder(self, token: str) -> Principal:
        """Who holds the API key, counted against its rate. Raises Unauthenticated, TooMany."""
        key_id, secret = split_key(token)
        principal = check_key(await self._key(key_id), secret, self._clock.now())
        self.count(key_id)
        return principal

    async def holder_by_id(self, key_id: KeyId) -> Principal:
        """The holder of a key proven before (a session or an open stream). Raises Unauthenticated."""
        key = await self._key(key_id)
        if key is None:
            raise Unauthenticated("the API key is not known")
        return principal_of(key, self._clock.now())

    def count(self, name: str, rate_per_s: float = 0.0, burst: float = 0.0) -> None:
        """Count a call of `name` against its rate; by default that of an API key. Raises TooMany."""
        now = self._clock.monotonic()
        burst = burst or self._config.rate_burst
        bucket = self._buckets.pop(name, Bucket(burst, now))
        if len(self._buckets) >= CACHE_LIMIT:
            del self._buckets[next(iter(self._buckets))]  # the one used longest ago
        self._buckets[name] = bucket
        self._buckets[name] = take(bucket, now, rate_per_s or self._config.rate_per_s, burst)

    def forget(self, key_id: KeyId) -> None:
        """Have the key read again at its next use."""
        self._keys.pop(key_id, None)

    async def _key(self, key_id: KeyId) -> ApiKey | None:
        now = self._clock.monotonic()
        known = self._keys.get(key_id)
        if known is not None and now - known[0] < CACHE_S:
            return known[1]
        key = await self._repository.key(key_id)
        if len(self._keys) >= CACHE_LIMIT:
            self._keys.clear()
        self._keys[key_id] = (now, key)
        return key


class Sessions:
    """Signed console sessions: the cookie names a key and an end; whether the key is still good is asked each time."""

    def __init__(self, secret: Secret, gate: Gate, clock: Clock, life_s: float) -> None:
        self._macs = Macs(DerivedKeys(secret, lambda each: derive(each, "console-session")))
        self._gate = gate
        self._clock = clock
        self.life_s = life_s

    async def open(self, api_key: str) -> str:
        """The session cookie for the holder of `api_key`. Raises Unauthenticated, TooMany."""
        await self._gate.holder(api_key)
        key_id, _ = split_key(api_key)
        claims = orjson.dumps([key_id, int(self._clock.now() + self.life_s)])
        body = base64.urlsafe_b64encode(claims).decode()
        return f"{body}.{self._macs.prove(body)}"

    async def holder(self, cookie: str) -> tuple[KeyId, Principal]:
        """Whose session it is. Raises Unauthenticated when it is forged or over, or its key no longer good."""
        body, _, mac = cookie.partition(".")
        if not self._macs.proves(body, mac):
            raise Unauthenticated("the session is not valid")
        try:
            key_id, until = orjson.loads(base64.urlsafe_b64decode(body))
        except (binascii.Error, ValueError):
            raise Unauthenticated("the session is not valid") from None
        if self._clock.now() >= until:
            raise Unauthenticated("the session is over")
        self._gate.count(f"session:{key_id}")
        return key_id, await self._gate.holder_by_id(KeyId(key_id))

    def form_token(self, cookie: str) -> str:
        """What a form of this session carries to prove that our page sent it."""
        return self._macs.prove(f"form:{cookie}")

    def is_form_token(self, cookie: str, token: str) -> bool:
        """Did a page of this session send the form?"""
        return self._macs.proves(f"form:{cookie}", token)


def key_id_of(principal: Principal) -> KeyId:
    """The id of the key that a principal holds."""
    return KeyId(principal.name.rpartition("#")[2])
