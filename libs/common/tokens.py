"""Signed, short-lived tokens on every call between services and hosts.

A token is a compact JWS (HS256, joserfc) with iss, sub, iat and exp. Every party signs with a key of its own,
derived from the cluster's secret by HMAC-SHA256 over `kind:name`; so a host that is broken into can sign as
that host only. Verifying takes the cluster's secret, which control-plane services have and hosts don't.

Who scrapes metrics can't sign each call: it has one token that is good until a date, of the kind `scraper`, signed
with a key of the cluster's secret (good at every service) or of a host's own key (good at that host's hostd).

While a secret is being replaced (libs/common/keys.py) a party has several keys, and the peer may not know the newest
yet: a call then carries a token under each, the newest in Authorization, the others in `x-gantry-tokens`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping, Sequence

from joserfc import jws, jwt
from joserfc.errors import BadSignatureError, JoseError
from joserfc.jwk import OctKey

from libs.common.clock import Clock
from libs.common.errors import Unauthenticated
from libs.common.generations import Generations
from libs.common.http import ANONYMOUS, Kind, Principal, Role
from libs.common.keys import MAX_SECRETS, DerivedKeys, Secret, keys_of

LIFETIME_S = 60.0
LEEWAY_S = 30.0
MORE_TOKENS = "x-gantry-tokens"
_CACHE_LIMIT = 4096


def derive_key(cluster_secret: bytes, kind: Kind, name: str, generation: int = 0) -> bytes:
    """The signing key of one party, 32 bytes. A host that was removed gets the next generation when it comes back."""
    # No kind has a slash in it, so no name can pass for another's generation.
    of = f"{kind}/{generation}" if generation else f"{kind}"
    return hmac.new(cluster_secret, f"{of}:{name}".encode(), hashlib.sha256).digest()


def scraper_token(secret: bytes, name: str, now: float, until: float) -> str:
    """A token that reads metrics until a time (Unix seconds); `secret` is the cluster's or a host's own key."""
    who = f"{Kind.SCRAPER}:{name}"
    claims = {"iss": "gantry", "sub": who, "iat": int(now), "exp": int(until)}
    key = OctKey.import_key(derive_key(secret, Kind.SCRAPER, name))
    return jwt.encode({"alg": "HS256", "kid": who}, claims, key)


def scraper_of(token: str, secrets: Iterable[bytes]) -> tuple[Principal, float]:
    """Who scrapes with a token that one of the secrets made, and until when. Raises Unauthenticated."""
    return _check(token, tuple(secrets), {}, frozenset({Kind.SCRAPER}))


def party_keys(secret: Secret, kind: Kind, name: str, generation: int = 0) -> DerivedKeys:
    """The signing keys of one party, one a secret of the cluster."""
    return DerivedKeys(secret, lambda each: derive_key(each, kind, name, generation))


class TokenSigner:
    """Makes the tokens of one party; a token is used again for half its life."""

    def __init__(self, kind: Kind, name: str, key: Secret, clock: Clock) -> None:
        self._header = {"alg": "HS256", "kid": f"{kind}:{name}"}
        self._claims = {"iss": "gantry", "sub": f"{kind}:{name}"}
        self._keys = keys_of(key)
        self._clock = clock
        self._signed_with: tuple[bytes, ...] = ()
        self._tokens: tuple[str, ...] = ()
        self._renew_at = 0.0

    def token(self) -> str:
        """A token under the newest key that is good for at least half of LIFETIME_S."""
        return self._all()[0]

    def headers(self) -> dict[str, str]:
        """The Authorization header, and one more while there are several keys."""
        newest, *others = self._all()
        headers = {"authorization": f"Bearer {newest}"}
        return {**headers, MORE_TOKENS: " ".join(others)} if others else headers

    def _all(self) -> tuple[str, ...]:
        now = self._clock.now()
        keys = self._keys.current()
        fresh = self._renew_at - LIFETIME_S / 2 <= now < self._renew_at
        if not fresh or keys is not self._signed_with:
            claims = {**self._claims, "iat": int(now), "exp": int(now + LIFETIME_S)}
            self._tokens = tuple(
                jwt.encode(self._header, claims, OctKey.import_key(each)) for each in keys
            )
            self._signed_with = keys
            self._renew_at = now + LIFETIME_S / 2
        return self._tokens


def tokens_in(headers: Mapping[str, str]) -> list[str]:
    """The tokens that a call carries, the newest first. Raises Unauthenticated for another scheme."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if not token:
        return []
    if scheme.lower() != "bearer":
        raise Unauthenticated("the Authorization scheme must be Bearer")
    return [token.strip(), *headers.get(MORE_TOKENS, "").split()][:MAX_SECRETS]


def first_good(tokens: Sequence[str], verify: Callable[[str], Principal]) -> Principal:
    """The signer of the first token that is right; ANONYMOUS without any. Raises Unauthenticated, as the first does."""
    refused: Unauthenticated | None = None
    for token in tokens:
        try:
            return verify(token)
        except Unauthenticated as error:
            refused = refused or error
    if refused is not None:
        raise refused
    return ANONYMOUS


def claims_of(token: str, keys: Iterable[bytes]) -> Mapping[str, object]:
    """What the token says, kid included, if one of the keys signed it. Raises JoseError, ValueError."""
    refused: JoseError | None = None
    for key in keys:
        try:
            decoded = jwt.decode(token, OctKey.import_key(key), algorithms=["HS256"])
        except BadSignatureError as error:
            refused = error
            continue
        return {**decoded.claims, "kid": decoded.header.get("kid")}
    raise refused or ValueError("no keys")


class TokenVerifier:
    """An `Authenticator` for the routes of services: tells which service or host signed, or who scrapes."""

    def __init__(
        self, cluster_secret: Secret, clock: Clock, generations: Generations | None = None
    ) -> None:
        self._secrets = keys_of(cluster_secret)
        self._clock = clock
        self._generations = generations or Generations()
        self._known: dict[str, tuple[Principal, float]] = {}
        self._known_by: tuple[tuple[bytes, ...], Mapping[str, int]] = ((), {})

    async def __call__(self, headers: Mapping[str, str], query: Mapping[str, str]) -> Principal:
        """The signer. Raises Unauthenticated when the token is wrong or too old."""
        return first_good(tokens_in(headers), self.verify)

    def verify(self, token: str) -> Principal:
        """The signer of `token`. Raises Unauthenticated."""
        now = self._clock.now()
        secrets, generations = self._secrets.current(), self._generations.current()
        by_secrets, by_generations = self._known_by
        # What an older secret, or a key of a host since removed, has proven must not outlive it.
        same = secrets is by_secrets and generations is by_generations
        if not same or len(self._known) >= _CACHE_LIMIT:
            self._known.clear()
            self._known_by = secrets, generations
        principal, expires = self._known.get(token) or _check(token, secrets, generations)
        if now > expires + LEEWAY_S:
            raise Unauthenticated("the token has expired")
        self._known[token] = (principal, expires)
        return principal


_SIGNERS = frozenset({Kind.SERVICE, Kind.HOST, Kind.SCRAPER})


def _check(
    token: str,
    secrets: tuple[bytes, ...],
    generations: Mapping[str, int],
    kinds: frozenset[Kind] = _SIGNERS,
) -> tuple[Principal, float]:
    try:
        header = jws.extract_compact(token.encode()).headers()
        word, _, name = str(header.get("kid", "")).partition(":")
        kind = Kind(word)
        if kind not in kinds:
            raise ValueError(kind)
        generation = generations.get(name, 0) if kind is Kind.HOST else 0
        keys = (derive_key(each, kind, name, generation) for each in secrets)
        claims = claims_of(token, keys)
        subject, expires = str(claims["sub"]), float(str(claims["exp"]))
    except (JoseError, ValueError, KeyError, TypeError):
        raise Unauthenticated("the token is not valid") from None
    if subject != claims["kid"]:
        raise Unauthenticated("the token was signed by somebody else")
    if kind is Kind.SCRAPER:
        return Principal(kind, name), expires
    return Principal(kind, name, "*", Role.ADMIN), expires
